"""Tables from records: numbers for machines, formatted cells for readers. Nothing here computes a result."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from freelib.methods import get_method
from freelib.storage import write_atomically

UNKNOWN, ABSENT = "not known to us", "not in the paper"
WALL = "†"
"""Marks seconds by the wall's clock where others are the processor's."""
AT_MOST = "≤: at most, as the processor time of the looks at the validation classes is not known apart"
DATASET_TITLES = {
    "glyphs": "glyphs",
    "cifar-fs": "CIFAR-FS",
    "mini-imagenet": "mini-ImageNet",
    "cub": "CUB",
    "cifar-fs+mini-imagenet+cub": "mean of the three",
    "glyphs-latin": "Latin",
    "glyphs-greek-cyrillic": "Greek, Cyrillic",
    "glyphs-signs": "signs",
    "glyphs-latin+glyphs-greek-cyrillic+glyphs-signs": "mean of the three",
}


@dataclass(frozen=True, repr=False)
class Table:
    """A table in two forms: `rows` with plain numbers (the CSV file), `cells` with text (what is shown).

    Cells between two asterisks on each side are bold: **best**.
    """

    caption: str
    rows: pd.DataFrame
    cells: pd.DataFrame
    note: str = ""

    def markdown(self) -> str:
        """The caption, the cells as a Markdown table with their bars escaped, the note."""
        lines = [list(self.cells.columns), ["---"] * len(self.cells.columns), *self.cells.values.tolist()]
        escaped = ([str(cell).replace("|", "\\|") for cell in line] for line in lines)
        table = "".join(f"| {' | '.join(line)} |\n" for line in escaped)
        return f"{self.caption}\n\n{table}" + (f"\n{self.note}\n" if self.note else "")

    def html(self) -> str:
        """The cells as an HTML table, the note below it."""

        def cell(text: object, tag: str) -> str:
            text = html.escape(str(text))
            if text.startswith("**") and text.endswith("**"):
                text = f"<b>{text[2:-2]}</b>"
            return f"<{tag}>{text}</{tag}>"

        head = "".join(cell(name, "th") for name in self.cells.columns)
        body = "".join(
            "<tr>" + "".join(cell(value, "td") for value in line) + "</tr>\n"
            for line in self.cells.values.tolist()
        )
        caption = f"<caption>{html.escape(self.caption)}</caption>"
        note = f"\n<p>{html.escape(self.note)}</p>" if self.note else ""
        return f"<table>{caption}<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>{note}"

    _repr_html_ = html
    __repr__ = markdown

    def save(self, folder: str | Path, name: str) -> None:
        """Write `<name>.csv` and `<name>.md`."""
        folder = Path(folder)
        text = self.rows.to_csv(index=False, float_format="%.6g", lineterminator="\n")
        write_atomically(folder / f"{name}.csv", text.encode())
        write_atomically(folder / f"{name}.md", self.markdown().encode())


def plus_minus(value: float, half_width: float, digits: int = 1) -> str:
    """`31.2 ± 0.8`; an empty string for NaN."""
    return "" if pd.isna(value) else f"{value:.{digits}f} ± {half_width:.{digits}f}"


def signed(value: float, half_width: float, digits: int = 1) -> str:
    """`+1.2 ± 0.8`, `+1.2` without an interval (NaN); an empty string for NaN."""
    value = round(value, digits) + 0.0  # no "−0.0"
    interval = "" if pd.isna(half_width) else f" ± {half_width:.{digits}f}"
    return "" if pd.isna(value) else f"{value:+.{digits}f}{interval}".replace("-", "−")


def seconds_cell(seconds: float, by_processor: bool, at_most: bool) -> str:
    """`123`, `123†` by the wall's clock, or `≤ 123`, see `accuracy_rows`; an empty string for NaN."""
    mark = "" if by_processor or seconds < 0.5 else WALL
    return "" if pd.isna(seconds) else f"{'≤ ' if at_most else ''}{seconds:.0f}{mark}"


def seconds_notes(cells: Iterable[str]) -> list[str]:
    """What the marks mean that some of these `seconds_cell`s have."""
    wall = f"{WALL}: by the wall's clock, where a run's processor time is not known"
    return [f"{text}." for text in (wall, AT_MOST) if any(text[0] in cell for cell in cells)]


def accuracy_table(rows: pd.DataFrame, caption: str, *, note: str = "", reference: str = "FREE") -> Table:
    """The rows of `accuracy_rows` for readers; the best of each data set and shots is bold, oracles aside.

    Where nothing in a method is drawn by chance, its number of seeds is a dash. Rows of unlike numbers of
    episodes say how many.
    """
    best = rows[~rows["oracle"]].groupby(["dataset", "n_shot"])["accuracy"].idxmax().tolist()
    counts = sorted(set(rows["n_episodes"]))
    cells = pd.DataFrame(
        {
            "data set": [DATASET_TITLES.get(name, name) for name in rows["dataset"]],
            "shots": rows["n_shot"].tolist(),
            "method": list(map(named, rows["title"], rows["oracle"])),
            "accuracy, %": [
                f"**{text}**" if index in best else text
                for index, text in zip(
                    rows.index, map(plus_minus, rows["accuracy"], rows["ci95"]), strict=True
                )
            ],
            "episodes": rows["n_episodes"].tolist(),
            "seeds": [
                n if by_chance(name) else "–" for name, n in zip(rows["method"], rows["n_seeds"], strict=True)
            ],
            "spread over seeds": ["" if pd.isna(value) else f"{value:.1f}" for value in rows["seed_spread"]],
            f"minus {reference}, same episodes": list(
                map(signed, rows["difference"], rows["difference_ci95"])
            ),
            "training, s": list(map(seconds_cell, rows["seconds"], rows["by_processor"], rows["at_most"])),
            "passes": ["" if pd.isna(value) else f"{value:.0f}" for value in rows["passes"]],
            "models at test": ["" if pd.isna(value) else f"{value:.0f}" for value in rows["models"]],
            "reported, %": list(map(_paper_cell, rows["dataset"], rows["paper"])),
        }
    )
    if len(counts) == 1:
        del cells["episodes"]
    notes = [note, "Differences are over the same episodes and the seeds that both have."]
    if rows["seed_spread"].notna().any():
        notes.append("Spread over seeds: the standard deviation of the seeds' accuracies, in points.")
    if "–" in set(cells["seeds"]):
        notes.append("Seeds –: nothing is drawn by chance.")
    words = " ".join(filter(None, [*notes, *seconds_notes(cells["training, s"])]))
    over = f"{counts[0]} episodes" if len(counts) == 1 else "the row's episodes"
    return Table(f"{caption} Mean ± 95 % interval over {over}.", rows, cells, words)


def named(title: str, oracle: bool) -> str:
    """A method's title, marked where it sees the real images."""
    return f"{title} (sees the real images)" if oracle else title


def by_chance(row: str) -> bool:
    """Whether something is drawn by chance in the method of a row, `free (some words)`."""
    return get_method(row.partition(" (")[0]).uses_seed


def _paper_cell(dataset: str, value: float) -> str:
    if math.isnan(value):
        return ABSENT if dataset.startswith("glyphs") else UNKNOWN  # glyphs is ours
    return f"{value:.2f}"

"""Tables from records: numbers for machines, formatted cells for readers. Nothing here computes a result."""

from __future__ import annotations

import csv
import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from freelib.evaluation import mean_and_interval, mean_over_seeds, paired_difference
from freelib.methods import get_method
from freelib.records import Record, has_processor_time, training_seconds
from freelib.storage import write_atomically

UNKNOWN, ABSENT = "not known to us", "not in the paper"
WALL = "†"
"""Marks seconds by the wall's clock where others are the processor's."""
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
REFERENCE = Path(__file__).with_name("reference.csv")


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
        """The caption, the cells as a Markdown table, the note."""
        lines = [list(self.cells.columns), ["---"] * len(self.cells.columns), *self.cells.values.tolist()]
        table = "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
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


def reference_values(table: str) -> dict[tuple[str, str, int], tuple[float, str]]:
    """What others report: (data set, method, shots) -> (accuracy in percent, source), from `reference.csv`.

    A reader who holds the paper fills its empty cells in there; they then show up everywhere.
    """
    with REFERENCE.open(encoding="utf-8", newline="") as file:
        return {
            (line["dataset"], line["method"], int(line["n_shot"])): (float(line["value"]), line["source"])
            for line in csv.DictReader(file)
            if line["table"] == table and line["value"].strip()
        }


def episode_means(records: Sequence[Record]) -> Tensor:
    """Accuracy of each episode in percent, averaged over the records (the seeds): `(n_episodes,)` float64.

    Raises ValueError where the records were not tested on the same episodes.
    """
    tested_on = {
        (r["dataset"], r["data_digest"], r["n_shot"], r["n_episodes"], r["evaluation"]["seed"])
        for r in records
    }
    if len(tested_on) != 1:
        raise ValueError(
            f"records of {len(tested_on)} different sets of episodes can't be averaged: {tested_on}"
        )
    return torch.tensor([record["episode_accuracies"] for record in records], dtype=torch.float64).mean(0)


def accuracy_rows(
    records: Iterable[Record],
    *,
    table: str,
    reference: str = "free",
    variant: Callable[[Record], str] = lambda record: "",
) -> pd.DataFrame:
    """One row for each data set, number of shots, method and variant of it, in the records' order.

    variant: a few words for a record whose method appears with several configurations, else an empty string
    accuracy, ci95: mean over episodes (averaged over seeds first) in percent, and its 95 % interval's
    half-width
    seed_spread: standard deviation of the seeds' accuracies, NaN for one seed; n_seeds
    difference, difference_ci95: to the reference method on the same episodes, paired, over the seeds that
    both have (all, where one of them draws nothing by chance); NaN for the method itself
    seed_difference, seed_difference_ci95: mean of the differences seed by seed, with its interval over seeds;
    NaN where they have no two seeds in common
    last: accuracy of the last round instead of the selected one
    seconds: of meta-training, see `training_seconds`, median over seeds (a crowded machine makes single ones
      long); by_processor: whether it is processor time, which all of the row's records have
    passes: of images through a model and back, mean over seeds
    models: networks that answer at test time, NaN where the record does not say how many the pool has
    paper, source: the value that others report, NaN where we do not know it

    Raises ValueError where two records are of one method, data set, number of shots and seed.
    """
    groups: dict[tuple[str, int, str, str], dict[int, Record]] = {}
    for record in records:
        key = (record["dataset"], record["n_shot"], record["method"], variant(record))
        if record["seed"] in groups.setdefault(key, {}):
            raise ValueError(
                f"two records of {key} with seed {record['seed']}: a table shows one configuration each"
            )
        groups[key][record["seed"]] = record
    known = reference_values(table)
    rows = []
    for (dataset, n_shot, name, words), by_seed in groups.items():
        seeds, method = list(by_seed.values()), get_method(name)
        by_processor = has_processor_time(seeds)
        episodes = episode_means(seeds)
        strata = dataset.count("+") + 1
        _, ci95 = mean_and_interval(episodes, strata=strata)
        accuracy = pd.Series([record["accuracy"] for record in seeds])
        difference = by_seed_difference = (float("nan"), float("nan"))
        other = groups.get((dataset, n_shot, reference, ""))
        if other is not None and other is not by_seed:
            pair = _of_common_seeds(by_seed, other)
            difference = paired_difference(*map(episode_means, pair), strata=strata)
            by_seed_difference = _over_seeds(*pair)
        paper, source = (
            known.get((dataset, name, n_shot), (float("nan"), "")) if not words else (float("nan"), "")
        )
        rows.append(
            {
                "dataset": dataset,
                "n_shot": n_shot,
                "method": f"{name} ({words})" if words else name,
                "title": f"{method.title}, {words}" if words else method.title,
                "oracle": method.oracle,
                "needs": method.needs,
                "accuracy": accuracy.mean(),
                "ci95": ci95,
                "seed_spread": accuracy.std(),
                "n_seeds": len(seeds),
                "n_episodes": seeds[0]["n_episodes"],
                "difference": difference[0],
                "difference_ci95": difference[1],
                "seed_difference": by_seed_difference[0],
                "seed_difference_ci95": by_seed_difference[1],
                "last": _mean(record["accuracy_last"] for record in seeds),
                "seconds": _median(training_seconds(r, by_processor=by_processor) for r in seeds),
                "by_processor": by_processor,
                "passes": _mean(record["passes"] for record in seeds),
                "models": method.models_at_test or _pool_size(seeds[0]),
                "paper": paper,
                "source": source,
            }
        )
    return pd.DataFrame(rows)


def _of_common_seeds(*groups: Mapping[int, Record]) -> list[list[Record]]:
    """Each group's records of the seeds that all have; all records where chance has no part in a group."""
    by_chance = all(get_method(record["method"]).uses_seed for group in groups for record in group.values())
    common = set.intersection(*map(set, groups)) if by_chance else set()
    return [[r for seed, r in group.items() if not common or seed in common] for group in groups]


def _over_seeds(own: Sequence[Record], other: Sequence[Record]) -> tuple[float, float]:
    """The accuracies' differences seed by seed: mean and interval; NaN without two seeds in common."""
    seeds = [[record["seed"] for record in group] for group in (own, other)]
    if len(own) < 2 or sorted(seeds[0]) != sorted(seeds[1]):
        return math.nan, math.nan
    theirs = {record["seed"]: record["accuracy"] for record in other}
    gaps = [record["accuracy"] - theirs[record["seed"]] for record in own]
    return mean_over_seeds(torch.tensor(gaps, dtype=torch.float64))


def _pool_size(record: Record) -> float:
    pool = record["pool"] or {}
    parts = pool.get("parts", [pool])
    return sum(part.get("take") or part.get("config", {}).get("n_models", math.nan) for part in parts)


def _mean(values: Iterable[float | None]) -> float:
    return pd.Series(list(values), dtype="float64").mean()


def _median(values: Iterable[float | None]) -> float:
    return pd.Series(list(values), dtype="float64").median()


def plus_minus(value: float, half_width: float, digits: int = 1) -> str:
    """`31.2 ± 0.8`; an empty string for NaN."""
    return "" if pd.isna(value) else f"{value:.{digits}f} ± {half_width:.{digits}f}"


def signed(value: float, half_width: float, digits: int = 1) -> str:
    """`+1.2 ± 0.8`; an empty string for NaN."""
    value = round(value, digits) + 0.0  # no "−0.0"
    return "" if pd.isna(value) else f"{value:+.{digits}f} ± {half_width:.{digits}f}".replace("-", "−")


def accuracy_table(rows: pd.DataFrame, caption: str, *, note: str = "", reference: str = "FREE") -> Table:
    """The rows of `accuracy_rows` for readers; the best of each data set and shots is bold, oracles aside.

    Where nothing in a method is drawn by chance, its number of seeds is a dash.
    """
    best = rows[~rows["oracle"]].groupby(["dataset", "n_shot"])["accuracy"].idxmax().tolist()
    n_episodes = "/".join(str(n) for n in sorted(set(rows["n_episodes"])))
    cells = pd.DataFrame(
        {
            "data set": [DATASET_TITLES.get(name, name) for name in rows["dataset"]],
            "shots": rows["n_shot"].tolist(),
            "method": [
                title + (" (oracle)" if oracle else "")
                for title, oracle in zip(rows["title"], rows["oracle"], strict=True)
            ],
            "accuracy, %": [
                f"**{text}**" if index in best else text
                for index, text in zip(
                    rows.index, map(plus_minus, rows["accuracy"], rows["ci95"]), strict=True
                )
            ],
            "seeds": [
                n if by_chance(name) else "–" for name, n in zip(rows["method"], rows["n_seeds"], strict=True)
            ],
            "spread over seeds": ["" if pd.isna(value) else f"{value:.1f}" for value in rows["seed_spread"]],
            f"minus {reference}, same episodes": list(
                map(signed, rows["difference"], rows["difference_ci95"])
            ),
            "training, s": [
                "" if pd.isna(value) else f"{value:.0f}{'' if by_processor or value < 0.5 else WALL}"
                for value, by_processor in zip(rows["seconds"], rows["by_processor"], strict=True)
            ],
            "passes": ["" if pd.isna(value) else f"{value:.0f}" for value in rows["passes"]],
            "models at test": ["" if pd.isna(value) else f"{value:.0f}" for value in rows["models"]],
            "paper, %": list(map(_paper_cell, rows["dataset"], rows["paper"])),
        }
    )
    notes = [note, "Differences are over the same episodes and the seeds that both have."]
    if "–" in set(cells["seeds"]):
        notes.append("Seeds –: nothing is drawn by chance.")
    if cells["training, s"].str.endswith(WALL).any():
        notes.append(f"{WALL}: by the wall's clock, where a run's processor time is not known.")
    words = " ".join(filter(None, notes))
    return Table(f"{caption} Mean ± 95 % interval over {n_episodes} episodes.", rows, cells, words)


def by_chance(row: str) -> bool:
    """Whether something is drawn by chance in the method of a row, `free (some words)`."""
    return get_method(row.partition(" (")[0]).uses_seed


def _paper_cell(dataset: str, value: float) -> str:
    if math.isnan(value):
        return ABSENT if dataset.startswith("glyphs") else UNKNOWN  # glyphs is ours
    return f"{value:.2f}"

"""Tables for readers: numbers as text, in Markdown, saved beside the plain numbers. Nothing here computes."""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd

from freelib.storage import write_atomically

Values = Iterable[float]


@dataclass(frozen=True)
class Table:
    """A data frame of text or numbers, shown as a Markdown table in a notebook."""

    cells: pd.DataFrame

    def _repr_markdown_(self) -> str:
        text = self.cells.map(lambda cell: escape(" ".join(str(cell).split("\n")), quote=False).replace("|", "\\|"))
        return text.to_markdown(index=False, disable_numparse=True)

    def __repr__(self) -> str:
        return self.cells.to_string(index=False)


def save_table(
    cells: pd.DataFrame, results: str | Path, profile: str, name: str, *, rows: pd.DataFrame | None = None
) -> Table:
    """Writes `<results>/<profile>/tables/<name>.md`, the table, and `.csv`, the plain numbers; gives the
    table.

    cells: what readers see. rows: the numbers behind it, the cells themselves if None.
    """
    folder, table = Path(results) / profile / "tables", Table(cells)
    numbers = (cells if rows is None else rows).to_csv(index=False, float_format="%.6g", lineterminator="\n")
    write_atomically(folder / f"{name}.csv", numbers.encode())
    write_atomically(folder / f"{name}.md", (table._repr_markdown_() + "\n").encode())
    return table


def plus_minus(values: Values, half_widths: Values, digits: int = 1) -> list[str]:
    """`31.2 ± 0.8` for each value; `31.2` without an interval, an empty string without a value."""
    pairs = zip(values, half_widths, strict=True)
    return ["" if pd.isna(v) else f"{v:.{digits}f}" + _interval(w, digits) for v, w in pairs]


def signed(values: Values, half_widths: Values, digits: int = 1) -> list[str]:
    """`+1.2 ± 0.8` for each difference, as `plus_minus`; a true minus sign, and no −0.0."""
    found = []
    for value, width in zip(values, half_widths, strict=True):
        number = f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "−")
        found.append("" if pd.isna(value) else number + _interval(width, digits))
    return found


def rounded(values: Values, digits: int = 0) -> list[str]:
    """Each value with so many digits; an empty string where there is none."""
    return ["" if pd.isna(value) else f"{value:.{digits}f}" for value in values]


def _interval(half_width: float, digits: int) -> str:
    return "" if pd.isna(half_width) else f" ± {half_width:.{digits}f}"

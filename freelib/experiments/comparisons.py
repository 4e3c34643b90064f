"""A method against others, column by column of the accuracy tables, and what that makes of a claim."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from freelib.experiments import beyond, paper_size, table1, table2, table3
from freelib.experiments.evidence import Evidence, Runs, setting, unmeasured
from freelib.experiments.verdicts import HOLDS_IN_PART, OPEN, Cell, Verdict, judged, one_seed_half_width, span
from freelib.methods import get_method
from freelib.run.units import Unit
from freelib.show.tables import by_chance, signed

Rows = dict[Hashable, Any]
TABLES: dict[str, Any] = {
    "table1": table1,
    "table2": table2,
    "table3": table3,
    "beyond": beyond,
    "paper_size": paper_size,
}
NOT_AHEAD = "Not told apart, though of a lower mean: "


def columns(experiment: str, runs: Runs, method: str) -> Iterator[tuple[str, Rows]]:
    """A table's columns in which a method has a record: ("CIFAR-FS, 1-shot", all its rows by method).

    Methods without a student are in the column of the Conv4.
    """
    if not runs.records:
        return
    table = TABLES[experiment].rows(runs.records, reference=method)
    if "student" in table:
        table["student"] = table["student"].replace(table3.NO_STUDENT, "conv4")
    by = ["dataset", "n_shot", *(["student"] if "student" in table else [])]
    for key, group in table.groupby(by, sort=False):
        rows = {row["method"]: row for row in group.to_dict("records")}
        if method in rows:
            student = f", student {table3.STUDENTS[str(key[2])]}" if len(key) > 2 else ""
            yield setting(str(key[0]), int(str(key[1]))) + student, rows


def joined(rows: Rows) -> bool:
    """Whether a column is the mean of the data sets of a mixed pool, which have columns of their own."""
    return "+" in next(iter(rows.values()))["dataset"]


def own_floor(found: Iterable[Rows], method: str) -> float:
    """The floor of a `Cell` against what chance has no part in, from a method's accuracies in some columns.

    What differs between seeds is the method's alone then: see `one_seed_half_width`.
    """
    own = [rows[method] for rows in found if not joined(rows)]
    return one_seed_half_width((row["seed_spread"], row["n_seeds"]) for row in own)


def ahead(
    rows: Rows, others: Sequence[str], where: str, floor: float = 0.0, own_floor: float = 0.0
) -> Cell | None:
    """The method that the rows are held against, minus the best of some others; None where there is none.

    Its sign is the least against any of them: not only the one of the highest mean may be ahead.
    floor: see `Cell`, against those that draw something by chance; own_floor: against the others
    """
    there = [rows[name] for name in others if name in rows and not pd.isna(rows[name]["difference"])]
    if not there:
        return None
    best = max(there, key=lambda row: row["accuracy"])

    def cell(row: Rows) -> Cell:
        return Cell.of(where, row, floor=floor if by_chance(str(row["method"])) else own_floor)

    return replace(cell(best), rivals=tuple(cell(row) for row in there if row is not best))


def against(
    evidence: Evidence,
    claim: str,
    others: Sequence[str],
    *,
    method: str = "free",
    experiments: Sequence[str] = ("table1",),
    notebooks: tuple[str, ...] = ("01_table1",),
    ours: bool = False,
    also_missing: tuple[str, ...] = (),
) -> Verdict:
    """A method against the best of some others, in every column of some tables; a column counts once.

    The mean of a mixed pool's data sets is shown, not judged: they are judged themselves.
    """

    def concerns(unit: Unit) -> bool:
        return unit.method in {method, *(name.partition(" ")[0] for name in others)} and (
            "alignment" not in unit.overrides
        )

    there: list[tuple[str, Rows]] = []
    wanted: dict[Unit, None] = {}
    lacking: dict[Unit, None] = {}
    for experiment in experiments:
        runs = evidence.runs(experiment)
        there += columns(experiment, runs, method)
        for units, seen in ((runs.wanted, wanted), (runs.missing, lacking)):  # a run of both counts once
            seen |= dict.fromkeys(replace(unit, experiment="") for unit in units if concerns(unit))
    floors = evidence.chance_floor, own_floor(dict(there).values(), method)
    found: dict[str, Cell] = {}
    for where, rows in there:
        if where not in found and (cell := ahead(rows, others, where, *floors)) is not None:
            found[where] = cell
    pooled = {where for where, rows in there if joined(rows)}
    cells, means = (
        [cell for where, cell in found.items() if (where in pooled) is mean] for mean in (False, True)
    )
    if not cells:
        return Verdict(claim, OPEN, notebooks=notebooks, ours=ours)
    missing = (*unmeasured(list(wanted), list(lacking)), *also_missing)
    verdict = judged([cell.sign for cell in cells], missing=bool(missing))
    title, rest = get_method(method).title, {cell.other for cell in cells}
    total = ""
    if "table1" in experiments:
        whole, short = ({setting(unit.dataset, unit.n_shot) for unit in units} for units in (wanted, lacking))
        total = f"; {len(found)} of {len(whole)} columns measured"
        if partly := found.keys() & short:
            total += f", {len(partly)} of them not with all methods and seeds"
        full = [cell for cell in cells if 1 + len(cell.rivals) == len(others)]
        if 0 < len(full) < len(cells):
            total += f" (with all methods {len(full)}: {span(full)})"
    if alone := sum(cell.seeds is None for cell in cells):
        total += f"; one seed in {alone} of {len(cells)}"
    best = rest.pop() if len(rest) == 1 else f"the best of the others ({' or '.join(sorted(rest))})"
    return Verdict(
        claim,
        verdict,
        f"{title} minus {best}: {span(cells)}{total}{_behind(cells) if verdict == HOLDS_IN_PART else ''}",
        (
            *(f"{title}, points: {cell}" for cell in cells),
            *(f"Not judged, as its data sets are: {title}, points: {cell}" for cell in means),
            *(NOT_AHEAD + text for text in _level(cells)),
        ),
        missing,
        notebooks,
        ours,
    )


def _behind(cells: Sequence[Cell]) -> str:
    """The columns that speak against a claim which holds in others, by name; empty where there are none."""
    named = [f"{cell.setting} {signed(cell.difference, math.nan)}" for cell in cells if cell.sign == -1]
    count = f"; for it: {sum(cell.sign == 1 for cell in cells)} of {len(cells)} columns"
    return count + (f"; against it: {', '.join(named)}" if named else "")


def _level(cells: Sequence[Cell]) -> list[str]:
    """Rivals of a lower mean that decide a column all the same, since their own intervals hold zero."""
    ahead_of_best = [cell for cell in cells if replace(cell, rivals=()).sign == 1]
    return [str(rival) for cell in ahead_of_best for rival in cell.rivals if rival.sign != 1]

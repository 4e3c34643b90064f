"""Claims on accuracy: FREE and our own student against other methods (tables 1 to 3)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from freelib.accuracy_rows import reference_values
from freelib.experiments import beyond, paper_size, table1, table2, table3
from freelib.experiments.changed_settings import as_released, changed_settings
from freelib.experiments.evidence import Evidence, Runs, setting, unmeasured
from freelib.experiments.units import Unit
from freelib.experiments.verdicts import HOLDS_IN_PART, OPEN, Cell, Verdict, judged, span
from freelib.methods import get_method
from freelib.tables import by_chance, plus_minus, signed

Rows = dict[Hashable, Any]
TABLES: dict[str, Any] = {
    "table1": table1,
    "table2": table2,
    "table3": table3,
    "beyond": beyond,
    "paper_size": paper_size,
}
TUNED = (
    "{} settings were chosen on CIFAR-FS's meta-validation classes, with more trials than the others' had."
)
NOT_AHEAD = "Not told apart, though of a lower mean: "
REPORTED_GAIN = (1.42, 4.78)
"""The paper's gain over the state of the art, in points, from its abstract."""


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


def ahead(rows: Rows, others: Sequence[str], where: str, floor: float = 0.0) -> Cell | None:
    """The method that the rows are held against, minus the best of some others; None where there is none.

    Its sign is the least against any of them: not only the one of the highest mean may be ahead.
    floor: see `Cell`; it counts against those that draw something by chance
    """
    there = [rows[name] for name in others if name in rows and not pd.isna(rows[name]["difference"])]
    if not there:
        return None
    best = max(there, key=lambda row: row["accuracy"])

    def cell(row: Rows) -> Cell:
        return Cell.of(where, row, floor=floor if by_chance(str(row["method"])) else 0.0)

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
    """A method against the best of some others, in every column of some tables; a column counts once."""

    def concerns(unit: Unit) -> bool:
        return unit.method in {method, *(name.partition(" ")[0] for name in others)} and (
            "alignment" not in unit.overrides
        )

    found: dict[str, Cell] = {}
    floor = evidence.chance_floor
    wanted: dict[Unit, None] = {}
    lacking: dict[Unit, None] = {}
    for experiment in experiments:
        runs = evidence.runs(experiment)
        for where, rows in columns(experiment, runs, method):
            if where not in found and (cell := ahead(rows, others, where, floor)) is not None:
                found[where] = cell
        for units, seen in ((runs.wanted, wanted), (runs.missing, lacking)):  # a run of both counts once
            seen |= dict.fromkeys(replace(unit, experiment="") for unit in units if concerns(unit))
    cells = list(found.values())
    if not cells:
        return Verdict(claim, OPEN, notebooks=notebooks, ours=ours)
    missing = (*unmeasured(list(wanted), list(lacking)), *also_missing)
    verdict = judged([cell.sign for cell in cells], missing=bool(missing))
    title, rest = get_method(method).title, {cell.other for cell in cells}
    total = ""
    if "table1" in experiments:
        there, short = ({setting(unit.dataset, unit.n_shot) for unit in units} for units in (wanted, lacking))
        total = f"; {len(found)} of {len(there)} columns measured"
        if partly := found.keys() & short:
            total += f", {len(partly)} of them not with all methods and seeds"
        whole = [cell for cell in cells if 1 + len(cell.rivals) == len(others)]
        if 0 < len(whole) < len(cells):
            total += f" (with all methods {len(whole)}: {span(whole)})"
    if alone := sum(cell.seeds is None for cell in cells):
        total += f"; one seed in {alone} of {len(cells)}"
    best = rest.pop() if len(rest) == 1 else f"the best of the others ({' or '.join(sorted(rest))})"
    return Verdict(
        claim,
        verdict,
        f"{title} minus {best}: {span(cells)}{total}{_behind(cells) if verdict == HOLDS_IN_PART else ''}",
        tuple([f"{title}, points: {cell}" for cell in cells] + [NOT_AHEAD + text for text in _level(cells)]),
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


def beats_published(evidence: Evidence) -> Verdict:
    """FREE against the best of the methods that the paper compares it with (table 1)."""
    claim = "FREE is ahead of every method that it is compared with"
    verdict = against(evidence, claim, table1.PUBLISHED)
    if verdict.verdict == OPEN:
        return verdict
    records = evidence.runs("table1").records
    low, high = REPORTED_GAIN
    numbers = [
        *table1.against_the_paper(table1.rows(records)).splitlines(),
        *(text for text in verdict.numbers if text.startswith(NOT_AHEAD)),
        f"The order is judged, not the margin. The paper's, over the strongest: {low} to {high} points; here "
        f"{verdict.finding}.",
        *table1.budgets([r for r in records if r["method"] in ("free", *table1.PUBLISHED)]).splitlines(),
    ]
    if evidence.profile.name != "paper":
        numbers.append("Budgets are a small part of what the papers spend on each of these methods.")
    numbers += [TUNED.format("FREE's"), *_changed(evidence)]
    return replace(verdict, finding=verdict.finding + as_released(evidence), numbers=tuple(numbers))


def _mixed(evidence: Evidence, experiment: str, claim: str, notebook: str) -> Verdict:
    """FREE against those of the published methods that the profile runs on a mixed pool: the claim's "{}"."""
    run = evidence.profile.for_experiment(experiment).methods
    usable = [m for m in table1.PUBLISHED if experiment != "table3" or not table3.needs_one_architecture(m)]
    others = [name for name in usable if name in run]
    titles, absent = (
        ", ".join(get_method(name).title for name in usable if (name in run) is here)
        for here in (True, False)
    )
    verdict = against(
        evidence,
        claim.format(titles),
        others,
        experiments=(experiment,),
        notebooks=(notebook,),
        also_missing=(f"not among this profile's runs: {absent}",) if absent else (),
    )
    own = (
        f"Not judged, the pool itself: {cell}"
        for where, rows in columns(experiment, evidence.runs(experiment), "free")
        for name in ("best_teacher", "pool_features")
        if (cell := ahead(rows, (name,), where)) is not None
    )
    return replace(verdict, numbers=(*verdict.numbers, *own)) if verdict.numbers else verdict


def beats_on_mixed_domains(evidence: Evidence) -> Verdict:
    """FREE on a pool of models from several data sets (table 2)."""
    claim = "With models of several data sets in one pool, FREE is ahead on each of them (of {})"
    return _mixed(evidence, "table2", claim, "02_table2")


def beats_on_mixed_architectures(evidence: Evidence) -> Verdict:
    """FREE on a pool of several architectures (table 3)."""
    claim = "With several architectures in one pool, FREE is ahead (of {})"
    return _mixed(evidence, "table3", claim, "03_table3")


def _sizes(evidence: Evidence) -> tuple[str, ...]:
    """How the sizes behind a profile's accuracies compare with those behind what others report."""
    if evidence.profile.name == "paper":
        return ()
    text = "The sizes of the two are not the same: see what differs from the paper."
    if whole := evidence.runs(paper_size.EXPERIMENT).records:
        lower = (
            "" if whole[0]["precision"] == "float32" else f", but for {whole[0]['precision']} convolutions"
        )
        text += f" Those at the paper's size are{lower}."
    return (text, *_changed(evidence))


def _changed(evidence: Evidence) -> tuple[str, ...]:
    return tuple(filter(None, [changed_settings(evidence)]))


def reaches_the_papers_accuracy(evidence: Evidence) -> Verdict:
    """FREE's accuracy beside the values that are known to us (tables 1 to 3, and at the paper's size)."""
    claim = "FREE reaches the accuracy that others report for it"
    where_from = {
        "table1": "",
        "paper_size": ", at the paper's size",
        "table2": ", several data sets in one pool",
        "table3": ", mixed architectures",
    }
    found = [
        (where + words, rows["free"])
        for name, words in where_from.items()
        for where, rows in columns(name, evidence.runs(name), "free")
        if not pd.isna(rows["free"]["paper"])
    ]
    notebooks = ("51_performance", "01_table1", "02_table2", "03_table3")
    if not found:
        return Verdict(claim, OPEN, notebooks=notebooks)
    own = evidence.profile.name == "paper"
    judges = [own or where.endswith(where_from["paper_size"]) for where, _ in found]
    gaps = [
        (row["accuracy"] - row["paper"], row["ci95"])
        for (_, row), alike in zip(found, judges, strict=True)
        if alike
    ]
    signs = [(gap > width) - (gap < -width) for gap, width in gaps]
    numbers = [
        f"{'' if alike else 'not judged, of another size: '}{where}: "
        f"{plus_minus(row['accuracy'], row['ci95'])} %{', one seed' if row['n_seeds'] == 1 else ''}, "
        f"reported {row['paper']:.2f} % ({row['source']})"
        for (where, row), alike in sorted(zip(found, judges, strict=True), key=lambda pair: not pair[1])
    ]
    missing: tuple[str, ...] = ()
    for name in where_from:
        whole = name == paper_size.EXPERIMENT
        known = {key for key in reference_values("table1" if whole else name) if key[1] == "free"}

        def listed(unit: Unit, known: set[tuple[str, str, int]] = known) -> bool:
            return not unit.overrides and (unit.dataset, unit.method, unit.n_shot) in known

        words = "at the paper's size" if whole else f"table {name[-1]}"
        missing += tuple(f"{words}: {text}" for text in evidence.runs(name).lacking(listed))
    return Verdict(
        claim,
        judged(signs, missing=bool(missing)),
        "; ".join(numbers),
        _sizes(evidence),
        missing,
        notebooks,
    )


POOL = ("pool_features", "pool_features (not centred)")


def beats_best_teacher(evidence: Evidence) -> Verdict:
    """FREE against one model of its own pool (table 1)."""
    claim = "FREE beats the nearest class mean on the features of the pool's best model"
    return against(evidence, claim, ("best_teacher",), ours=True)


def beats_pool_features(evidence: Evidence) -> Verdict:
    """FREE against all models of its pool, none of them trained further (table 1)."""
    claim = "FREE beats the nearest class mean on the features of all the pool's models"
    return against(evidence, claim, POOL, ours=True)

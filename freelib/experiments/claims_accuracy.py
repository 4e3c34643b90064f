"""Claims on accuracy: FREE against other methods, and beside what is reported for it (tables 1 to 3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pandas as pd

from freelib.experiments import paper_size, table1, table3
from freelib.experiments.changed_settings import as_released, changed_settings
from freelib.experiments.comparisons import NOT_AHEAD, Rows, against, ahead, columns
from freelib.experiments.evidence import Evidence
from freelib.experiments.table4 import late_agreement
from freelib.experiments.verdicts import HOLDS, HOLDS_IN_PART, OPEN, SO_FAR, Cell, Verdict, judged, too_small
from freelib.methods import get_method
from freelib.run.accuracy_rows import reference_values
from freelib.run.units import Unit
from freelib.show.tables import plus_minus, signed

TUNED = (
    "{} settings were chosen on CIFAR-FS's meta-validation classes, with more trials than the others' had."
)
REPORTED_GAIN = (1.42, 4.78)
"""The paper's gain over the state of the art, in points, from its abstract."""


def beats_published(evidence: Evidence) -> Verdict:
    """FREE against the best of the methods that the paper compares it with (table 1)."""
    claim = "In table 1, FREE is ahead of the published methods that it is compared with"
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


LISTED = {
    "table1": "",
    "paper_size": ", at the paper's size",
    "table2": ", several data sets in one pool",
    "table3": ", mixed architectures",
}
"""The tables with a place for what others report, and what sets their columns apart."""


REPORTED_NOTE = (
    "The interval is over our episodes alone: that of the reported value is not known to us. What one seed "
    "tells is taken from table 4, of this profile's size; at the paper's size there is one seed."
)


def _beside_reported(where: str, row: Rows, floor: float) -> Cell:
    """FREE minus what is reported, which is one run of others: of one seed it has to reach the floor."""
    gap = row["accuracy"] - row["paper"]
    return Cell(where, "reported", gap, row["ci95"], floor=floor if row["n_seeds"] == 1 else 0.0)


def _reported(where: str, row: Rows) -> str:
    return (
        f"{where}: {plus_minus(row['accuracy'], row['ci95'])} %"
        f"{', one seed' if row['n_seeds'] == 1 else ''}, reported {row['paper']:.2f} % ({row['source']})"
    )


def _agreements(evidence: Evidence) -> Iterator[str]:
    """What five steps reach in the run at the paper's size, and in this profile's own of table 1."""
    runs = {name: evidence.runs(name).records for name in ("paper_size", "table1")}
    found = {
        name: [late_agreement(r) for r in records if r["method"] == "free" and r["history"]]
        for name, records in runs.items()
    }
    if found["paper_size"]:
        steps = runs["paper_size"][0]["config"]["adapt_steps"]
        text = (
            f"At the paper's size {steps} steps reach a teacher agreement of "
            f"{found['paper_size'][0]:.0f} % (mean over the later half of the rounds)"
        )
        if found["table1"]:
            low, high = min(found["table1"]), max(found["table1"])
            text += f"; in table 1's {len(found['table1'])} runs of FREE, {low:.0f} to {high:.0f} %"
        yield text + "."


def reaches_the_papers_accuracy(evidence: Evidence) -> Verdict:
    """FREE's accuracy beside the values that are known to us (tables 1 to 3, and at the paper's size)."""
    claim = "FREE reaches the accuracy that others report for it"
    found = [
        (where + words, rows["free"])
        for name, words in LISTED.items()
        for where, rows in columns(name, evidence.runs(name), "free")
        if not pd.isna(rows["free"]["paper"])
    ]
    notebooks = ("51_performance", "01_table1", "02_table2", "03_table3")
    if not found:
        return Verdict(claim, OPEN, notebooks=notebooks)
    own = evidence.profile.name == "paper"
    alike = [own or where.endswith(LISTED["paper_size"]) for where, _ in found]
    words: list[str] = []
    signs: list[int | None] = []
    for (where, row), judge in zip(found, alike, strict=True):
        if judge:
            cell = _beside_reported(where, row, evidence.chance_floor)
            signs.append(cell.sign)
            small = f", {too_small(cell.floor)}" if cell.drowned else ""
            words.append(f"{_reported(where, row)}: {signed(cell.difference, cell.half_width)} points{small}")
    words.append(f"{len(signs)} of {len(found)} settings judged")
    others = [
        f"Not judged, of another size: {_reported(where, row)}."
        for (where, row), judge in zip(found, alike, strict=True)
        if not judge
    ]
    missing: tuple[str, ...] = ()
    for name in LISTED:
        whole = name == paper_size.EXPERIMENT
        known = {key for key in reference_values("table1" if whole else name) if key[1] == "free"}

        def listed(unit: Unit, known: set[tuple[str, str, int]] = known) -> bool:
            return not unit.overrides and (unit.dataset, unit.method, unit.n_shot) in known

        place = "at the paper's size" if whole else f"table {name[-1]}"
        missing += tuple(f"{place}: {text}" for text in evidence.runs(name).lacking(listed))
    verdict = judged(signs, missing=bool(missing))
    if others and verdict in (HOLDS, SO_FAR):  # not in every setting that is listed
        verdict = HOLDS_IN_PART
    numbers = (*others, *((REPORTED_NOTE,) if signs else ()), *_agreements(evidence), *_sizes(evidence))
    return Verdict(claim, verdict, "; ".join(words), numbers, missing, notebooks)


POOL = ("pool_features", "pool_features (not centred)")


def beats_best_teacher(evidence: Evidence) -> Verdict:
    """FREE against one model of its own pool (table 1)."""
    claim = "FREE beats the nearest class mean on the features of the pool's best model"
    return against(evidence, claim, ("best_teacher",), ours=True)


def beats_pool_features(evidence: Evidence) -> Verdict:
    """FREE against all models of its pool, none of them trained further (table 1)."""
    claim = "FREE beats the nearest class mean on the features of all the pool's models"
    return against(evidence, claim, POOL, ours=True)

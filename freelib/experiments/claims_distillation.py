"""Claims on our own student, distilled from the pool: against the pool, and against an oracle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from freelib.experiments import table1
from freelib.experiments.beyond import METHOD
from freelib.experiments.claims_accuracy import POOL, TUNED
from freelib.experiments.comparisons import Rows, against, ahead, columns, joined, own_floor
from freelib.experiments.evidence import Evidence
from freelib.experiments.verdicts import OPEN, Verdict, judged, span

DISTILLED: dict[str, Any] = {
    "method": METHOD,
    "experiments": ("table1", "beyond"),
    "notebooks": ("01_table1", "06_beyond_the_paper"),
    "ours": True,
}


def distilled_beats_best_teacher(evidence: Evidence) -> Verdict:
    """Our own student against one model of its pool (table 1)."""
    claim = "One student, distilled from the pool without data, beats the pool's best model"
    return against(evidence, claim, ("best_teacher",), **DISTILLED)


def distilled_beats_pool(evidence: Evidence) -> Verdict:
    """Our own student, one Conv4, against the features of all models of its pool (table 1).

    What it is taught, the models' probabilities together, stands beside the verdict: it takes all models at
    test time.
    """
    claim = "One student, distilled from the pool without data, beats the features of all the pool's models"
    verdict = against(evidence, claim, POOL, **DISTILLED)
    found = columns("table1", evidence.runs("table1"), DISTILLED["method"])
    taught = (cell for where, rows in found if (cell := ahead(rows, ("pool_opinions",), where)))
    words = (
        f"Not judged, against what it is taught, with all models at test time: {cell}" for cell in taught
    )
    tuned = (TUNED.format("Its"),) if verdict.numbers else ()
    return replace(verdict, numbers=(*verdict.numbers, *words, *tuned))


def distilled_beats_mixed_pools(evidence: Evidence) -> Verdict:
    """The same, from a pool of several data sets (table 2) and one of several architectures (table 3)."""
    claim = "From a mixed pool too, the distilled student beats the features of all the pool's models"
    mixed = {"table2": "from several data sets", "table3": "from several architectures"}
    notebooks = ("06_beyond_the_paper", "02_table2", "03_table3")
    there: dict[str, Rows] = {}
    missing: list[str] = []
    for name, words in mixed.items():
        runs = evidence.runs(name)
        there |= {f"{where}, {words}": rows for where, rows in columns(name, runs, METHOD)}
        lacking = runs.lacking(lambda unit: unit.method in (METHOD, *POOL) and "arch" not in unit.overrides)
        missing += [f"table {name[-1]}: {text}" for text in lacking]
    floor = own_floor(there.values(), METHOD)
    found = [(ahead(rows, POOL, where, own_floor=floor), joined(rows)) for where, rows in there.items()]
    cells, means = ([cell for cell, mean in found if cell and mean is kind] for kind in (False, True))
    if not cells:
        return Verdict(claim, OPEN, notebooks=notebooks, ours=True)
    verdict = judged([cell.sign for cell in cells], missing=bool(missing))
    finding = f"Pool distillation minus Pool features: {span(cells)}"
    numbers = [f"Pool distillation, points: {cell}" for cell in cells]
    numbers += [f"Not judged, as its data sets are: Pool distillation, points: {cell}" for cell in means]
    return Verdict(claim, verdict, finding, tuple(numbers), tuple(missing), notebooks, ours=True)


def distilled_beats_oracle(evidence: Evidence) -> Verdict:
    """Our own student against a prototypical network that sees the real images (table 1)."""
    claim = "One student, distilled without data, beats the same network trained on the real images"
    verdict = against(evidence, claim, ("oracle_protonet",), **DISTILLED)
    records = evidence.runs("table1").records
    both = [r for r in records if r["method"] in (METHOD, "oracle_protonet")]
    spent = table1.seconds_of(both).splitlines()
    return replace(verdict, numbers=(*verdict.numbers, *spent)) if verdict.numbers else verdict

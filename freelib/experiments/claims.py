"""The paper's claims, each held against the records."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from freelib.experiments import figure1, recovery_cost, table1
from freelib.experiments.grid import standing
from freelib.methods import get_method
from freelib.profiles import Profile
from freelib.records import RecordStore
from freelib.tables import DATASET_TITLES, signed

HOLDS, HOLDS_IN_PART, FAILS, OPEN = "holds", "holds in part", "does not hold", "not measured yet"
SO_FAR = "holds so far"


@dataclass(frozen=True)
class Verdict:
    """A claim and what became of it.

    claim: the paper's, in our words
    verdict: one of `HOLDS`, `SO_FAR` (not all is measured), `HOLDS_IN_PART`, `FAILS`, `OPEN`
    measured: with numbers and intervals; evidence: the notebooks that show it
    """

    claim: str
    verdict: str
    measured: str
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """A paired difference in one setting of a table, in points, with its 95 % interval's half-width."""

    setting: str
    other: str
    difference: float
    half_width: float

    @property
    def above(self) -> bool:
        """Whether the whole interval is above zero."""
        return self.difference > self.half_width

    def __str__(self) -> str:
        return f"{self.setting}: {signed(self.difference, self.half_width)} against {self.other}"


def counted(cells: Sequence[Cell]) -> str:
    """The verdict over several settings: `HOLDS` where every interval is above zero."""
    above = sum(cell.above for cell in cells)
    return HOLDS if above == len(cells) else HOLDS_IN_PART if above else FAILS


def all_verdicts(profile: Profile, store: RecordStore) -> list[Verdict]:
    """Every claim, in the paper's order, as the records of a profile have it."""
    return [claim(profile, store) for claim in CLAIMS]


def _settings(profile: Profile, store: RecordStore, method: str) -> Iterator[tuple[str, dict[Hashable, Any]]]:
    """Table 1's settings that a method was run in: ("CIFAR-FS, 1-shot", all rows by method)."""
    records = standing(table1.units(profile), profile, store)
    if not records:
        return
    table = table1.rows(records, reference=method)
    for (dataset, n_shot), group in table.groupby(["dataset", "n_shot"], sort=False):
        rows = {row["method"]: row for row in group.to_dict("records")}
        if method in rows:
            yield f"{DATASET_TITLES.get(str(dataset), dataset)}, {n_shot}-shot", rows


def _ahead(rows: dict[Hashable, Any], others: Sequence[str], setting: str) -> Cell | None:
    """The method that the rows are held against, minus the best of some others, in one setting."""
    there = [rows[name] for name in others if name in rows and not pd.isna(rows[name]["difference"])]
    if not there:
        return None
    best = max(there, key=lambda row: row["accuracy"])
    return Cell(setting, best["title"], 0.0 - best["difference"], best["difference_ci95"])


def _against(
    profile: Profile,
    store: RecordStore,
    claim: str,
    others: Sequence[str],
    *,
    method: str = "free",
    evidence: tuple[str, ...] = ("01_table1",),
) -> Verdict:
    settings = list(_settings(profile, store, method))
    cells = [cell for name, rows in settings if (cell := _ahead(rows, others, name)) is not None]
    if not cells:
        return Verdict(claim, OPEN, "", evidence)
    measured = f"{get_method(method).title}, points: " + "; ".join(map(str, cells))
    absent = [name for name in others if any(name not in rows for _, rows in settings)]
    verdict = counted(cells)
    if absent:
        measured += f"; not yet measured everywhere: {', '.join(absent)}"
        verdict = SO_FAR if verdict == HOLDS else verdict
    return Verdict(claim, verdict, measured, evidence)


def beats_published(profile: Profile, store: RecordStore) -> Verdict:
    """FREE against the best of the methods that the paper compares it with (table 1)."""
    return _against(
        profile,
        store,
        "FREE is ahead of every method that it is compared with, by 1.42 to 4.78 points over the strongest",
        table1.PUBLISHED,
    )


def beats_best_teacher(profile: Profile, store: RecordStore) -> Verdict:
    """FREE against one model of its own pool (table 1)."""
    return _against(
        profile,
        store,
        "(ours to ask) A data-free meta-learner beats the nearest class mean on one model of its pool",
        ("best_teacher",),
    )


def beats_pool_features(profile: Profile, store: RecordStore) -> Verdict:
    """FREE against all models of its pool, none of them trained further (table 1)."""
    return _against(
        profile,
        store,
        "(ours to ask) A data-free meta-learner beats the nearest class mean on all models of its pool",
        ("pool_features", "pool_features (not centred)"),
    )


def recovers_faster(profile: Profile, store: RecordStore) -> Verdict:
    """Five steps of a warm meta-generator against a generator from scratch, at equal agreement (figure 1)."""
    claim = f"Recovering a task takes {figure1.REPORTED} times less time than with a generator for each model"
    evidence = ("11_figure1", "05_table5")
    there = store.all(figure1.EXPERIMENT)
    records = [r for r in there if r["method"] == recovery_cost.NAME and r["dataset"] in profile.datasets]
    if not records:
        return Verdict(claim, OPEN, "", evidence)
    costs = recovery_cost.rows(records)
    times = {
        str(dataset): figure1.speed_up(group)["seconds"]
        for dataset, group in costs.groupby("dataset", sort=False)
    }
    least = min(times.values())
    # a part of it holds where at least half of the claimed factor is there
    share = least / figure1.REPORTED
    verdict = HOLDS if share >= 1 else HOLDS_IN_PART if share >= 0.5 else FAILS
    measured = "; ".join(
        f"{DATASET_TITLES.get(name, name)}: "
        + ("not reached in most tasks" if value == float("inf") else f"{value:.1f} times")
        for name, value in times.items()
    )
    return Verdict(
        claim, verdict, f"seconds to equal teacher agreement, medians over tasks: {measured}", evidence
    )


def distilled_beats_best_teacher(profile: Profile, store: RecordStore) -> Verdict:
    """Our own student against one model of its pool (table 1)."""
    return _against(
        profile,
        store,
        "(ours) One student, distilled from the pool without data, beats one model of the pool",
        ("best_teacher",),
        method="pool_distillation",
        evidence=("01_table1", "06_beyond_the_paper"),
    )


def distilled_beats_pool(profile: Profile, store: RecordStore) -> Verdict:
    """Our own student, one Conv4, against all models of its pool together (table 1)."""
    return _against(
        profile,
        store,
        "(ours) One student, distilled from the pool without data, beats all models of the pool together",
        ("pool_features", "pool_features (not centred)"),
        method="pool_distillation",
        evidence=("01_table1", "06_beyond_the_paper"),
    )


CLAIMS: tuple[Callable[[Profile, RecordStore], Verdict], ...] = (
    beats_published,
    beats_best_teacher,
    beats_pool_features,
    distilled_beats_best_teacher,
    distilled_beats_pool,
    recovers_faster,
)

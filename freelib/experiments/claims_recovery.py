"""Claims on recovery (figure 1, table 5), on the pool (figure 2), and on this package's speed."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd

from freelib.experiments import figure1, figure2, meta_training, paper_size, performance, table5
from freelib.experiments.evidence import Evidence, name_of, setting, unmeasured_seeds
from freelib.experiments.verdicts import (
    FAILS,
    FAILS_SO_FAR,
    HOLDS,
    HOLDS_IN_PART,
    OPEN,
    SO_FAR,
    Cell,
    Verdict,
    judged,
    span,
    too_small,
)
from freelib.methods.bidf_mkd import BidfMkd, BidfMkdConfig
from freelib.run.accuracy_rows import accuracy_rows
from freelib.run.records import Record
from freelib.show.tables import DATASET_TITLES, plus_minus, signed
from freelib.studies import recovery_cost
from freelib.studies.benchmark import PIECES

FITS = 99
"""Percent of agreement from which a recovered task counts as fitted: all but one image in a hundred."""
FROM_SCRATCH = "generators from scratch"
RIVALS = {"scratch": "a generator from scratch for each model", "pixels": "PURER's pixels"}
"""What starts from nothing, and the methods before FREE do."""


def _by_dataset(costs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {str(name): group for name, group in costs.groupby("dataset", sort=False)}


def _passes_to(group: pd.DataFrame, agreement: float) -> tuple[float, float]:
    """Passes that a generator from scratch takes to an agreement, and how many times FIve's seconds.

    agreement: in percent; medians over a data set's tasks, infinite where most do not reach it
    """
    passes, seconds = [], []
    for _, task in group.groupby(["seed", "model"], sort=False):
        five, scratch = task[task["way"] == "five"].iloc[-1], task[task["way"] == "scratch"]
        reached = scratch[scratch["agreement"] >= agreement]
        passes.append(reached["step"].iloc[0] if len(reached) else math.inf)
        seconds.append((reached["seconds"].iloc[0] if len(reached) else math.inf) / five["seconds"])
    return float(np.median(passes)), float(np.median(seconds))


def _as_good_a_fit(groups: dict[str, pd.DataFrame]) -> str:
    """What FIve's steps reach, what a generator from scratch reaches in the end, and when it is at FITS."""
    last = {
        way: {name: own[own["step"] == own["step"].max()] for name, own in _by_dataset(table).items()}
        for way, table in pd.concat(list(groups.values())).groupby("way")
    }
    reached = {
        way: ", ".join(f"{name_of(name)} {own['agreement'].mean():.0f} %" for name, own in ends.items())
        for way, ends in last.items()
    }
    needed = []
    for name, group in groups.items():
        passes, seconds = _passes_to(group, FITS)
        to_fit = "not reached in most tasks" if math.isinf(passes) else f"{passes:g} ({seconds:.1f} times)"
        needed.append(f"{name_of(name)} {to_fit}")
    steps, most = (max(own["step"].max() for own in last[way].values()) for way in ("five", "scratch"))
    tasks = ", ".join(str(len(own)) for own in last["five"].values())
    return (
        f"After {steps} steps FIve's agreement is {reached['five']}; after {most} passes that of a generator "
        f"from scratch, {reached['scratch']}. Passes that this takes to {FITS} %, and its seconds against "
        f"FIve's: {', '.join(needed)} (medians over {tasks} tasks)"
    )


def _of_learners(evidence: Evidence, groups: dict[str, pd.DataFrame]) -> str:
    """FIve's seconds against a generator's of as many passes as BiDf-MKD's runs have in table 1."""
    runs = [r for r in evidence.runs("table1").records if r["method"] == "bidf_mkd"]
    used = {r["config"]["adapt_steps"] for r in runs}
    if len(used) != 1:
        return ""
    (passes,) = used
    factors = []
    for name, group in groups.items():
        at = group[(group["way"] == "scratch") & (group["step"] == passes)]["seconds"].mean()
        five = group[group["way"] == "five"]
        if not math.isnan(at):
            seconds = five[five["step"] == five["step"].max()]["seconds"].mean()
            factors.append(f"{name_of(name)} {at / seconds:.1f}")
    return f"; {passes}, as BiDf-MKD has here: {', '.join(factors)} times" if factors else ""


def recovers_faster(evidence: Evidence) -> Verdict:
    """Five steps against a whole recovery from nothing: of a generator, or of pixels (figure 1)."""
    claim = f"Recovering a task takes {figure1.REPORTED} times less time than where it starts from nothing"
    notebooks = ("11_figure1", "05_table5")
    records = evidence.latest(recovery_cost.NAME, evidence.profile.datasets)
    if not records:
        return Verdict(claim, OPEN, notebooks=notebooks)
    costs, missing = recovery_cost.rows(records), unmeasured_seeds(evidence.profile, records)
    groups = _by_dataset(costs)
    signs, words = [], []
    for way, rival in RIVALS.items():
        factors = {name: figure1.whole_run(group, way) for name, group in groups.items()}
        signs += [1 if factor >= figure1.REPORTED else -1 for factor in factors.values()]
        passes = costs[costs["way"] == way]["step"].max()
        named = ", ".join(f"{name_of(name)} {factor:.0f}" for name, factor in factors.items())
        source = ""
        if way == "scratch" and passes == BidfMkdConfig().adapt_steps:
            source = f" (as {BidfMkd.title}'s authors take)"
        words.append(f"{rival}, {passes} passes{source}: {named} times")
        words[-1] += _of_learners(evidence, groups) if way == "scratch" else ""
    finding = f"{_as_good_a_fit(groups)}. In multiples of FIve's seconds: {'; '.join(words)}"
    numbers = (*map(figure1.conclusion, groups.values()), table5.conclusion(costs, records))
    return Verdict(claim, judged(signs, missing=bool(missing)), finding, numbers, missing, notebooks)


def reaches_agreement_sooner(evidence: Evidence) -> Verdict:
    """Five steps of a warm meta-generator against a generator from scratch, at equal agreement (figure 1)."""
    claim = (
        f"To the agreement that five steps of the meta-generator reach, a generator from scratch takes "
        f"{figure1.REPORTED} times as many passes"
    )
    notebooks = ("11_figure1", "05_table5")
    datasets = evidence.profile.datasets
    records = evidence.latest(recovery_cost.NAME, datasets)
    if not records:
        return Verdict(claim, OPEN, notebooks=notebooks, ours=True)
    costs, missing = recovery_cost.rows(records), unmeasured_seeds(evidence.profile, records)
    groups = _by_dataset(costs)
    found = {name: figure1.speed_up(group) for name, group in groups.items()}
    # passes, not seconds: a pass is the same on both sides, and a machine's load is in its seconds; a part
    # of it holds where at least half of the claimed factor is there
    share = min(times["passes"] for times in found.values()) / figure1.REPORTED
    holds, fails = (SO_FAR, FAILS_SO_FAR) if missing else (HOLDS, FAILS)
    verdict = holds if share >= 1 else HOLDS_IN_PART if share >= 0.5 else fails
    words = "; ".join(_faster(name, found[name], costs) for name, costs in groups.items())
    numbers = tuple(map(meta_training.conclusion, evidence.latest(meta_training.NAME, datasets)))
    return Verdict(claim, verdict, words, numbers, missing, notebooks, ours=True)


def _faster(dataset: str, times: dict[str, float], costs: pd.DataFrame) -> str:
    """A data set's speed-ups in words, and over how many tasks and seeds they are."""
    equal = f"{times['passes']:.1f} times the passes at equal agreement"
    equal += f" ({times['seconds']:.1f} times the seconds)"
    if times["passes"] == float("inf"):
        equal = "equal agreement was not reached in most tasks"
    by_loss = figure1.speed_up(costs, measure="loss")["passes"]
    equal += f", {by_loss:.1f} times at equal loss" if by_loss < float("inf") else ""
    seeds = costs["seed"].nunique()
    return (
        f"{name_of(dataset)}: {equal} (median over {times['tasks']:.0f} held-out models, "
        f"{seeds} seed{'s' if seeds > 1 else ''})"
    )


def recovered_tasks_teach(evidence: Evidence) -> Verdict:
    """What the images are good for: the same student on those of generators from scratch (table 5)."""
    claim = (
        "The images of five steps lead to a better learner than those of generators from scratch in as many "
        "passes, the student being trained alike (table 5)"
    )
    runs, notebooks = evidence.runs("table5"), ("05_table5",)
    table = pd.DataFrame(columns=["method", "difference"])
    if runs.records:
        table = accuracy_rows(runs.records, table="table1", variant=_recovered_by)
    told = table.dropna(subset=["difference"])
    control = told["method"] == f"free ({FROM_SCRATCH})"
    floor = evidence.chance_floor
    cells, others = (_cells(told[chosen], floor) for chosen in (control, ~control))
    if not cells:
        return Verdict(claim, OPEN, notebooks=notebooks)
    missing = runs.lacking(lambda unit: unit.method == "free")
    numbers = [f"FREE, points: {cell}" for cell in cells]
    numbers += [f"Not judged, the student is trained in another way: {cell}" for cell in others]
    if costs := evidence.latest(recovery_cost.NAME, evidence.profile.datasets):
        curves = recovery_cost.rows(costs)
        numbers += [_cost(row) for row in table5.rows(curves, runs.records).to_dict("records")]
    finding = f"FREE minus FREE with {FROM_SCRATCH}: {span(cells)}, one seed"
    if drowned := [f"{cell.setting} ({signed(cell.difference, math.nan)})" for cell in cells if cell.drowned]:
        finding += f"; {', '.join(drowned)}: {too_small(floor)}"
    verdict = judged([cell.sign for cell in cells], missing=bool(missing))
    return Verdict(claim, verdict, finding, tuple(numbers), missing, notebooks)


def _cells(rows: pd.DataFrame, floor: float) -> list[Cell]:
    """FREE minus each row's learner; floor: see `Cell`."""
    return [
        Cell.of(setting(row["dataset"], row["n_shot"]), row, floor=floor) for row in rows.to_dict("records")
    ]


def _recovered_by(record: Record) -> str:
    return FROM_SCRATCH if record["config"].get("recovery") == "scratch" else ""


def _cost(row: dict[Hashable, Any]) -> str:
    """A row of table 5 in words."""
    learner = f"; {row['learner']}: {plus_minus(row['accuracy'], row['ci95'])} %" if row["learner"] else ""
    learner += {"PURER": ", on other images", table5.IN_PART: ", mostly on others"}.get(row["learner"], "")
    return (
        f"{DATASET_TITLES.get(row['dataset'], row['dataset'])}, {row['way']}: {row['passes']} passes, "
        f"{row['seconds']:.2f} s a task, agreement "
        f"{plus_minus(row['agreement'], row['agreement_ci95'])} %{learner}"
    )


def pool_is_heterogeneous(evidence: Evidence) -> Verdict:
    """Distances between recovered tasks, by kind of pair (figure 2)."""
    claim = "Tasks recovered from models of different data sets lie further apart than those of one"
    notebooks = ("12_figure2",)
    found = evidence.latest("spread", figure2.mixed(evidence.profile).datasets)
    if not found:
        return Verdict(claim, OPEN, notebooks=notebooks)
    kinds = figure2.by_kind(found[0])
    far, nearer = figure2.KINDS[3], [kind for kind in kinds["kind"] if kind != figure2.KINDS[3]]
    if len(nearer) == len(kinds):
        return Verdict(claim, OPEN, notebooks=notebooks)
    gaps = [figure2.further(kinds, near, far) for near in nearer]
    pairs = figure2.by_pair(found[0])
    ends = [(low, high) for _, low, high in gaps] + list(zip(pairs["low"], pairs["high"], strict=True))
    signs = [1 if low > 0 else -1 if high < 0 else 0 for low, high in ends]
    words = [
        f"{gap:+.3f} {figure2.in_brackets(low, high)} against {near}".replace("-0.", "−0.")
        for near, (gap, low, high) in zip(nearer, gaps, strict=True)
    ]
    finding = f"energy distance of two tasks, {far}: {', '.join(words)}"
    if len(pairs):
        each = [
            f"{row['pair']} {row['gap']:+.3f} {figure2.in_brackets(row['low'], row['high'])}".replace(
                "-0.", "−0."
            )
            for row in pairs.to_dict("records")
        ]
        finding += f"; by pair, against the mean within the two: {', '.join(each)}"
    numbers = (figure2.conclusion(found[0]), *_sizes_of_pool(found[0]))
    return Verdict(claim, judged(signs), finding, numbers, (), notebooks)


def _sizes_of_pool(record: Record) -> tuple[str, ...]:
    """What besides their pictures sets a mixed pool's data sets apart: the size of the images."""
    parts = (record["pool"] or {}).get("parts", ())
    sizes = {part["dataset"]: part["image_size"] for part in parts if part.get("image_size")}
    if len(set(sizes.values())) < 2:
        return ()
    named = ", ".join(f"{DATASET_TITLES.get(name, name)} {size}" for name, size in sizes.items())
    return (
        f"The data sets' images differ in size as well, which no distance here is free of: {named} pixels.",
    )


def reaches_speed_targets(evidence: Evidence) -> Verdict:
    """Each piece of the protocol against a straightforward implementation (the benchmark)."""
    claim = (
        "Against a straightforward implementation, freelib does each piece of the paper's work as many times "
        "faster as it set out to, and the whole five times"
    )
    notebooks = ("51_performance",)
    latest = [record for piece in PIECES for record in evidence.latest(piece)]
    found = [record for record in latest if record["method_revision"] == performance.REVISION]
    if {record["method"] for record in found} != set(PIECES):
        return Verdict(claim, OPEN, notebooks=notebooks, ours=True)
    table = performance.rows(found)
    ratios, aimed = performance.ratios(table), performance.TARGETS
    signs = [1 if ratio >= aimed[piece] else -1 for piece, ratio in ratios.items()]
    if not table["paper_size"].all():
        signs = [0]
    finding = ", ".join(
        f"{piece} {performance.times(ratio, aimed[piece])} (of {aimed[piece]:.0f})"
        for piece, ratio in ratios.items()
    )
    whole = evidence.runs(paper_size.EXPERIMENT)
    numbers = (*performance.reached(table).splitlines(), *map(paper_size.sentence, whole.records))
    missing = tuple(f"the paper's size, end to end: {text}" for text in whole.lacking())
    verdict = judged(signs, missing=bool(missing))
    return Verdict(claim, verdict, finding, numbers, missing, notebooks, ours=True)

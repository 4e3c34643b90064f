"""Table 5: what it costs to recover a task, and what the images are worth to a learner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from freelib.experiments.figure1 import speed_up
from freelib.experiments.verdicts import Cell
from freelib.run.accuracy_rows import episode_means
from freelib.run.evaluation import mean_over_seeds, paired_difference
from freelib.run.grid import run_grid
from freelib.run.profiles import Profile, get_profile
from freelib.run.records import Record, RecordStore
from freelib.run.units import Unit
from freelib.show.tables import DATASET_TITLES, Table, plus_minus
from freelib.studies.recovery_cost import WAYS

EXPERIMENT = "table5"
EQUAL_PASSES = f"{WAYS['scratch']}, as many passes"
FROM_SCRATCH = {"recovery": "scratch", "warmup_rounds": 0}
"""FREE without its meta-generator: the same student on images of generators from scratch, as in table 4."""
OTHER_IMAGES = "‡"
"""Marks a learner that was trained on other images than its row recovers."""
IN_PART = "Pool distillation"
"""Learns from images recovered so, and from others."""
LEARNERS = {
    "FREE": ("free", {}),
    "FREE, generators from scratch": ("free", FROM_SCRATCH),
    "PURER": ("purer", {}),
    "BiDf-MKD": ("bidf_mkd", {}),
    IN_PART: ("pool_distillation", {}),
}


def run(
    profile: str | Profile,
    *,
    results: str | Path,
    datasets: Sequence[str] | None = None,
    shots: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    cache: str | Path | None = None,
) -> list[Record]:
    """The learners' records: table 1's, and FREE's with generators from scratch in as many passes.

    The last is table 4's row, but with as many rounds as table 1 has.

    datasets, seeds: the profile's where None; of `shots` the first counts. Errors are `run_grid`'s.
    """
    profile = get_profile(profile)
    chosen = units(profile, datasets, shots, seeds)
    return run_grid(chosen, profile, RecordStore(Path(results) / profile.name / "records"), cache=cache)


def units(
    profile: Profile,
    datasets: Sequence[str] | None = None,
    shots: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[Unit]:
    """The learners' runs; see `run`."""
    return [
        Unit(EXPERIMENT, method, dataset, (shots or profile.shots)[0], seed, overrides)
        for dataset in datasets or profile.datasets
        for method, overrides in LEARNERS.values()
        for seed in (seeds or profile.seeds_for(dataset))[:1]
    ]


def rows(costs: pd.DataFrame, learners: Sequence[Record]) -> pd.DataFrame:
    """One row for each data set and way of recovering, FIve's steps being those of the profile.

    costs: `recovery_cost.rows`; learners: `run`'s records
    seconds, passes, images (through the model), agreement (%), agreement_ci95: of one task, mean over tasks;
      agreement_low, agreement_high: of the tasks
    learner, accuracy, ci95: of the learner that such images lead to, NaN where there is none
    """
    found = []
    for dataset, group in costs.groupby("dataset", sort=False):
        records = [record for record in learners if record["dataset"] == dataset]
        ways = _ways(group, _record_of(records, "BiDf-MKD"))
        if _record_of(records, IN_PART):
            ways.insert(1, (*ways[0][:3], IN_PART))
        for name, way, step, learner in ways:
            tasks = group[(group["way"] == way) & (group["step"] == step)]
            agreement, ci95 = mean_over_seeds(torch.tensor(tasks["agreement"].to_numpy()))
            record = _record_of(records, learner)
            found.append(
                {
                    "dataset": dataset,
                    "way": name,
                    "seconds": tasks["seconds"].mean(),
                    "passes": step,
                    "agreement": agreement,
                    "agreement_ci95": ci95,
                    "agreement_low": tasks["agreement"].min(),
                    "agreement_high": tasks["agreement"].max(),
                    "tasks": len(tasks),
                    "learner": learner if record else "",
                    "accuracy": record["accuracy"] if record else float("nan"),
                    "ci95": record["accuracy_ci95"] if record else float("nan"),
                }
            )
    return pd.DataFrame(found)


def _ways(group: pd.DataFrame, bidf: Record | None) -> list[tuple[str, str, int, str]]:
    """(name, way, step, learner) of a data set's rows; BiDf-MKD's at the passes that its generators had."""
    steps = {way: sorted(set(group[group["way"] == way]["step"])) for way in ("five", "scratch", "pixels")}
    five, longest = int(steps["five"][-1]), int(steps["scratch"][-1])
    most = bidf["config"]["adapt_steps"] if bidf else longest
    own = int(max((step for step in steps["scratch"] if step <= most), default=longest))
    return [
        (WAYS["five"], "five", five, "FREE"),
        (EQUAL_PASSES, "scratch", five, "FREE, generators from scratch"),
        (WAYS["scratch"], "scratch", own, "BiDf-MKD" if own == most else ""),
        *([(WAYS["scratch"], "scratch", longest, "")] if own < longest else []),
        (WAYS["pixels"], "pixels", int(steps["pixels"][-1]), "PURER"),
    ]


def _record_of(records: Sequence[Record], learner: str) -> Record | None:
    method, overrides = LEARNERS.get(learner, ("", {}))
    wanted: dict[str, Any] = {"recovery": "meta"} if learner == "FREE" else dict(overrides)
    fits = (r for r in records if r["method"] == method and wanted.items() <= r["config"].items())
    return next(fits, None)


def cost_table(table: pd.DataFrame, profile: str, images: int) -> Table:
    """`rows` for readers. images: of one pass."""
    learners = table["learner"].tolist()
    cells = pd.DataFrame(
        {
            "data set": [DATASET_TITLES.get(name, name) for name in table["dataset"]],
            "recovered by": table["way"],
            "seconds a task": [f"{value:.2f}" for value in table["seconds"]],
            "passes": table["passes"],
            "images through the model": table["passes"] * images,
            "teacher agreement, % (lowest to highest)": [
                f"{row.agreement:.1f} ({row.agreement_low:.1f} to {row.agreement_high:.1f})"
                for row in table.itertuples()
            ],
            "learner": [
                f"{name}{OTHER_IMAGES}" if name in ("PURER", IN_PART) else name or "–" for name in learners
            ],
            "its accuracy, %": [
                plus_minus(row["accuracy"], row["ci95"]) if row["learner"] else "–"
                for row in table.to_dict("records")
            ],
        }
    )
    tasks = ", ".join(
        f"{DATASET_TITLES.get(str(name), name)} {n}"
        for name, n in table.groupby("dataset", sort=False)["tasks"].max().items()
    )
    caption = (
        f"Table 5, profile {profile}. Cost of recovering a task of {images} images: mean over tasks "
        f"of models that the meta-generator never met (how many: {tasks}); the learner's, of the first seed, "
        "mean ± 95 % interval over episodes."
    )
    notes = {
        "PURER": f"{OTHER_IMAGES}: PURER was not trained on images recovered as in this row: it learned one "
        "set of pixels for the whole pool.",
        IN_PART: f"{OTHER_IMAGES}: {IN_PART} learns from FIve's images of all models and, in the main, from "
        "procedural images and mixtures (notebook 06).",
        "BiDf-MKD": "The students of BiDf-MKD and PURER are trained in their papers' own ways, so that their "
        "accuracy speaks of more than the images.",
        "": "–: no learner here was trained on such images.",
    }
    note = " ".join(text for name, text in notes.items() if name in learners)
    return Table(caption, table.assign(images=table["passes"] * images), cells, note)


def worth(table: pd.DataFrame, learners: Sequence[Record], floor: float = 0.0) -> str:
    """FIve against a generator from scratch with as many passes: the tasks' cost, and what they are worth.

    table: `rows`; learners: `run`'s records, of one seed, compared in pairs on the same episodes
    floor: how far chance alone moves one seed, in points, see `verdicts.Cell`
    """
    sentences = []
    for dataset, group in table.groupby("dataset", sort=False):
        five, scratch = (
            group[group["way"] == way].to_dict("records")[0] for way in (WAYS["five"], EQUAL_PASSES)
        )
        sentences.append(
            f"On {DATASET_TITLES.get(str(dataset), dataset)}, with {five['passes']} passes each: FIve takes "
            f"{five['seconds']:.2f} s a task and reaches an agreement of {five['agreement']:.1f} %, a "
            f"generator from scratch {scratch['seconds']:.2f} s and {scratch['agreement']:.1f} %."
        )
        records = [record for record in learners if record["dataset"] == dataset]
        pair = [_record_of(records, side["learner"]) for side in (five, scratch)]
        own, other = pair
        if own is None or other is None:
            sentences.append("Their learners are not both measured: no verdict on the images.")
            continue
        gap, ci95 = paired_difference(episode_means([own]), episode_means([other]))
        cell = Cell(f"FREE, {own['n_shot']}-shot, points", scratch["learner"], gap, ci95, floor=floor)
        verdict = {1: "is better than", -1: "is worse than"}.get(cell.sign or 0, "can't be told apart from")
        sentences.append(f"The learner on FIve's images {verdict} the one on those. {cell}.")
    return " ".join(sentences)


def conclusion(costs: pd.DataFrame, records: Sequence[Record]) -> str:
    """After how many tasks the meta-generator's own training has paid off at equal agreement, in passes.

    Seconds would only tell how evenly the machine ran: a pass is the same work in both ways.
    """
    sentences = []
    for dataset, group in costs.groupby("dataset", sort=False):
        before = [r["extra"]["before"] for r in records if r["dataset"] == dataset]
        passes, seconds = (sum(item[key] for item in before) / len(before) for key in ("passes", "seconds"))
        five = int(group[group["way"] == "five"]["step"].max())
        needed = speed_up(group)["steps"]
        sentence = (
            f"On {DATASET_TITLES.get(str(dataset), dataset)} the meta-generator's own training took "
            f"{passes:.0f} passes ({seconds:.0f} s) before. "
        )
        if needed == float("inf"):
            sentence += "In most tasks a generator from scratch does not reach FIve's agreement"
        else:
            sentence += (
                f"FIve takes {five} a task, a generator from scratch {needed:g} to the same agreement: "
            )
            sentence += (
                f"that saves {needed - five:g}, and has paid off after {passes / (needed - five):.0f} tasks"
                if needed > five
                else "that saves none, and its training is not paid back by later tasks"
            )
        sentences.append(sentence + ".")
    return " ".join(sentences)

"""Table 2: one pool of models from several domains; tested on each of them, and on their mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from freelib.experiments.alignment_claim import SUMMED, pairs, sentence, variant
from freelib.run.accuracy_rows import accuracy_rows, part_size
from freelib.run.evaluation import mean_and_interval
from freelib.run.grid import run_grid
from freelib.run.profiles import Profile, get_profile
from freelib.run.records import Record, RecordStore
from freelib.run.units import Unit, domains, grid, without_repeats
from freelib.show.tables import DATASET_TITLES

EXPERIMENT = "table2"


def run(
    profile: str | Profile,
    *,
    results: str | Path,
    shots: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    methods: Sequence[str] | None = None,
    cache: str | Path | None = None,
) -> list[Record]:
    """The records of the table: one for each training, its episodes those of the first domain, then the next.

    See `table1.run`. FREE comes twice: with BelL, and with summed gradients.
    """
    profile = get_profile(profile).for_experiment(EXPERIMENT)
    chosen = units(profile, shots, seeds, methods)
    return run_grid(chosen, profile, RecordStore(Path(results) / profile.name / "records"), cache=cache)


def units(
    profile: Profile,
    shots: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    methods: Sequence[str] | None = None,
) -> list[Unit]:
    """The runs behind the table's cells; what is None is the profile's, as this table wants it."""
    methods = tuple(methods or profile.methods)
    axes = (profile.datasets, shots or profile.shots, seeds or profile.seeds)
    chosen = grid(EXPERIMENT, methods, *axes)
    if "free" in methods:
        chosen += grid(EXPERIMENT, ["free"], *axes, SUMMED)
    return without_repeats(chosen, profile)


def by_domain(record: Record) -> list[Record]:
    """A record of several domains taken apart: its episodes and accuracy on each."""
    names = domains(record["dataset"])
    parts = torch.tensor(record["episode_accuracies"], dtype=torch.float64).chunk(len(names))
    taken_apart = []
    for name, part in zip(names, parts, strict=True):
        mean, ci95 = mean_and_interval(part)
        own = {"dataset": name, "episode_accuracies": part.tolist(), "n_episodes": len(part)}
        taken_apart.append({**record, **own, "accuracy": mean, "accuracy_ci95": ci95, "accuracy_last": None})
    return taken_apart


def sizes(record: Record) -> str:
    """A run's domains in words: how many models, and how large the images are."""
    names, pixels = domains(record["dataset"]), record["evaluation"]["image_size"]
    models: dict[str, float] = dict.fromkeys(names, 0)
    for part in record["pool"]["parts"]:
        models[part["dataset"]] += part_size(part)
    return "; ".join(
        f"{DATASET_TITLES.get(name, name)}: {models[name]} models, "
        + ("images of their own size" if side is None else f"{side} pixels")
        for name, side in zip(names, pixels, strict=True)
    )


def rows(records: Sequence[Record], *, reference: str = "free") -> pd.DataFrame:
    """The table's rows, see `accuracy_rows`: on each domain, then on their mean, by accuracy."""
    apart = [part for record in records for part in by_domain(record)]
    order = {name: i for i, name in enumerate(domains(records[0]["dataset"]))}
    table = accuracy_rows([*apart, *records], table=EXPERIMENT, reference=reference, variant=variant)
    table = table.assign(order=table["dataset"].map(order).fillna(len(order)))  # the mean is last
    columns = ["order", "n_shot", "oracle", "accuracy"]
    return table.sort_values(columns, ignore_index=True).drop(columns="order")


def conclusion(table: pd.DataFrame) -> str:
    """What the pair of alignments says on each domain and on their mean."""
    return " ".join(
        sentence(row, f"On {DATASET_TITLES.get(row['dataset'], row['dataset'])}, {row['n_shot']}-shot")
        for _, row in pairs(table).iterrows()
    )

"""What the number format of pre-training, and its crop and flip, do to a pool as a teacher.

Small pools, several of each kind: of one seed they share classes, weights at the start and batches, so that
a pair differs by the setting alone. Their features are scored, not a learner's: that takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from freelib.environment import nothing_is_made
from freelib.run.evaluation import mean_over_seeds
from freelib.run.grid import Plan, run_plan, standing
from freelib.run.pools import pool_config
from freelib.run.profiles import Profile, get_profile
from freelib.run.records import Record, RecordStore
from freelib.run.units import grid
from freelib.show.tables import DATASET_TITLES, Table, plus_minus, signed

EXPERIMENT = "pool_settings"
METHOD = "pool_features"


def variants(profile: Profile) -> dict[str, dict[str, Any]]:
    """By words, the fields of PoolConfig that are changed: none first, then the other value of each."""
    config = pool_config(profile.datasets[0], profile)
    precision = "float32" if config.precision == "bfloat16" else "bfloat16"
    augment = "without crop and flip" if config.augment else "with crop and flip"
    return {
        f"as in the profile ({config.precision})": {},
        f"in {precision}": {"precision": precision},
        augment: {"augment": not config.augment},
    }


def plan(profile: Profile) -> Plan:
    """The runs, a profile for each variant; none where the profile sets nothing for this experiment."""
    if EXPERIMENT not in profile.experiments:
        return []
    own = profile.for_experiment(EXPERIMENT)
    units = grid(EXPERIMENT, [METHOD], own.datasets, own.shots, own.seeds)
    return [(replace(own, pool={**own.pool, **fields}), units) for fields in variants(own).values()]


def run(profile: str | Profile, *, results: str | Path, cache: str | Path | None = None) -> list[Record]:
    """The records of `plan`, see `run_grid`; with FREELIB_RUNS=none those that stand, perhaps none."""
    grids = plan(get_profile(profile))
    if nothing_is_made():
        return [
            record
            for own, units in grids
            for record in standing(units, own, RecordStore(Path(results) / own.name / "records"))
        ]
    return run_plan(grids, results, cache=cache)


def rows(records: Sequence[Record], profile: str | Profile) -> pd.DataFrame:
    """A row a variant and number of shots: mean accuracy over the pools, and the difference to the first's.

    accuracy: in percent, with `ci95` over pools; difference, difference_ci95: pool by pool, NaN for the first
    """
    own = get_profile(profile).for_experiment(EXPERIMENT)
    found: dict[tuple[str, int], dict[int, Record]] = {}
    for words, fields in variants(own).items():
        wanted = replace(pool_config(own.datasets[0], own), **fields)
        for record in records:
            config: Mapping[str, Any] = record["pool"]["config"]
            if all(config[name] == getattr(wanted, name) for name in ("precision", "augment")):
                found.setdefault((words, record["n_shot"]), {})[record["seed"]] = record
    base = next(iter(variants(own)))
    table = []
    for (words, n_shot), by_seed in found.items():
        others = found.get((base, n_shot), {})
        gaps = [by_seed[seed]["accuracy"] - others[seed]["accuracy"] for seed in by_seed if seed in others]
        accuracy, ci95 = mean_over_seeds(torch.tensor([r["accuracy"] for r in by_seed.values()]))
        paired = words != base and gaps
        difference = mean_over_seeds(torch.tensor(gaps)) if paired else (float("nan"), float("nan"))
        table.append(
            {
                "dataset": own.datasets[0],
                "pre-training": words,
                "n_shot": n_shot,
                "pools": len(by_seed),
                "models": own.pool_fields(own.datasets[0])["n_models"],
                "accuracy": accuracy,
                "ci95": ci95,
                "difference": difference[0],
                "difference_ci95": difference[1],
            }
        )
    return pd.DataFrame(table)


def table(rows: pd.DataFrame, caption: str) -> Table:
    """The rows for readers."""
    lines = rows.to_dict("records")
    cells = pd.DataFrame(
        {
            "data set": rows["dataset"].map(DATASET_TITLES),
            "pre-training": rows["pre-training"],
            "shots": rows["n_shot"].astype(str),
            "nearest class mean on the pool's features, %": [
                f"{row['accuracy']:.1f}" if row["pools"] == 1 else plus_minus(row["accuracy"], row["ci95"])
                for row in lines
            ],
            "minus the first": [signed(row["difference"], row["difference_ci95"]) for row in lines],
            "pools": rows["pools"].astype(str),
            "models in each": rows["models"].astype(str),
        }
    )
    note = "± 95 % over the pools, by Student's t; differences pool by pool, on the same episodes."
    return Table(caption, rows, cells, note)


def sentence(rows: pd.DataFrame) -> str:
    """Each variant against the profile's pre-training, in points; empty without rows."""
    if not len(rows):
        return ""
    said: dict[str, list[str]] = {}
    for row in rows[rows["difference"].notna()].to_dict("records"):
        gap, width = row["difference"], row["difference_ci95"]
        apart = "" if abs(gap) > width else ", one pool" if row["pools"] == 1 else ", not told apart"
        said.setdefault(row["pre-training"], []).append(f"{signed(gap, width)} ({row['n_shot']}-shot{apart})")
    first = rows.iloc[0]
    pools = f"{first['pools']} pool{'s' if first['pools'] > 1 else ''} of {first['models']} models"
    return (
        f"{DATASET_TITLES[first['dataset']]}, {pools}, nearest class mean on their features, points over the "
        "pools: " + "; ".join(f"pre-training {words} {', '.join(gaps)}" for words, gaps in said.items()) + "."
    )

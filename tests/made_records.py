"""Records as a unit's run would make them, with episode accuracies of one's own: nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fake_methods import TINY
from test_records import fields

from freelib.experiments.evidence import PLANS, Evidence
from freelib.run.pools import pool_parts, pool_seed
from freelib.run.profiles import Profile
from freelib.run.records import Record, RecordStore, complete
from freelib.run.runner import Run
from freelib.run.units import Unit

Accuracies = Callable[[Unit], Sequence[float] | None]

MIXED = "cifar-fs+mini-imagenet+cub"
CLAIMED = replace(
    TINY,
    n_episodes=4,
    overrides={"*": {"width": 4}, "free": {"measure_every": 1}},
    experiments={
        "table2": {"datasets": (MIXED,), "methods": ("random", "pool_features", "free")},
        "table3": {
            "pool_parts": ({}, {"archs": ("resnet10",)}),
            "methods": ("random", "pool_features", "free"),
        },
        "table4": {"seeds": (0, 1, 2)},
    },
)
"""A profile with each table that the paper's claims are judged by."""
FREE = [51.0, 52.0, 53.0, 52.0]


def made(unit: Unit, profile: Profile, episodes: list[float], **changes: Any) -> Record:
    """The unit's record; its pool's identity lacks what only the images would tell."""
    parts = [
        {
            "dataset": part.dataset,
            "seed": part.seed(pool_seed(profile, unit.seed)),
            "config": asdict(part.config),
        }
        | ({} if part.take is None else {"take": part.take})
        for part in pool_parts(unit.dataset, profile)
    ]
    values = {
        **Run(unit, profile).settings,
        "experiment": unit.experiment,
        "profile": profile.name,
        "pool": parts[0] if len(parts) == 1 else {"parts": parts},
        "selection": unit.selection,
        "episode_accuracies": episodes,
        "accuracy": sum(episodes) / len(episodes),
        "accuracy_ci95": 1.0,
        "history": {"teacher_agreement": [0.5, 0.6]},
        "seconds": {"training": 10.0, "test": 1.0},
        "passes": 4,
    }
    return complete(fields(**values | changes))


def made_evidence(
    folder: Path, profile: Profile = CLAIMED, *records: Record, **tables: Accuracies
) -> Evidence:
    """The evidence of some records; given as "table1" and so on, the accuracies of all its runs."""
    store = RecordStore(folder)
    for name, accuracies in tables.items():
        for own, units in PLANS[name](profile):
            for unit in units:
                if (episodes := accuracies(unit)) is not None:
                    store.put(made(unit, own, [*episodes] * (1 + unit.dataset.count("+"))))
    for each in records:
        store.put(each)
    return Evidence(profile, store)


def by_method(**offsets: float) -> Accuracies:
    """FREE's accuracies for each unit, plus so many points for a method; None for methods not named."""

    def accuracies(unit: Unit) -> list[float] | None:
        if unit.method not in offsets:
            return None
        return [value + offsets[unit.method] for value in FREE]

    return accuracies

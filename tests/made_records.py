"""Records as a unit's run would make them, with episode accuracies of one's own: nothing is trained."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from test_records import fields

from freelib.experiments.pools import pool_parts, pool_seed
from freelib.experiments.runner import Run
from freelib.experiments.units import Unit
from freelib.profiles import Profile
from freelib.records import Record, complete


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

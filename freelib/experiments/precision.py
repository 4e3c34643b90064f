"""What bfloat16 in the recovery does to FREE's accuracy, and to its time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from freelib.experiments.grid import run_grid
from freelib.experiments.units import Unit
from freelib.profiles import Profile, get_profile
from freelib.records import RecordStore
from freelib.tables import Table, plus_minus

EXPERIMENT = "precision"


def units(profile: Profile, dataset: str, seeds: Sequence[int] | None = None) -> list[Unit]:
    """FREE with float32 and with bfloat16 in its recovery, the same seeds."""
    chosen = seeds or profile.seeds_for(dataset)
    return [
        Unit(EXPERIMENT, "free", dataset, 1, seed, {"precision": p})
        for p in ("float32", "bfloat16")
        for seed in chosen
    ]


def table(
    profile: str | Profile,
    *,
    results: str | Path,
    dataset: str | None = None,
    seeds: Sequence[int] | None = None,
    cache: str | Path | None = None,
) -> Table:
    """Accuracy and seconds of recovery with and without bfloat16, by seed; runs what has no record."""
    profile = get_profile(profile)
    store = RecordStore(Path(results) / profile.name / "records")
    chosen = units(profile, dataset or profile.datasets[0], seeds)
    records = run_grid(chosen, profile, store, cache=cache)
    rows = pd.DataFrame(
        {
            "precision": [r["precision"] for r in records],
            "seed": [r["seed"] for r in records],
            "accuracy": [r["accuracy"] for r in records],
            "ci95": [r["accuracy_ci95"] for r in records],
            "recovery_seconds": [r["seconds"]["recovery"] for r in records],
        }
    )
    cells = pd.DataFrame(
        {
            "precision": rows["precision"],
            "seed": rows["seed"].astype(str),
            "accuracy, %": [plus_minus(a, c) for a, c in zip(rows["accuracy"], rows["ci95"], strict=True)],
            "recovery, s": rows["recovery_seconds"].map("{:.0f}".format),
        }
    )
    means = rows.groupby("precision")["accuracy"].mean()
    note = ", ".join(f"{name}: {value:.1f} %" for name, value in means.items())
    return Table(
        f"FREE on {chosen[0].dataset}, 5-way 1-shot, profile {profile.name}.", rows, cells, f"Means: {note}."
    )

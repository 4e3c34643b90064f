"""Notebook 06 in words: the images of pool distillation, and whether the student beats its pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from freelib.experiments.beyond import METHOD
from freelib.records import Record
from freelib.tables import DATASET_TITLES, signed

KINDS = {"recovered": "recovered", "procedural": "procedural", "mixed": "mixtures"}
BARS = {"best_teacher": "one model's features", "pool_features": "all models' features"}
"""The rows that say what the pool's own features are worth, with nearest class means."""


def images(records: Sequence[Record]) -> str:
    """How many images of which kind the method learns from."""
    config = next(record["config"] for record in records if record["method"] == METHOD)
    return f"{_total(config)} images: {_kinds(config)}."


def variants_images(records: Sequence[Record], variants: Sequence[Record]) -> str:
    """The same of the ablation's base, as a part of the method's."""
    whole = next((_total(record["config"]) for record in records if record["method"] == METHOD), None)
    base = variants[0]["config"]
    part = f", {_total(base) / whole:.0%} of the method's {whole}" if whole else ""
    return f"The base has {_total(base)} images{part}: {_kinds(base)}."


def shares(config: Mapping[str, Any]) -> dict[str, float]:
    """Which part of the images that pool distillation learns from is of which kind; they add up to 1."""
    return {words: config[kind] / _total(config) for kind, words in KINDS.items()}


def _total(config: Mapping[str, Any]) -> int:
    return sum(config[kind] for kind in KINDS)


def _kinds(config: Mapping[str, Any]) -> str:
    return ", ".join(f"{share:.0%} {words}" for words, share in shares(config).items())


def verdict(rows: pd.DataFrame) -> str:
    """Pool distillation against the pool's own features, in pairs: a line a column, and a count."""
    lines, won, columns = [], 0, 0
    for (dataset, n_shot), group in rows.groupby(["dataset", "n_shot"], sort=False):
        best = group.sort_values("accuracy").to_dict("records")  # centred or not, the better of the two
        by_name = {row["method"].partition(" ")[0]: row for row in best}
        if METHOD not in by_name or not BARS.keys() <= by_name.keys():
            continue
        gaps = {name: (-by_name[name]["difference"], by_name[name]["difference_ci95"]) for name in BARS}
        told = ", ".join(f"{_place(*gap)} {BARS[name]} ({signed(*gap)} points)" for name, gap in gaps.items())
        lines.append(f"{DATASET_TITLES.get(str(dataset), dataset)}, {n_shot}-shot: one student is {told}.")
        won += all(gap > ci95 for gap, ci95 in gaps.values())
        columns += 1
    return "\n".join(
        [*lines, f"One student beats the features of all its teachers in {won} of {columns} columns."]
    )


def _place(gap: float, ci95: float) -> str:
    return "not told apart from" if abs(gap) <= ci95 else "above" if gap > 0 else "below"


def either(rows: pd.DataFrame) -> str:
    """What recovered and procedural images are worth alone, against half of each; empty where one lacks."""
    alone = {kind: rows[rows["label"] == f"{kind} only"] for kind in ("recovered", "procedural")}
    if not all(map(len, alone.values())):
        return ""
    told = [
        f"{kind} ones alone: "
        + ", ".join(
            f"{signed(row.iloc[0][name], row.iloc[0][name + '_ci95'])} ({name.split()[0]}-shot)"
            for name in _differences(rows)
        )
        for kind, row in alone.items()
    ]
    return f"As many images, half recovered and half procedural, against {'; '.join(told)} points, one seed."


def _differences(rows: pd.DataFrame) -> list[str]:
    return [name for name in rows.columns if name.endswith(" difference")]


def needs(rows: pd.DataFrame) -> str:
    """What each change costs or brings, sorted by the mean difference over the shots, in a line each."""
    names = _differences(rows)
    changes = rows.iloc[1:].assign(mean=rows[names].mean(axis=1)).sort_values("mean")
    return "\n".join(
        f"{row['group']}: {row['label']}: "
        + ", ".join(f"{signed(row[name], row[name + '_ci95'])} ({name.split()[0]}-shot)" for name in names)
        for row in changes.to_dict("records")
    )

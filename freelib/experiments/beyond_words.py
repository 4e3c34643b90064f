"""Notebook 06 in words: the images of pool distillation, and whether the student beats its pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from freelib.experiments.beyond import METHOD, cell, over
from freelib.experiments.verdicts import Cell
from freelib.run.records import Record
from freelib.show.tables import DATASET_TITLES, signed

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
    """Pool distillation against the pool's own features, in pairs: a line a column, and a count.

    rows: `beyond.rows` or `mixed_pools.rows`, whose means over data sets are no columns of their own

    Judged as the claims are: where there are several seeds, the interval over them has to tell as well, and
    the features with and without centring both count.
    """
    lines, signs = [], []
    for (dataset, n_shot), group in rows.groupby(["dataset", "n_shot"], sort=False):
        bars = {name: found for name in BARS if (found := _against(group, name)) is not None}
        if len(bars) < len(BARS):
            continue
        told = ", ".join(
            f"{_PLACES[found.sign]} {BARS[name]} ({signed(found.difference, found.half_width)} points, "
            f"{over(found)})"
            for name, found in bars.items()
        )
        joined = "joined" in group and group["joined"].all()
        where = f"{DATASET_TITLES.get(str(dataset), dataset)}, {n_shot}-shot"
        lines.append(f"{where}{' (not counted)' if joined else ''}: one student is {told}.")
        signs += [] if joined else [min(found.sign or 0 for found in bars.values())]
    won = sum(sign > 0 for sign in signs)
    return "\n".join(
        [*lines, f"One student beats the features of all its teachers in {won} of {len(signs)} columns."]
    )


_PLACES = {1: "above", 0: "not told apart from", -1: "below", None: "not told apart from"}


def _against(group: pd.DataFrame, name: str) -> Cell | None:
    """Against a column's rows of a method, the best of which is named; None where there is none."""
    there = group[(group["method"].str.partition(" ")[0] == name) & group["difference"].notna()]
    cells = [cell(row) for row in there.sort_values("accuracy", ascending=False).to_dict("records")]
    return replace(cells[0], rivals=tuple(cells[1:])) if cells else None


def either(rows: pd.DataFrame) -> str:
    """What recovered and procedural images are worth alone, against half of each; empty where one lacks."""
    alone = {kind: rows[rows["label"] == f"{kind} only"] for kind in ("recovered", "procedural")}
    if not all(map(len, alone.values())):
        return ""
    told = [
        f"{kind} images alone: "
        + ", ".join(
            f"{signed(row.iloc[0][name], row.iloc[0][name + '_ci95'])} ({name.split()[0]}-shot)"
            for name in _differences(rows)
        )
        for kind, row in alone.items()
    ]
    return (
        f"{' points; '.join(told).capitalize()} points; both against as many images, half of each kind. One "
        "seed, intervals over episodes."
    )


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

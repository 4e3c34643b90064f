"""Figure 7: what FREE's accuracy owes to k, the size of the pool, the meta-batch and the images a class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from freelib.run.accuracy_rows import episode_means, of_common_seeds
from freelib.run.evaluation import mean_and_interval, paired_difference
from freelib.run.grid import Plan, run_plan
from freelib.run.profiles import Profile, get_profile
from freelib.run.records import Record
from freelib.run.units import grid, unit_config
from freelib.show.figures import PALETTE, new_figure, styled
from freelib.show.tables import Table, plus_minus, signed

EXPERIMENT = "figure7"
AXES = {
    "adapt_steps": "passes k (k − 1 updates)",
    "pool_size": "models in the pool",
    "meta_batch": "models a round",
    "images_per_class": "images a class and task",
}
LAST_ROUNDS = 5


def run(
    profile: str | Profile,
    *,
    results: str | Path,
    datasets: Sequence[str] | None = None,
    shots: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    cache: str | Path | None = None,
) -> list[Record]:
    """FREE's records with one setting changed at a time, as the profile's `sensitivity` says.

    Of datasets and shots the first counts; seeds: the profile's first where None. A smaller pool is the first
    models of the whole one.

    Raises ValueError for a setting that FREE does not have; see `run_grid` too.
    """
    return run_plan(plan(get_profile(profile), datasets, shots, seeds), results, cache=cache)


def plan(
    profile: Profile,
    datasets: Sequence[str] | None = None,
    shots: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
) -> Plan:
    """The runs with the whole pool, the base first, and those with each smaller one; see `run`."""
    profile = profile.for_experiment(EXPERIMENT)
    dataset, n_shot = (datasets or profile.datasets)[0], (shots or profile.shots)[0]
    axes = (["free"], [dataset], [n_shot], seeds or profile.seeds[:1])
    base = grid(EXPERIMENT, *axes)
    start, whole = unit_config(base[0], profile), profile.pool_fields(dataset)["n_models"]
    sizes = profile.sensitivity.get("pool_size", ())
    changed = [
        unit
        for axis, values in profile.sensitivity.items()
        for value in values
        if axis != "pool_size" and value != getattr(start, axis)
        for unit in grid(EXPERIMENT, *axes, {axis: value})
    ]
    smaller = [replace(profile, pool_parts=({"take": size},)) for size in sizes if size != whole]
    return [(profile, base + changed), *((own, base) for own in smaller)]


def settings(record: Record) -> dict[str, int]:
    """A record's value on each of AXES."""
    pool = record["pool"]
    values = {name: record["config"][name] for name in AXES if name != "pool_size"}
    return values | {"pool_size": pool.get("take") or pool["config"]["n_models"]}


def rows(records: Sequence[Record]) -> pd.DataFrame:
    """One row for each axis and value: accuracy with its 95 % interval over episodes, chance, agreement.

    The first record's settings are the base, which has a row on every axis. difference, difference_ci95: to
    it, paired over the same episodes and the seeds that both have; NaN for itself. agreement: share of
    recovered images, in percent, that the model puts in the intended class, mean of the last rounds.

    Raises ValueError where a record differs from the base in several settings, or has no seed of the base's.
    """
    base = settings(records[0])
    found: dict[tuple[str, int], list[Record]] = {}
    for record in records:
        values = settings(record)
        moved = [axis for axis in AXES if values[axis] != base[axis]]
        if len(moved) > 1:
            raise ValueError(f"{record['config_digest']} differs from the base in {', '.join(moved)}")
        for axis in moved or AXES:
            found.setdefault((axis, values[axis]), []).append(record)
    table = []
    for (axis, value), members in found.items():
        accuracy, ci95 = mean_and_interval(episode_means(members))
        gap = _to_base(members, found[axis, base[axis]]) if value != base[axis] else (math.nan, math.nan)
        agreement = np.mean([r["history"]["teacher_agreement"][-LAST_ROUNDS:] for r in members])
        passes = np.mean([r["passes"] for r in members])
        row = (axis, value, value == base[axis], accuracy, ci95, *gap, 100 * agreement, passes, len(members))
        table.append((*row, 100 / records[0]["n_way"]))
    columns = [
        *("axis", "value", "base", "accuracy", "ci95", "difference", "difference_ci95"),
        *("agreement", "passes", "n_seeds", "chance"),
    ]
    order = {axis: number for number, axis in enumerate(AXES)}
    table.sort(key=lambda row: (order[row[0]], row[1]))
    return pd.DataFrame(table, columns=columns)


def _to_base(own: Sequence[Record], base: Sequence[Record]) -> tuple[float, float]:
    pair = of_common_seeds(*({record["seed"]: record for record in group} for group in (own, base)))
    if not all(pair):
        raise ValueError(f"the base has none of the seeds {', '.join(str(r['seed']) for r in own)}")
    return paired_difference(*map(episode_means, pair))


@styled
def sensitivity_figure(table: pd.DataFrame) -> Figure:
    """A column for each setting: accuracy above, teacher agreement below; the base is filled."""
    axes_names = list(dict.fromkeys(table["axis"]))
    figure, axes = new_figure(2, len(axes_names), height=1.7, sharey="row", sharex="col")
    for column, axis_name in enumerate(axes_names):
        chosen = table[table["axis"] == axis_name]
        x = np.arange(len(chosen))
        fill = [PALETTE[0] if is_base else "white" for is_base in chosen["base"]]
        top, bottom = axes[0][column], axes[1][column]
        style: dict[str, Any] = {"color": PALETTE[0], "linewidth": 1.2}
        top.errorbar(x, chosen["accuracy"], yerr=chosen["ci95"], capsize=3, zorder=2, **style)
        bottom.plot(x, chosen["agreement"], zorder=2, **style)
        top.axhline(chosen["chance"].iloc[0], color="#555555", linewidth=0.8, linestyle=":", label="chance")
        for axis, y in ((top, chosen["accuracy"]), (bottom, chosen["agreement"])):
            axis.scatter(x, y, s=26, c=fill, edgecolors=PALETTE[0], zorder=3)
        bottom.set_xticks(x, [str(value) for value in chosen["value"]])
        bottom.set(xlabel=AXES[axis_name], xlim=(-0.4, len(chosen) - 0.6))
    axes[0][0].set_ylabel("accuracy, %")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center")
    axes[1][0].set_ylabel("teacher agreement, %")
    return figure


def sensitivity_table(table: pd.DataFrame) -> Table:
    """The rows for readers."""
    cells = pd.DataFrame(
        {
            "setting": [AXES[name] for name in table["axis"]],
            "value": [
                f"{v} (base)" if b else str(v) for v, b in zip(table["value"], table["base"], strict=True)
            ],
            "accuracy, %": list(map(plus_minus, table["accuracy"], table["ci95"])),
            "minus the base, same episodes": list(map(signed, table["difference"], table["difference_ci95"])),
            "seeds": table["n_seeds"],
            "teacher agreement, %": [f"{value:.0f}" for value in table["agreement"]],
            "passes": [f"{value:.0f}" for value in table["passes"]],
        }
    )
    return Table("FREE with one setting changed at a time; mean ± 95 % interval over episodes.", table, cells)


def few_steps_suffice(table: pd.DataFrame, floor: float = 0.0) -> str:
    """The paper's claim on k in a sentence: whether more steps than the base's raise accuracy.

    floor: see `conclusion`
    """
    steps = table[table["axis"] == "adapt_steps"]
    base = steps[steps["base"]].iloc[0]
    more = steps[steps["value"] > base["value"]]
    if not len(more):
        return f"No k above {base['value']} was tried: whether more steps bring more stays open."
    best = more.loc[more["accuracy"].idxmax()]
    gains = best["difference"] > max(best["difference_ci95"], floor if best["n_seeds"] == 1 else 0.0)
    return (
        f"More steps than k = {base['value']} {'raise' if gains else 'do not measurably raise'} accuracy: at "
        f"best {signed(best['difference'], best['difference_ci95'])} points, at k = {best['value']}."
    )


def at_chance(table: pd.DataFrame) -> bool:
    """Whether no setting's interval lies above chance, so that accuracy tells none from another."""
    return bool((table["accuracy"] - table["ci95"] <= table["chance"]).all())


def drowned(table: pd.DataFrame, floor: float) -> str:
    """Which differences of one seed are below the half-width of one seed's interval; empty where none is."""
    found = table[(table["n_seeds"] == 1) & (table["difference"].abs() < floor)]
    named = [
        f"{AXES[str(axis)]}: {', '.join(map(str, group['value']))}"
        for axis, group in found.groupby("axis", sort=False)
    ]
    if not named:
        return ""
    words = f"The 95 % interval of one seed's difference has a half-width of {floor:.1f} points (table 4)"
    return f" {words}; below it, and so not told apart from the base, are {'; '.join(named)}."


def conclusion(table: pd.DataFrame, floor: float = 0.0) -> str:
    """What each setting changes, a sentence on k, and a warning where nothing was learned.

    floor: half-width of the 95 % interval of one seed's difference, in points; 0 where that is not known
    """
    words = []
    for axis, group in table.groupby("axis", sort=False):
        base = group[group["base"]].iloc[0]
        others = ", ".join(
            f"{signed(row['difference'], row['difference_ci95'])} at {row['value']}"
            for row in group[~group["base"]].to_dict("records")
        )
        words.append(f"{AXES[str(axis)]}: {others or 'nothing else'} (base: {base['value']})")
    warning = (
        f" No setting is above chance ({table['chance'].iloc[0]:.0f} %): at this size accuracy says nothing "
        "about them."
    )
    base, n_seeds = table[table["base"]].iloc[0], table["n_seeds"].min()
    seeds = "one seed" if n_seeds == 1 else f"{n_seeds} seeds"
    found = (
        f"The base reaches {plus_minus(base['accuracy'], base['ci95'])} %. One setting changed, points on "
        f"the same episodes, {seeds}: {'; '.join(words)}. "
    )
    return (
        found
        + few_steps_suffice(table, floor)
        + drowned(table, floor)
        + (warning if at_chance(table) else "")
    )

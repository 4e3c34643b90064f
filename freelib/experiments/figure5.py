"""Figure 5: how far the tasks' gradients agree while FREE trains, with alignment and with plain sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from freelib.run.evaluation import mean_over_seeds
from freelib.run.grid import Plan, run_plan
from freelib.run.profiles import Profile, get_profile
from freelib.run.records import Record
from freelib.run.units import grid
from freelib.show.figures import LINE_STYLES, PALETTE, mean_and_each, new_figure, styled
from freelib.show.tables import DATASET_TITLES, Table, signed

EXPERIMENT = "figure5"
MEASURES = {
    "cosine": "cosine of\ntwo tasks' gradients",
    "inner_product": "inner product of\ntwo tasks' gradients",
}
KINDS = {"sequential": "aligned (BelL)", "summed": "summed gradients"}
SOURCES = ("table4", "table2")
SEEDS = (0, 1, 2)
"""An interval needs several, also where the profile has one."""


def run(
    profile: str | Profile,
    *,
    results: str | Path,
    datasets: Sequence[str] | None = None,
    shots: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    cache: str | Path | None = None,
) -> list[Record]:
    """FREE's records with alignment and with summed gradients: table 4's, and table 2's of the mixed pool.

    datasets: only these, each at the size of the table that has it; of `shots` the first counts; seeds: the
    profile's, or three where it has fewer. All seeds learn from one pool. See `run_grid`.
    """
    return run_plan(plan(get_profile(profile), datasets, shots, seeds), results, cache=cache)


def plan(
    profile: Profile,
    datasets: Sequence[str] | None = None,
    shots: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
) -> Plan:
    """For each source its profile, and the runs in it; see `run`."""
    parts = []
    for source in SOURCES:
        own = profile.for_experiment(source)
        own = replace(own, pool_seed=own.pool_seed or 0)
        chosen = [name for name in own.datasets if datasets is None or name in datasets]
        own_seeds = seeds or (own.seeds if len(own.seeds) > 1 else SEEDS)
        axes = (chosen, [(shots or own.shots)[0]], own_seeds)
        units = grid(EXPERIMENT, ["free"], *axes) + grid(EXPERIMENT, ["free"], *axes, {"alignment": "summed"})
        parts.append((own, units))
    return parts


def rows(records: Sequence[Record]) -> pd.DataFrame:
    """One row for each data set, kind, seed and measured round, with both measures.

    Raises ValueError where a record lacks them: its config's `measure_every` is 0, or it had a model a round.
    """
    found = []
    for record in records:
        history = record["history"] or {}
        if not history.get("measured_round"):
            advice = "set measure_every above 0, and meta_batch above 1"
            raise ValueError(f"{record['config_digest']} has no measurements: {advice}")
        columns = (history["measured_round"], history["cosine"], history["inner_product"])
        kind = record["config"]["alignment"]
        for number, cosine, product in zip(*columns, strict=True):
            found.append((record["dataset"], kind, record["seed"], int(number), cosine, product))
    return pd.DataFrame(found, columns=["dataset", "kind", "seed", "round", "cosine", "inner_product"])


def same_rounds(table: pd.DataFrame) -> bool:
    """Whether all runs of a data set were measured in the same rounds."""
    measured = table.groupby(["dataset", "kind", "seed"])["round"].agg(tuple)
    return bool((measured.groupby("dataset").nunique() == 1).all())


def title(dataset: str) -> str:
    """A data set's name for readers; several joined by "+" are a mixed pool."""
    n = dataset.count("+") + 1
    return DATASET_TITLES.get(dataset, dataset) if n == 1 else f"a mixed pool of {n} data sets"


def by_round(table: pd.DataFrame, measure: str, *, windows: int = 10) -> pd.DataFrame:
    """Means over equal stretches of training: a row a kind and stretch, a column a seed.

    windows: stretches at most
    """
    rounds = sorted(table["round"].unique())
    size = -(-len(rounds) // windows)
    place = {number: rounds[i // size * size : i // size * size + size] for i, number in enumerate(rounds)}
    middle = {number: sum(members) / len(members) for number, members in place.items()}
    means = table.assign(round=table["round"].map(middle)).groupby(["kind", "round", "seed"])[measure]
    return means.mean().unstack("seed")


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Aligned minus summed for each data set and measure, averaged over training: mean over seeds, paired.

    Columns: dataset, measure, aligned, summed, difference, ci95 (of the difference), n_seeds, raises (whether
    the interval lies above 0).
    """
    found = []
    for dataset, group in table.groupby("dataset", sort=False):
        for measure in MEASURES:
            means = group.groupby(["seed", "kind"])[measure].mean().unstack("kind").dropna()
            gap = torch.tensor((means["sequential"] - means["summed"]).tolist(), dtype=torch.float64)
            mean, ci95 = mean_over_seeds(gap)
            values = (means["sequential"].mean(), means["summed"].mean(), mean, ci95, len(gap))
            found.append((dataset, measure, *values, bool(mean - ci95 > 0)))
    columns = ["dataset", "measure", "aligned", "summed", "difference", "ci95", "n_seeds", "raises"]
    return pd.DataFrame(found, columns=columns)


def difference_table(found: pd.DataFrame) -> Table:
    """`differences` for readers."""
    cells = pd.DataFrame(
        {
            "data set": [title(name) for name in found["dataset"]],
            "measure": [name.replace("_", " ") for name in found["measure"]],
            "aligned": [f"{value:.3g}" for value in found["aligned"]],
            "summed": [f"{value:.3g}" for value in found["summed"]],
            "aligned − summed": list(map(partial(signed, digits=3), found["difference"], found["ci95"])),
            "seeds": found["n_seeds"],
        }
    )
    return Table("Agreement of the tasks' gradients, mean over training; ± 95 % over seeds.", found, cells)


@styled
def agreement_figure(table: pd.DataFrame) -> Figure:
    """Both measures over rounds: a row a data set, for each kind its mean and the seeds' lines.

    A measure has one scale in all rows.
    """
    datasets = list(dict.fromkeys(table["dataset"]))
    figure, axes = new_figure(len(datasets), len(MEASURES), height=2.3, sharey="col")
    for line, dataset in zip(axes, datasets, strict=True):
        for axis, (measure, label) in zip(line, MEASURES.items(), strict=True):
            _draw(axis, by_round(table[table["dataset"] == dataset], measure))
            axis.set(xlabel="round", title=title(dataset))
            axis.set_ylabel(label, fontsize=7)
            axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)  # no half rounds
    handles, names = axes[0][0].get_legend_handles_labels()
    n_seeds = table["seed"].nunique()
    seeds = f"mean of {n_seeds} seeds; thin lines: single seeds" if n_seeds > 1 else "one seed"
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), title=seeds, title_fontsize=7)
    return figure


def _draw(axis: Axes, found: pd.DataFrame) -> None:
    for i, (kind, label) in enumerate(KINDS.items()):
        if kind in found.index:
            curves = found.loc[kind]
            style = {"color": PALETTE[i], "linestyle": LINE_STYLES[i], "marker": "o", "markersize": 2.5}
            mean_and_each(axis, curves.index, curves.to_numpy(), label, linewidth=1.3, **style)
    axis.axhline(0, color="#555555", linewidth=0.8, linestyle=":")


def conclusion(found: pd.DataFrame) -> str:
    """What the measurements say, in a sentence a data set."""
    words = []
    for row in found[found["measure"] == "cosine"].to_dict("records"):
        gap, width, n_seeds = row["difference"], row["ci95"], row["n_seeds"]
        if n_seeds > 1:
            verdict = "raises" if gap > width else "lowers" if gap < -width else "does not measurably change"
            seeds = f" over {n_seeds} seeds; aligned {row['aligned']:.3f}, summed {row['summed']:.3f}"
            if width > max(abs(row["aligned"]), abs(row["summed"])):
                seeds += ": the interval is wider than the cosine itself, too wide to tell"
        else:
            verdict, seeds = "goes with a difference in", ", one seed: no interval"
        words.append(
            f"On {title(row['dataset'])} alignment {verdict} the cosine of the "
            f"tasks' gradients ({signed(gap, width, 3)}{seeds})."
        )
    return " ".join(words)

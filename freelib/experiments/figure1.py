"""Figure 1: five steps of a warm meta-generator against a recovery from nothing, by passes and by seconds."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from freelib.show.figures import LINE_STYLES, PALETTE, mean_and_each, new_figure, styled
from freelib.show.tables import DATASET_TITLES
from freelib.studies.recovery_cost import WAYS, steps_to_equal

EXPERIMENT = "figure1"
REPORTED = 20
"""The paper's speed-up of data recovery."""

_MEASURES = {"agreement": "teacher agreement, %", "loss": "inversion loss"}
_COSTS = {"step": "passes of a task", "seconds": "seconds of a task"}


@styled
def cost_figure(table: pd.DataFrame) -> Figure:
    """Agreement and loss against passes and against seconds: a row a data set, a line a way.

    Both axes of cost are logarithmic. Lines are means over tasks, thin lines the single tasks.
    """
    datasets = list(dict.fromkeys(table["dataset"]))
    figure, axes = new_figure(2 * len(datasets), 2, height=2.1)
    for number, dataset in enumerate(datasets):
        chosen = table[table["dataset"] == dataset]
        for line, (measure, label) in zip(axes[2 * number :], _MEASURES.items(), strict=False):
            for axis, (cost, words) in zip(line, _COSTS.items(), strict=True):
                _draw(axis, chosen, measure, cost)
                axis.set(xlabel=words, ylabel=label, xscale="log")
                axis.set_ylim(0, 102 if measure == "agreement" else None)
        axes[2 * number][0].set_title(DATASET_TITLES.get(dataset, dataset), loc="left")
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names))
    return figure


def _draw(axis: Axes, table: pd.DataFrame, measure: str, cost: str) -> None:
    for i, (way, label) in enumerate(WAYS.items()):
        own = table[table["way"] == way]
        curves = own.pivot(index="step", columns=["seed", "model"], values=measure)
        x = own.groupby("step")[cost].mean() if cost == "seconds" else curves.index
        style = {"color": PALETTE[i], "linestyle": LINE_STYLES[i], "marker": "o" if way == "five" else ""}
        mean_and_each(axis, x, curves.to_numpy(), label, linewidth=1.3, markersize=3, **style)


def speed_up(table: pd.DataFrame, way: str = "scratch", measure: str = "agreement") -> dict[str, float]:
    """How much longer a way takes to FIve's agreement, or loss, on the same task: medians over tasks.

    Gives steps, passes and seconds (both as multiples of FIve's), and the share of tasks in which it was
    reached. A task in which it was not counts as one that takes longer than any.
    """
    found = steps_to_equal(table, way, measure)
    multiples = {
        "steps": found["step"],
        "passes": found["step"] / found["five_steps"],
        "seconds": found["seconds"] / found["five_seconds"],
    }
    medians = {name: float(np.median(column.fillna(np.inf))) for name, column in multiples.items()}
    return {**medians, "reached": float(found["step"].notna().mean()), "tasks": len(found)}


def whole_run(table: pd.DataFrame, way: str = "scratch") -> float:
    """How many times FIve's seconds all the passes of a way from nothing take, on one data set."""
    last = {way: tasks[tasks["step"] == tasks["step"].max()] for way, tasks in table.groupby("way")}
    return float(last[way]["seconds"].mean() / last["five"]["seconds"].mean())


def conclusion(table: pd.DataFrame) -> str:
    """What was measured, against the paper's twentyfold, for each data set.

    Two comparisons: at equal agreement, and with all the passes that a generator from scratch was given.
    """
    sentences = []
    for dataset, group in table.groupby("dataset", sort=False):
        last = {way: tasks[tasks["step"] == tasks["step"].max()] for way, tasks in group.groupby("way")}
        five, scratch = last["five"], last["scratch"]
        as_many = group[(group["way"] == "scratch") & (group["step"] == five["step"].max())]["agreement"]
        whole = whole_run(group)
        equal = {way: speed_up(group, way) for way in ("scratch", "pixels")}
        found = whole >= REPORTED, equal["scratch"]["passes"] >= REPORTED
        sentences.append(
            f"On {DATASET_TITLES.get(str(dataset), str(dataset))}, {five['step'].max()} steps of the warm "
            f"meta-generator reach an agreement of {five['agreement'].mean():.0f} % on models that it never "
            f"met, as many of a generator from scratch {as_many.mean():.0f} %. To the same agreement, "
            f"{_times(WAYS['scratch'], equal['scratch'])}; {_times(WAYS['pixels'], equal['pixels'])} (medians"
            f" over {len(five)} tasks). To the same loss, "
            f"{_times(WAYS['scratch'], speed_up(group, measure='loss'))}. "
            f"All {scratch['step'].max()} passes of a generator from scratch take {whole:.1f} times "
            f"FIve's seconds and reach {scratch['agreement'].mean():.0f} %; how many is a choice, and "
            f"the ratio grows with it. The paper's {REPORTED} times less time is "
            f"{'found' if found[0] else 'not found'} against all those passes; as many times fewer "
            f"passes are {'found' if found[1] else 'not found'} at equal agreement."
        )
    return " ".join(sentences)


def _times(name: str, found: dict[str, float]) -> str:
    if np.isinf(found["steps"]):
        return f"{name}: not reached in most of the tasks"
    return f"{name}: {found['passes']:.1f} times FIve's passes, {found['seconds']:.1f} times its seconds"

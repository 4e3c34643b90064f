"""Were the runs long enough? What the last third of training brought on the meta-validation classes."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

from freelib.experiments import beyond, paper_size, pool_settings
from freelib.experiments.evidence import PLANS, Evidence
from freelib.methods import get_method
from freelib.run.evaluation import mean_over_seeds
from freelib.run.records import Record
from freelib.run.units import domains
from freelib.show.tables import signed

TITLES = {
    beyond.EXPERIMENT: "beyond the paper",
    paper_size.EXPERIMENT: "the paper's size, end to end",
    pool_settings.EXPERIMENT: "settings of pre-training",
}
HEADING = "Were the runs long enough?"
RISING, FALLING, OPEN = "still rising", "falling", "not told from flat"
LEAST = 3
"""So many looks make a curve: each third of the training but the first has one."""
HEAD = (
    *("method", "where", "runs", "looks", "a look's ±", "change: median (lowest to highest)", "above zero"),
    *("above a look's ±", "mean", "below best, median", "verdict"),
)
NOTE = (
    "Looks at the meta-validation classes, of runs with at least three. *Change*: mean of the looks in the "
    "last third of a run minus mean of those in its middle third, in points; a best look minus another "
    "best could not be negative, this can. *A look's ±*: half-width of its 95 % interval over its "
    "episodes, by the spread of the test's. A run's looks share their episodes, so that a change is known "
    "better than that. *Mean*: with its 95 % interval over the runs, as if they were independent (variants "
    "of one seed are not quite); one run is held against a look's ±. *Below best*: last look minus best "
    "look. A run counts once, in the first line that has it."
)


def called(experiment: str) -> str:
    """An experiment's name for readers: `table 1`."""
    return TITLES.get(experiment, f"{experiment[:-1]} {experiment[-1]}")


def change(rounds: list[float], scores: list[float]) -> float:
    """Mean score of a training's last third minus that of its middle third; NaN where one has no look."""
    place = np.array(rounds) / rounds[-1]
    last, middle = place > 2 / 3, (place > 1 / 3) & (place <= 2 / 3)
    if not (last.any() and middle.any()):
        return math.nan
    return float(np.array(scores)[last].mean() - np.array(scores)[middle].mean())


def look_interval(record: Record) -> float:
    """Half-width of a look's 95 % interval, in points: the test's, over as many episodes as a look has."""
    episodes = record["evaluation"]["validation_episodes"] * len(domains(record["dataset"]))
    return float(record["accuracy_ci95"] * math.sqrt(record["n_episodes"] / episodes))


def curves(evidence: Evidence) -> pd.DataFrame:
    """One row a training that was looked at, each once, though several experiments may have it.

    Columns: experiment, method, looks, width (see `look_interval`), change (NaN with fewer than three looks),
    below (last look minus best), in points.
    """
    seen, found = set(), []
    for experiment in PLANS:
        for record in evidence.runs(experiment).records:
            history = record["history"] or {}
            rounds, scores = (history.get(f"validation_{name}", []) for name in ("round", "accuracy"))
            key = (record["method"], record["dataset"], record["seed"], record["pool_digest"], *scores)
            if scores and key not in seen:
                seen.add(key)
                moved = change(rounds, scores) if len(scores) >= LEAST else math.nan
                below = scores[-1] - max(scores)
                row = (experiment, record["method"], len(scores), look_interval(record), moved, below)
                found.append(row)
    return pd.DataFrame(found, columns=["experiment", "method", "looks", "width", "change", "below"])


def rows(evidence: Evidence) -> pd.DataFrame:
    """One row a method and experiment: what `summed_up` tells of its `curves` of at least three looks."""
    told = curves(evidence).dropna(subset=["change"])
    groups = told.groupby(["experiment", "method"], sort=False)
    return pd.DataFrame({"experiment": e, "method": m, **summed_up(group)} for (e, m), group in groups)


def summed_up(group: pd.DataFrame) -> dict[str, Any]:
    """Some curves in numbers: how many, their looks, a look's width, their changes, and a verdict on these.

    above: in how many the change is larger than a look's width; below: median of last look minus best
    """
    moved, width = group["change"], float(group["width"].median())
    mean, ci95 = mean_over_seeds(torch.tensor(moved.tolist(), dtype=torch.float64))
    bound = width if math.isnan(ci95) else ci95
    return {
        "runs": len(group),
        "looks": sorted(set(group["looks"])),
        "width": width,
        "median": float(moved.median()),
        "low": float(moved.min()),
        "high": float(moved.max()),
        "up": int((moved > 0).sum()),
        "above": int((moved > group["width"]).sum()),
        "mean": mean,
        "ci95": ci95,
        "below": float(group["below"].median()),
        "verdict": RISING if mean > bound else FALLING if mean < -bound else OPEN,
    }


def long_enough(evidence: Evidence) -> Iterator[str]:
    """The section: what was measured, a line a method and experiment, and a conclusion."""
    yield from (f"### {HEADING}", "")
    found = rows(evidence)
    if not len(found):
        yield from ("No run with at least three looks at the meta-validation classes yet.", "")
        return
    yield from (NOTE, "", f"| {' | '.join(HEAD)} |", "| --- " * len(HEAD) + "|")
    yield from (_line(row) for row in found.to_dict("records"))
    yield from ("", conclusion(evidence), "")


def _line(row: Mapping[Hashable, Any]) -> str:
    median, low, high, below = (_points(row[name]) for name in ("median", "low", "high", "below"))
    cells = (
        get_method(row["method"]).title,
        called(row["experiment"]),
        str(row["runs"]),
        ", ".join(map(str, row["looks"])),
        f"{row['width']:.1f}",
        median if row["runs"] == 1 else f"{median} ({low} to {high})",
        str(row["up"]),
        str(row["above"]),
        _points(row["mean"]) if row["runs"] == 1 else signed(row["mean"], row["ci95"]),
        below,
        row["verdict"],
    )
    return f"| {' | '.join(cells)} |"


def _points(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "−")  # + 0.0: no minus zero


def _of_free(evidence: Evidence) -> tuple[str, str]:
    """The verdict on all FREE's runs at the profile's own size, and a clause on them; empty without runs."""
    found = curves(evidence).dropna(subset=["change"])
    found = found[(found["method"] == "free") & (found["experiment"] != paper_size.EXPERIMENT)]
    if not len(found):
        return "", ""
    own = summed_up(found)
    words = {
        RISING: "was not trained long enough",
        FALLING: "was trained for too long",
        OPEN: "was perhaps trained long enough",
    }[own["verdict"]]
    return own["verdict"], (
        f"FREE, at the {evidence.profile.name} profile's size, {words}: from the middle to the last third of "
        f"training it, and its variants, gain in {own['up']} of {own['runs']} runs, by a median of "
        f"{_points(own['median'])} points (at most {_points(own['high'])})"
    )


def _at_the_papers_size(evidence: Evidence) -> str:
    """The same of the run of the paper's size; empty where there is none."""
    found = rows(evidence)
    own = found[found["experiment"] == paper_size.EXPERIMENT] if len(found) else found
    if not len(own):
        return ""
    row = own.iloc[0]
    n_rounds = evidence.runs(paper_size.EXPERIMENT).records[0]["config"]["rounds"]
    seeds = "one seed" if row["runs"] == 1 else f"{row['runs']} seeds"
    return (
        f"at the paper's size ({n_rounds} rounds, {row['looks'][-1]} looks, {seeds}) it is {row['verdict']}: "
        f"{_points(row['mean'])} points, a look being ± {row['width']:.1f}"
    )


def _unknown(evidence: Evidence) -> list[str]:
    """The methods of which no run has a curve, only one look or two."""
    looks = curves(evidence).groupby("method", sort=False)["looks"].max()
    return [get_method(str(name)).title for name, most in looks.items() if most < LEAST]


def gist(evidence: Evidence) -> str:
    """The conclusion on FREE and on what has no curve, in a line; empty where nothing was looked at."""
    parts = [_of_free(evidence)[1], _at_the_papers_size(evidence)]
    if unknown := _unknown(evidence):
        parts.append(f"{', '.join(unknown)}: too few looks to tell")
    return "; ".join(filter(None, parts))


def conclusion(evidence: Evidence) -> str:
    """What the table says, in sentences: of FREE, of the paper's size, of the others."""
    found, text = rows(evidence), []
    verdict, words = _of_free(evidence)
    if words:
        text.append(f"{words}.")
    if verdict == RISING:
        text.append(
            "A longer run would probably be better. Differences between such runs, table 4's among them, say "
            "what holds after this much training, not at its end."
        )
    if larger := _at_the_papers_size(evidence):
        text.append(f"{larger[0].upper()}{larger[1:]}.")
    others = found[(found["method"] != "free") & (found["experiment"] == "table1")]
    for told, group in others.groupby("verdict", sort=False):
        names = ", ".join(get_method(name).title for name in group["method"])
        text.append(f"In table 1, {told}: {names}.")
    if unknown := _unknown(evidence):
        text.append(
            f"{', '.join(unknown)}: too few looks for a curve, so that whether a longer run would be better "
            "is not known."
        )
    return " ".join(text)

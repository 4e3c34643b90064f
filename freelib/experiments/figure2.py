"""Figure 2: how unlike each other the models of a pool are, and the tasks that are recovered from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from freelib.experiments.scene import WARMUP_ROUNDS, Scene
from freelib.models.pool import ModelPool, PretrainedModel
from freelib.run.measure import measured
from freelib.run.profiles import Profile, get_profile
from freelib.run.records import Record
from freelib.show.figures import PALETTE, new_figure, styled
from freelib.show.tables import DATASET_TITLES

KINDS = ("the same model, twice", "a class in common", "no class in common", "different domains")


def mixed(profile: str | Profile) -> Profile:
    """The profile with table 2's data sets, whose models form one pool."""
    return get_profile(profile).for_experiment("table2")


class Spread(Scene):
    """Accuracy of every model, and distances between the distributions of tasks recovered from them."""

    experiment = "figure2"

    def record(self, *, n_models: int = 60, n_eyes: int = 4) -> Record:
        """The measurement: of at most n_models, evenly taken; distances as n_eyes models see the images."""
        about = {"free": self.run.settings["config"], "n_models": n_models, "n_eyes": n_eyes}
        about["warmup_rounds"] = WARMUP_ROUNDS
        return measured(
            self.run, "spread", about, lambda: self._measure(n_models, n_eyes), self.store, revision=3
        )

    def _measure(self, n_models: int, n_eyes: int) -> dict[str, Any]:
        rng = self.rng()
        generator = self.warm_generator(rng)
        before = generator.iterations
        models = evenly(self.pool, n_models)
        eyes = evenly(self.pool, n_eyes)
        recoveries = [[generator.adapt(model, None, rng).images for model in models] for _ in range(2)]
        features = [[common_features(eyes, images) for images in row] for row in recoveries]
        first, second = [
            [found.unflatten(0, (model.n_way, -1)) for found, model in zip(row, models, strict=True)]
            for row in standardised(features)
        ]  # a recovered task's images come class by class
        return {
            "names": [model.name for model in models],
            "domains": [model.domain for model in models],
            "accuracies": [d["accuracy"] for d in self.pool.descriptions],
            "all_domains": [d["domain"] for d in self.pool.descriptions],
            "n_ways": sorted({len(d["class_names"]) for d in self.pool.descriptions}),
            "eyes": [model.name for model in eyes],
            "kinds": [[kind_of_pair(a, b) for b in models] for a in models],
            "distances": [[round(value, 5) for value in row] for row in distances(first, second).tolist()],
            "passes": generator.iterations - before,
        }


def evenly(pool: ModelPool, n: int) -> list[PretrainedModel]:
    """N of a pool's models at even steps, the first among them; all where it has no more."""
    return [pool[i * len(pool) // min(n, len(pool))] for i in range(min(n, len(pool)))]


@torch.no_grad()
def common_features(eyes: Sequence[PretrainedModel], images: Tensor) -> Tensor:
    """What several models make of the same images, side by side: `(n, C, H, W)` -> `(n, Σ d)`."""
    return torch.cat([model.features(images) for model in eyes], dim=1)


def standardised(rows: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """Sets of features with mean 0 and deviation 1 in each column over all of them, divided by √d."""
    everything = torch.cat([features for row in rows for features in row])
    std, mean = torch.std_mean(everything, dim=0)
    scale = std.clamp_min(1e-6) * everything.shape[1] ** 0.5
    return [[(features - mean) / scale for features in row] for row in rows]


def energy_distance(a: Tensor, b: Tensor) -> Tensor:
    """2 E‖x − y‖ − E‖x − x'‖ − E‖y − y'‖ of two stratified samples, without bias; a scalar.

    Samples are `(n_classes, n, d)`: as many of each class. Two of one class are then rarer within a sample
    than in two draws from the mixture: classes are given their equal weights again.
    0 for one distribution, but for noise, which may be negative (Székely and Rizzo, 2013).
    """
    between = _distances(a.flatten(0, 1), b.flatten(0, 1)).mean()
    return 2 * between - _within(a) - _within(b)


def _within(sample: Tensor) -> Tensor:
    n_classes, n, _ = sample.shape
    flat = sample.flatten(0, 1)
    sums = _distances(flat, flat).view(n_classes, n, n_classes, n).sum((1, 3))
    own = torch.eye(n_classes, device=sums.device)
    return (sums / (n * (n - own))).mean()  # no image is paired with itself


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """‖x − y‖ `(n, m)`, 0 of equal ones: by the matrix product, which is faster, it would be about 1e-3."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def distances(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """Energy distances `(n, n)` between the first recoveries (rows) and the second (columns) of n models."""
    return torch.stack([torch.stack([energy_distance(a, b) for b in second]) for a in first])


def kind_of_pair(a: PretrainedModel, b: PretrainedModel) -> int:
    """Which of KINDS two models are."""
    if a.name == b.name:
        return 0
    return 3 if a.domain != b.domain else 1 if set(a.classes) & set(b.classes) else 2


def by_kind(record: Record, *, draws: int = 1000) -> pd.DataFrame:
    """Mean distance of each kind of pair, with a 95 % interval from resampled models, and its values.

    Columns: kind, mean, low, high, n_pairs, values, drawn (the mean of each drawing of models, NaN where it
    holds no such pair); pairs (i, j) and (j, i) count as one, averaged.
    """
    values, kinds = np.array(record["extra"]["distances"]), np.array(record["extra"]["kinds"])
    values, n, rng = (values + values.T) / 2, len(values), np.random.default_rng(0)
    chosen = rng.integers(0, n, (draws, n))
    rows = []
    for kind, name in enumerate(KINDS):
        mask = kinds == kind
        if not mask.any():
            continue
        drawn = _of_drawn(values, mask, chosen) if kind else [values.diagonal()[c] for c in chosen]
        of_kind = values[np.triu(mask)]
        enough = len(of_kind) > 1  # one pair has no interval
        means = np.array([found.mean() if enough and len(found) else np.nan for found in drawn])
        low, high = interval(means)
        rows.append((name, of_kind.mean(), low, high, len(of_kind), of_kind.tolist(), means))
    return pd.DataFrame(rows, columns=["kind", "mean", "low", "high", "n_pairs", "values", "drawn"])


def _of_drawn(values: np.ndarray, mask: np.ndarray, chosen: np.ndarray) -> list[np.ndarray]:
    """The masked values of each drawing; a model that is drawn twice makes no pair with itself."""
    return [values[np.ix_(c, c)][mask[np.ix_(c, c)] & (c[:, None] != c[None])] for c in chosen]


def by_pair(record: Record, *, draws: int = 1000) -> pd.DataFrame:
    """Each pair of data sets: how far apart two of their tasks are, and how much further than within each.

    Columns: pair (their titles), between, within (mean of the two data sets' own mean distances), gap
    (between − within), low, high (its 95 % interval from resampled models: of each data set as many as are
    there). Empty where a data set has one model only, or there is one.
    """
    values, domains = np.array(record["extra"]["distances"]), np.array(record["extra"]["domains"])
    values, rng = (values + values.T) / 2, np.random.default_rng(0)
    names = list(dict.fromkeys(record["extra"]["domains"]))
    own = {name: np.flatnonzero(domains == name) for name in names}
    chosen = np.concatenate([rng.choice(places, (draws, len(places))) for places in own.values()], axis=1)
    other = ~np.eye(len(values), dtype=bool)
    means = {}
    for pair in [*((name, name) for name in names), *combinations(names, 2)]:
        side = np.logical_and.outer(domains == pair[0], domains == pair[1])
        mask = (side | side.T) & other
        drawn = [found.mean() if len(found) else np.nan for found in _of_drawn(values, mask, chosen)]
        means[pair] = np.array([values[mask].mean() if mask.any() else np.nan, *drawn])
    rows = []
    for a, b in combinations(names, 2):
        within = (means[a, a] + means[b, b]) / 2
        gap = means[a, b] - within
        title = "–".join(DATASET_TITLES.get(name, name) for name in (a, b))
        rows.append((title, means[a, b][0], within[0], gap[0], *interval(gap[1:])))
    found = pd.DataFrame(rows, columns=["pair", "between", "within", "gap", "low", "high"])
    return found.dropna(subset=["gap"])


def pair_sentence(record: Record) -> str:
    """`by_pair` in words, and whose models look at the images; empty where no pair can be told."""
    found, extra = by_pair(record), record["extra"]
    if not len(found):
        return ""
    words = [
        f"{row['pair']}: {row['between']:.3f} against {row['within']:.3f}, {row['gap']:+.3f} "
        f"{in_brackets(row['low'], row['high'])}"
        for row in found.to_dict("records")
    ]
    text = f"Between two data sets against the mean within the two: {'; '.join(words)}.".replace("-0.", "−0.")
    domain_of = dict(zip(extra.get("names", ()), extra["domains"], strict=False))
    seen = Counter(DATASET_TITLES.get(domain_of[eye], domain_of[eye]) for eye in extra.get("eyes", ()))
    if seen:
        text += f" Distances are as {seen.total()} of the models see the images: "
        text += f"{', '.join(f'{count} of {name}' for name, count in seen.items())}."
    return text


def interval(drawn: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of what was drawn, but for NaN; NaN where nothing is left."""
    there = drawn[~np.isnan(drawn)]
    low, high = np.percentile(there, [2.5, 97.5]) if len(there) else (np.nan, np.nan)
    return float(low), float(high)


@styled
def spread_figure(record: Record) -> Figure:
    """Accuracies by domain, the matrix of distances, and the distances by kind of pair."""
    extra, found = record["extra"], by_kind(record)
    figure, axes = new_figure(1, 3, height=2.7, width_ratios=[1, 1.15, 1.3])
    _draw_accuracies(axes[0][0], extra)
    _draw_matrix(axes[0][1], extra)
    axis, rng = axes[0][2], np.random.default_rng(0)
    for i, row in enumerate(found.to_dict("records")):
        values = np.array(row["values"])
        axis.plot(
            values, i + rng.uniform(-0.25, 0.25, len(values)), ".", color="#555555", markersize=3, alpha=0.5
        )
        error = [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]
        axis.errorbar(
            row["mean"], i, xerr=error, fmt="D", color="black", markersize=4, capsize=3, mfc="white"
        )
    pairs = zip(found["kind"], found["n_pairs"], strict=True)
    axis.set_yticks(range(len(found)), [f"{kind}\n({n} pairs)" for kind, n in pairs])
    axis.set(xlabel="energy distance", title="by kind of pair")
    axis.grid(visible=False, axis="y")
    axis.invert_yaxis()
    return figure


def numbered(extra: dict[str, Any]) -> list[int]:
    """The pool's models by domain and by accuracy within one: their places here are their numbers."""
    domains, accuracies = extra["all_domains"], extra["accuracies"]
    first = list(dict.fromkeys(domains))
    return sorted(range(len(domains)), key=lambda i: (first.index(domains[i]), accuracies[i]))


def _draw_accuracies(axis: Any, extra: dict[str, Any]) -> None:
    order, domains = numbered(extra), list(dict.fromkeys(extra["all_domains"]))
    for i, domain in enumerate(domains):
        own = {n: model for n, model in enumerate(order, start=1) if extra["all_domains"][model] == domain}
        heights = [100 * extra["accuracies"][model] for model in own.values()]
        axis.bar(list(own), heights, color=PALETTE[i], label=DATASET_TITLES.get(domain, domain))
    for n_way in extra["n_ways"]:
        label = f"chance of {n_way} classes"
        axis.axhline(100 / n_way, color="#555555", linewidth=0.8, linestyle=":", label=label)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set(xlabel="model", ylabel="held-out accuracy, %", ylim=(0, 100), title="the pool")
    axis.figure.legend(loc="outside lower left", ncols=len(domains) + 1)


def _draw_matrix(axis: Any, extra: dict[str, Any]) -> None:
    places, n = {model: i for i, model in enumerate(numbered(extra), start=1)}, len(extra["distances"])
    numbers = [places[i * len(places) // n] for i in range(n)]  # of the models that `evenly` took
    order = np.argsort(numbers)
    shown = axis.imshow(np.array(extra["distances"])[np.ix_(order, order)], cmap="cividis")
    axis.grid(visible=False)
    domains = [extra["domains"][i] for i in order]
    for i in range(1, n):
        if domains[i] != domains[i - 1]:
            axis.axhline(i - 0.5, color="white", linewidth=0.8)
            axis.axvline(i - 0.5, color="white", linewidth=0.8)
    ticks = range(0, n, -(-n // 6))
    for side in (axis.xaxis, axis.yaxis):
        side.set_ticks(ticks, [str(numbers[order[i]]) for i in ticks])
    axis.set(title="distance of two tasks", xlabel="model, second recovery", ylabel="model, first recovery")
    axis.figure.colorbar(shown, ax=axis, shrink=0.75, label="energy distance")


def further(found: pd.DataFrame, near: str, far: str) -> tuple[float, float, float]:
    """How much further apart pairs of one kind are than those of another, with its 95 % interval.

    Both means are taken from the same drawings of models, so that what they share cancels.
    """
    rows = {row["kind"]: row for row in found.to_dict("records")}
    low, high = interval(rows[far]["drawn"] - rows[near]["drawn"])
    return rows[far]["mean"] - rows[near]["mean"], low, high


def in_brackets(low: float, high: float) -> str:
    """`[0.012, 0.034]`; one pair has no interval (NaN)."""
    return "(one pair)" if np.isnan(low) else f"[{low:.3f}, {high:.3f}]".replace("-", "−")


def conclusion(record: Record) -> str:
    """The numbers behind the figure, in sentences."""
    found, accuracies = by_kind(record), [100 * a for a in record["extra"]["accuracies"]]
    words = [
        f"{row['kind']}: {row['mean']:.3f} {in_brackets(row['low'], row['high'])}"
        for row in found.to_dict("records")
    ]
    return (
        f"{len(accuracies)} models with held-out accuracies from {min(accuracies):.0f} to "
        f"{max(accuracies):.0f} %. Energy distance of two recovered tasks, mean and 95 % interval: "
        + "; ".join(words).replace("-0.", "−0.")
        + f". {pair_sentence(record)}"
    ).rstrip()

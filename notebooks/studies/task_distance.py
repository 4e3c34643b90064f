"""How far apart the tasks are that are synthesised from a pool's models: energy distances (figure 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from freelib.methods.free import FreeConfig
from freelib.models.pool import ModelPool, PretrainedModel
from studies.synthesised_images import evenly, warm_generator

KINDS = ("the same model, twice", "a class in common", "no class in common", "different data sets")
"""Of pairs of models; the numbers in a record's "kinds" are places here."""
Pairs = NDArray[Any]  # `(n, n)`, a value for each pair of models


def energy_distance(a: Tensor, b: Tensor) -> Tensor:
    """2 E‖x − y‖ − E‖x − x'‖ − E‖y − y'‖ of two stratified samples, without bias; a scalar.

    a, b: `(n_classes, n, d)`, as many of each class. Two images of one class are rarer within such a sample
      than in two draws from the mixture: the classes are given their equal weights again.

    0 for one distribution, but for noise, which may be negative (Székely and Rizzo, 2013).
    """
    between = _norms(a.flatten(0, 1), b.flatten(0, 1)).mean()
    return 2 * between - _within(a) - _within(b)


def _within(sample: Tensor) -> Tensor:
    n_classes, n, _ = sample.shape
    flat = sample.flatten(0, 1)
    sums = _norms(flat, flat).view(n_classes, n, n_classes, n).sum((1, 3))
    own = torch.eye(n_classes, device=sums.device)
    return (sums / (n * (n - own))).mean()  # no image is paired with itself


def _norms(a: Tensor, b: Tensor) -> Tensor:
    """‖x − y‖ `(n, m)`, 0 of equal ones: by the matrix product, which is faster, it would be about 1e-3."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


@torch.no_grad()
def common_features(models: Sequence[PretrainedModel], images: Tensor) -> Tensor:
    """Several models' features of the same images, side by side: `(n, C, H, W)` -> `(n, Σ d)`."""
    return torch.cat([model.features(images) for model in models], dim=1)


def standardised(rows: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """Sets of features with mean 0 and deviation 1 in each column over all of them, divided by √d."""
    everything = torch.cat([features for row in rows for features in row])
    std, mean = torch.std_mean(everything, dim=0)
    scale = std.clamp_min(1e-6) * everything.shape[1] ** 0.5
    return [[(features - mean) / scale for features in row] for row in rows]


def kind_of_pair(a: PretrainedModel, b: PretrainedModel) -> int:
    """Which of KINDS two models are."""
    if a.name == b.name:
        return 0
    return 3 if a.domain != b.domain else 1 if set(a.classes) & set(b.classes) else 2


def spread(pool: ModelPool, config: FreeConfig, *, seed: int, n_models: int, n_eyes: int) -> dict[str, Any]:
    """Values of the record "spread": the pool's accuracies, and distances between its models' tasks.

    A task is synthesised twice from each of at most `n_models` models, evenly taken, by a meta-generator
    after its warm-up. Their features by `n_eyes` of the pool's models are the space in which distances are
    taken: "distances" `(n, n)` has the first tasks as rows and the second ones as columns.
    """
    rng = torch.Generator().manual_seed(seed)
    generator = warm_generator(pool, config, rng, seed=seed)
    before, models, eyes = generator.iterations, evenly(pool, n_models), evenly(pool, n_eyes)
    twice = [[generator.adapt(model, None, rng).images for model in models] for _ in range(2)]
    features = standardised([[common_features(eyes, images) for images in row] for row in twice])
    first, second = [  # a task's images come class by class
        [found.unflatten(0, (model.n_way, -1)) for found, model in zip(row, models, strict=True)] for row in features
    ]
    return {
        "names": [model.name for model in models],
        "domains": [model.domain for model in models],
        "accuracies": [d["accuracy"] for d in pool.descriptions],
        "all_domains": [d["domain"] for d in pool.descriptions],
        "n_ways": sorted({len(d["class_names"]) for d in pool.descriptions}),
        "eyes": [model.name for model in eyes],
        "kinds": [[kind_of_pair(a, b) for b in models] for a in models],
        "distances": [[round(float(energy_distance(a, b)), 5) for b in second] for a in first],
        "passes": generator.iterations - before,
    }


def resampled_means(values: Pairs, groups: Mapping[str, Pairs], draws: NDArray[np.int64]) -> pd.DataFrame:
    """The mean of each group of pairs of models, as measured and for models drawn anew with replacement.

    values: `(n, n)`, symmetric. groups: by name, which pairs count, `(n, n)` bool, symmetric. draws: numbers
      of models, `(n_draws, m)`.

    A column for each group; row 0 is as measured, each further row one draw: NaN where it holds no such
    pair, and for a group of one pair, which has no spread. A model that is drawn twice makes no pair with
    itself but at its own place. The groups share their draws, so that differences of columns are paired.
    """
    found = {}
    for name, group in groups.items():
        several = np.triu(group).sum() > 1
        drawn = [_mean_of_drawn(values, group, chosen) if several else np.nan for chosen in draws]
        found[name] = [values[group].mean() if group.any() else np.nan, *drawn]
    return pd.DataFrame(found)


def _mean_of_drawn(values: Pairs, group: Pairs, chosen: NDArray[np.int64]) -> float:
    square = np.ix_(chosen, chosen)
    pairs = (chosen[:, None] != chosen[None]) | np.eye(len(chosen), dtype=bool)
    there = values[square][group[square] & pairs]
    return float(there.mean()) if len(there) else np.nan

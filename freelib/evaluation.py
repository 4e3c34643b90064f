"""Testing a meta-learner: accuracy over episodes, its confidence interval, and paired comparison."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from freelib.episodes import EpisodeSampler, class_major_labels
from freelib.meta_learner import Classifier, MetaLearner, prototype_logits


class Learner(Protocol):
    """Anything that adapts to a support set."""

    def adapt(self, images: Tensor, labels: Tensor) -> Classifier: ...


def mean_and_interval(values: Tensor) -> tuple[float, float]:
    """Mean of `(n,)` values and half-width of its 95 % interval, 1.96 · s / √n (0 for one value)."""
    values = values.double()
    spread = float(values.std()) if len(values) > 1 else 0.0
    return float(values.mean()), 1.96 * spread / math.sqrt(len(values))


def mean_over_seeds(values: Tensor) -> tuple[float, float]:
    """Mean of `(n,)` values and half-width of its 95 % interval by Student's t, NaN for one value.

    For a handful of seeds, where 1.96 would make the interval far too short.
    """
    from scipy.stats import t  # takes half a second to import

    values, n = values.double(), len(values)
    if n < 2:
        return float(values.mean()), math.nan
    return float(values.mean()), float(t.ppf(0.975, n - 1)) * float(values.std()) / math.sqrt(n)


@dataclass(frozen=True)
class Score:
    """Accuracies over episodes `(n_episodes,)` in percent, their mean, and the 95 % interval's half-width."""

    accuracies: Tensor

    @property
    def mean(self) -> float:
        """Mean accuracy in percent."""
        return mean_and_interval(self.accuracies)[0]

    @property
    def ci95(self) -> float:
        """Half-width of the 95 % confidence interval of the mean, in percentage points."""
        return mean_and_interval(self.accuracies)[1]


def evaluate(
    learner: Learner,
    sampler: EpisodeSampler,
    n_episodes: int,
    progress: Callable[[int, int], None] | None = None,
) -> Score:
    """Accuracy on the sampler's first n_episodes: adapt to each support set, classify its queries."""
    if n_episodes < 1:
        raise ValueError(f"n_episodes must be at least 1, got {n_episodes}.")
    predictions: Iterator[Tensor]
    if isinstance(learner, MetaLearner) and learner.embeds_images_one_by_one:
        predictions = predict_from_features(learner, sampler, n_episodes)
    else:
        predictions = (
            learner.adapt(episode.support, episode.support_labels).predict(episode.query)
            for episode in sampler.take(n_episodes)
        )
    labels = class_major_labels(sampler.n_way, sampler.n_query)
    accuracies = []
    for i, predicted in enumerate(predictions):
        accuracies.append((predicted == labels.to(predicted.device)).double().mean() * 100)
        if progress:
            progress(i + 1, n_episodes)
    return Score(torch.stack(accuracies).cpu())


@torch.no_grad()
def predict_from_features(learner: MetaLearner, sampler: EpisodeSampler, n_episodes: int) -> Iterator[Tensor]:
    """Each episode's predictions `(n_way * n_query,)`; an image is embedded once, in however many it is."""
    rows = torch.stack([sampler.indices(i) for i in range(n_episodes)])  # (n, n_way, n_shot + n_query)
    used, places = rows.unique(return_inverse=True)
    features = torch.cat([learner.embed(sampler.dataset.images[part]) for part in used.split(500)])
    labels = class_major_labels(sampler.n_way, sampler.n_shot).to(features.device)
    for place in places:
        support, query = place[:, : sampler.n_shot].flatten(), place[:, sampler.n_shot :].flatten()
        logits = prototype_logits(features[support], labels, features[query], centre=learner.centre)
        yield logits.argmax(1)


def paired_difference(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Mean of a − b over the same episodes, `(n,)` each, and the half-width of its 95 % confidence interval.

    Raises ValueError where the two were not measured on equally many episodes.
    """
    if a.shape != b.shape:
        raise ValueError(
            f"A paired comparison needs the same episodes: {tuple(a.shape)} against {tuple(b.shape)}."
        )
    return mean_and_interval(a.double() - b.double())

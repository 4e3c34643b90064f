"""Testing a meta-learner: accuracy over episodes, its confidence interval, and paired comparison."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from freelib.datasets.episodes import Episode, EpisodeSampler, class_major_labels
from freelib.fast import vmap
from freelib.fast.threads import in_threads
from freelib.meta_learner import CENTRES, Classifier, MetaLearner, finite_scores, prototype_logits


class Learner(Protocol):
    """Anything that adapts to a support set."""

    def adapt(self, images: Tensor, labels: Tensor) -> Classifier: ...


def mean_and_interval(values: Tensor, *, strata: int = 1) -> tuple[float, float]:
    """Mean of `(n,)` values and half-width of its 95 % interval, 1.96 · s / √n (0 for one value).

    strata: the values are of so many kinds, equally many of each, one kind after the other (the episodes of
      several domains); s² is then the mean of their variances: how far the kinds lie apart is no error
    """
    parts = values.double().view(strata, -1)
    spread = float(parts.var(1).mean().sqrt()) if parts.shape[1] > 1 else 0.0
    return float(parts.mean()), 1.96 * spread / math.sqrt(len(values))


@dataclass(frozen=True)
class Score:
    """Accuracies over episodes `(n_episodes,)` in percent, their mean, and the 95 % interval's half-width.

    strata: see `mean_and_interval`
    """

    accuracies: Tensor
    strata: int = 1

    @property
    def mean(self) -> float:
        """Mean accuracy in percent."""
        return mean_and_interval(self.accuracies, strata=self.strata)[0]

    @property
    def ci95(self) -> float:
        """Half-width of the 95 % confidence interval of the mean, in percentage points."""
        return mean_and_interval(self.accuracies, strata=self.strata)[1]


def evaluate(
    learner: Learner, sampler: EpisodeSampler, n_episodes: int, progress: Callable[[int, int], None] | None = None
) -> Score:
    """Accuracy on the sampler's first n_episodes: adapt to each support set, classify its queries.

    >>> from freelib.datasets import load_dataset
    >>> from freelib.models.backbones import build_backbone
    >>> network = build_backbone("conv4", n_way=5, image_size=16, width=8, batch_stats=True)
    >>> learner = MetaLearner(network, mean=(0.5,) * 3, std=(0.25,) * 3, image_size=16)
    >>> sampler = EpisodeSampler(load_dataset("glyphs", "test", size=16), n_query=2)
    >>> evaluate(learner, sampler, 4).accuracies.shape  # of each episode, in percent
    torch.Size([4])
    """
    if n_episodes < 1:
        raise ValueError(f"n_episodes must be at least 1, got {n_episodes}.")
    if isinstance(learner, MetaLearner) and learner.embeds_images_one_by_one:
        return evaluate_centres(learner, sampler, n_episodes, [learner.centre], progress)[learner.centre]
    labels, accuracies = class_major_labels(sampler.n_way, sampler.n_query), []
    for i, predicted in enumerate(_predictions(learner, sampler, n_episodes), start=1):
        accuracies.append(_accuracy(predicted, labels.to(predicted.device)))
        if progress:
            progress(i, n_episodes)
    return Score(torch.stack(accuracies).cpu())


def _predictions(learner: Learner, sampler: EpisodeSampler, n_episodes: int) -> Iterator[Tensor]:
    """The classes given to each episode's queries, `(n_query,)` int64; on an accelerator many at a time."""
    if vmap.batches_episodes(learner) and type(learner).adapt is MetaLearner.adapt:
        for start in range(0, n_episodes, vmap.AT_ONCE):
            episodes = list(sampler.take(min(vmap.AT_ONCE, n_episodes - start), start=start))
            yield from vmap.predictions(learner, episodes, steps=learner.inner_steps)
    else:
        yield from in_threads(learner, _predicted, sampler.take(n_episodes))


def _predicted(learner: Learner, episode: Episode) -> Tensor:
    return learner.adapt(episode.support, episode.support_labels).predict(episode.query)


def _accuracy(predicted: Tensor, labels: Tensor) -> Tensor:
    return (predicted == labels).double().mean() * 100


@torch.no_grad()
def episode_features(learner: MetaLearner, sampler: EpisodeSampler, n_episodes: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Each episode's features of support and query; an image is embedded once, in however many it is."""
    rows = torch.stack([sampler.indices(i) for i in range(n_episodes)])  # (n, n_way, n_shot + n_query)
    used, places = rows.unique(return_inverse=True)
    features = torch.cat([learner.embed(sampler.dataset.images[part]) for part in used.split(500)])
    for place in places:
        support, query = place[:, : sampler.n_shot].flatten(), place[:, sampler.n_shot :].flatten()
        yield features[support], features[query]


@torch.no_grad()
def evaluate_centres(
    learner: MetaLearner,
    sampler: EpisodeSampler,
    n_episodes: int,
    centres: Sequence[str] = CENTRES,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Score]:
    """The same features scored with each of the means that a prototype head may take off, by its name.

    Raises ValueError for a learner that does not embed images one by one.
    """
    if not learner.embeds_images_one_by_one:
        raise ValueError("Only a prototype head on fixed BatchNorm statistics has features to centre.")
    shots, queries = (
        class_major_labels(sampler.n_way, n).to(learner.device) for n in (sampler.n_shot, sampler.n_query)
    )
    hits: dict[str, list[Tensor]] = {centre: [] for centre in centres}
    for i, (support, query) in enumerate(episode_features(learner, sampler, n_episodes), start=1):
        for centre in centres:
            predicted = finite_scores(prototype_logits(support, shots, query, centre=centre)).argmax(1)
            hits[centre].append(_accuracy(predicted, queries))
        if progress:
            progress(i, n_episodes)
    return {centre: Score(torch.stack(found).cpu()) for centre, found in hits.items()}


def paired_difference(a: Tensor, b: Tensor, *, strata: int = 1) -> tuple[float, float]:
    """Mean of a − b over the same episodes, `(n,)` each, and the half-width of its 95 % confidence interval.

    strata: see `mean_and_interval`

    Raises ValueError where the two were not measured on equally many episodes.
    """
    if a.shape != b.shape:
        raise ValueError(f"A paired comparison needs the same episodes: {tuple(a.shape)} against {tuple(b.shape)}.")
    return mean_and_interval(a.double() - b.double(), strata=strata)

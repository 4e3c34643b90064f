"""How several models see the same images: neighbours in their embeddings, and t-SNE (figure 4)."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from freelib.datasets import FewShotDataset
from freelib.datasets.episodes import images_to_float
from freelib.models.pool import ModelPool


def neighbours(features: Tensor, k: int) -> Tensor:
    """Numbers `(n, k)` of each row's k nearest others, by Euclidean distance."""
    distances = torch.cdist(features, features).fill_diagonal_(torch.inf)
    return distances.topk(k, largest=False).indices


def purity(near: Tensor, labels: Tensor) -> float:
    """The share of neighbours that are of their row's class, in [0, 1]."""
    return float((labels[near] == labels[:, None]).float().mean())


def overlap(a: Tensor, b: Tensor) -> float:
    """The share of neighbours `(n, k)` that two models have in common, in [0, 1]; k / (n - 1) by chance."""
    return float((a[:, :, None] == b[:, None, :]).any(2).float().mean())


def tsne(features: Tensor) -> list[list[float]]:
    """t-SNE of `(n, d)` features, started from their principal components: n points in the plane."""
    from sklearn.manifold import TSNE  # takes seconds to import

    perplexity = min(30, len(features) / 4)
    points = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(features.numpy())
    return [[round(float(x), 3), round(float(y), 3)] for x, y in points]


@torch.no_grad()
def same_samples(
    pool: ModelPool, dataset: FewShotDataset, *, n_models: int, n_classes: int, n_images: int, k: int
) -> dict[str, Any]:
    """Values of the record "same_samples": models at even steps of held-out accuracy, on the same images.

    The images are the first `n_images` of the data set's first `n_classes` classes. "overlaps" has the pairs
    of models in the order of `itertools.combinations`.
    """
    shown = [dataset.class_images(c)[:n_images] for c in range(min(n_classes, dataset.n_classes))]
    images = images_to_float(torch.cat(shown))
    labels = torch.arange(len(shown)).repeat_interleave(torch.tensor([len(part) for part in shown]))
    order = sorted(range(len(pool)), key=lambda i: pool.descriptions[i]["accuracy"] or 0.0)
    n = min(n_models, len(order))
    models = [pool[order[round(i * (len(order) - 1) / max(n - 1, 1))]] for i in range(n)]
    features = [model.features(images.to(model.device)).cpu() for model in models]
    near = [neighbours(x, k) for x in features]
    return {
        "models": [model.name for model in models],
        "domains": [model.domain for model in models],
        "accuracies": [model.accuracy for model in models],
        "class_names": list(dataset.class_names[: len(shown)]),
        "labels": labels.tolist(),
        "purity": [purity(rows, labels) for rows in near],
        "overlaps": [overlap(a, b) for a, b in combinations(near, 2)],
        "chance_overlap": k / (len(images) - 1),
        "points": [tsne(x) for x in features],
    }

"""Figure 4: the same real images as several models of the pool see them, by t-SNE."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from freelib.datasets.episodes import images_to_float
from freelib.experiments.scene import Scene
from freelib.run.measure import measured
from freelib.run.records import Record
from freelib.show.figures import PALETTE, new_figure, styled

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
NEIGHBOURS = 10


class SameSamples(Scene):
    """Images of meta-validation classes, which no model has seen, in the features of several models."""

    experiment = "figure4"

    def record(self, *, n_models: int = 6, n_classes: int = 5, n_images: int = 40) -> Record:
        """The measurement: models at even steps of accuracy; the first classes, and their first images."""
        about = {"n_models": n_models, "n_classes": n_classes, "n_images": n_images, "k": NEIGHBOURS}
        return measured(self.run, "same_samples", about, lambda: self._measure(**about), self.store)

    @torch.no_grad()
    def _measure(self, n_models: int, n_classes: int, n_images: int, k: int) -> dict[str, Any]:
        real = self.dataset("validation")
        shown = [real.class_images(c)[:n_images] for c in range(min(n_classes, real.n_classes))]
        images = images_to_float(torch.cat(shown))
        labels = torch.arange(len(shown)).repeat_interleave(torch.tensor([len(part) for part in shown]))
        order = sorted(range(len(self.pool)), key=lambda i: self.pool.descriptions[i]["accuracy"] or 0.0)
        n = min(n_models, len(order))
        models = [self.pool[order[round(i * (len(order) - 1) / max(n - 1, 1))]] for i in range(n)]
        features = [model.features(images.to(model.device)).cpu() for model in models]
        near = [neighbours(x, k) for x in features]
        return {
            "models": [model.name for model in models],
            "domains": [model.domain for model in models],
            "accuracies": [model.accuracy for model in models],
            "class_names": list(real.class_names[: len(shown)]),
            "labels": labels.tolist(),
            "purity": [purity(rows, labels) for rows in near],
            "overlaps": [overlap(a, b) for a, b in combinations(near, 2)],
            "chance_overlap": k / (len(images) - 1),
            "points": [embed(x) for x in features],
        }


def embed(features: Tensor) -> list[list[float]]:
    """t-SNE of `(n, d)` features, started from their principal components: n points in the plane."""
    from sklearn.manifold import TSNE  # takes seconds to import

    points = TSNE(perplexity=min(30, len(features) / 4), init="pca", random_state=0).fit_transform(
        features.numpy()
    )
    return [[round(float(x), 3), round(float(y), 3)] for x, y in points]


def neighbours(features: Tensor, k: int) -> Tensor:
    """Numbers `(n, k)` of each row's k nearest others, by Euclidean distance."""
    distances = torch.cdist(features, features).fill_diagonal_(torch.inf)
    return distances.topk(k, largest=False).indices


def purity(near: Tensor, labels: Tensor) -> float:
    """Share of neighbours that are of their row's class, in [0, 1]."""
    return float((labels[near] == labels[:, None]).float().mean())


def overlap(a: Tensor, b: Tensor) -> float:
    """Share of neighbours `(n, k)` that two models have in common, in [0, 1]."""
    return float((a[:, :, None] == b[:, None, :]).any(2).float().mean())


@styled
def tsne_figure(record: Record, *, columns: int = 3) -> Figure:
    """A panel a model, the same points in each; a colour and a mark for each class."""
    extra = record["extra"]
    n, labels = len(extra["models"]), np.array(extra["labels"])
    columns = min(columns, n)
    figure, axes = new_figure(-(-n // columns), columns, height=2.2)
    for axis in axes.flat[n:]:
        axis.set_axis_off()
    for i, axis in enumerate(axes.flat[:n]):
        points = np.array(extra["points"][i])
        for c, name in enumerate(extra["class_names"]):
            at = points[labels == c]
            style = {"color": PALETTE[c % len(PALETTE)], "marker": MARKERS[c % len(MARKERS)]}
            label = name.lower().replace("_", " ") if i == 0 else None
            axis.scatter(at[:, 0], at[:, 1], s=9, linewidths=0, alpha=0.85, label=label, **style)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.set_title(f"model of {100 * extra['accuracies'][i]:.0f} %: purity {extra['purity'][i]:.2f}")
    figure.legend(loc="outside lower center", ncols=3, markerscale=1.8)
    return figure


def conclusion(record: Record) -> str:
    """The numbers behind the figure, in a sentence."""
    extra = record["extra"]
    low, high = min(extra["overlaps"]), max(extra["overlaps"])
    return (
        f"Of an image's {record['config']['k']} nearest neighbours, two models share from {100 * low:.0f} to "
        f"{100 * high:.0f} % (by chance {100 * extra['chance_overlap']:.0f} %); the neighbours are of the "
        f"image's class in {100 * min(extra['purity']):.0f} to {100 * max(extra['purity']):.0f} % "
        f"(by chance {100 / len(extra['class_names']):.0f} %)."
    )

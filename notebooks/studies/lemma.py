"""Lemma 1 on small problems in float64: the expansion of θ − θ̃, and what sequential steps do in training.

With g_i the gradient of task i at θ, over a random order of n tasks, and where the Hessians are Lipschitz,
E[θ − θ̃] = α Σ_i g_i − α²/2 Σ_{i<j} ∇(g_i · g_j) + O(α³). The functions that train FREE are the ones checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, permutations

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from freelib.alignment import (
    AlignmentConfig,
    DistillationBatch,
    DistillationHeads,
    align,
    aligned_displacement,
    distillation_loss,
    gradient_agreement,
    make_optimizer,
)
from freelib.meta_learner import MetaLearner

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "u + |u|^2.5": lambda u: u + u.abs() ** 2.5,
    "u + u|u|": lambda u: u + u * u.abs(),
}
"""By name: smooth; with a Hessian that is continuous but not Lipschitz at 0; with one that jumps there."""


class SmallStudent(nn.Module):
    """Four pixels, four hidden units, three classes, in float64; at its start every hidden unit is at 0."""

    def __init__(self, activation: str, *, seed: int) -> None:
        super().__init__()
        self.n_way, self.activation = 3, ACTIVATIONS[activation]
        self.encoder, self.head = nn.Linear(4, 4), nn.Linear(4, 3)
        rng = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.encoder.parameters():
                parameter.zero_()
            for parameter in self.head.parameters():
                parameter.copy_(0.7 * torch.randn(parameter.shape, generator=rng))
        self.double()

    def features(self, images: Tensor) -> Tensor:
        """`(n, 1, 2, 2)` -> `(n, 4)`."""
        return self.activation(self.encoder(images.flatten(1)))

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(n, 3)`."""
        return self.head(self.features(images))


def small_problem(activation: str, *, seed: int, n_tasks: int = 3) -> tuple[DistillationHeads, list[DistillationBatch]]:
    """A student, and tasks of six images each whose teachers answer at random, all from one seed."""
    learner = MetaLearner(SmallStudent(activation, seed=seed), mean=(0.0,), std=(1.0,), image_size=2)
    rng = torch.Generator().manual_seed(1000 + seed)
    draw = [
        (torch.randn(6, 1, 2, 2, generator=rng).double(), 2 * torch.randn(6, 3, generator=rng).double())
        for _ in range(n_tasks)
    ]
    return DistillationHeads(learner), [DistillationBatch(images, logits) for images, logits in draw]


def expected_displacement(heads: DistillationHeads, tasks: Sequence[DistillationBatch], rate: float) -> Tensor:
    """E[θ − θ̃] over all orders of the tasks, exactly, for plain steps of α = rate: a vector."""
    config = AlignmentConfig(align_optimizer="sgd", align_inner_lr=rate)
    moves = [_flat(list(aligned_displacement(heads, order, config)[0].values())) for order in permutations(tasks)]
    return torch.stack(moves).mean(0)


def predicted_terms(heads: DistillationHeads, tasks: Sequence[DistillationBatch]) -> tuple[Tensor, Tensor]:
    """The lemma's Σ g_i and Σ_{i<j} ∇(g_i · g_j) at θ: two vectors."""
    params = list(heads.learner.params.values())
    gradients = []
    for task in tasks:
        loss = distillation_loss(heads, heads.learner.params, task)
        gradients.append(_flat(torch.autograd.grad(loss, params, create_graph=True)))
    pairs = torch.stack([a @ b for a, b in combinations(gradients, 2)]).sum()
    ascent = torch.autograd.grad(pairs, params)
    return torch.stack(gradients).sum(0).detach(), _flat(ascent)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def residuals(heads: DistillationHeads, tasks: Sequence[DistillationBatch], rates: Sequence[float]) -> list[float]:
    """‖E[θ − θ̃] − (α Σ g_i − α²/2 Σ_{i<j} ∇(g_i · g_j))‖ for each α in rates."""
    total, ascent = predicted_terms(heads, tasks)
    found = [expected_displacement(heads, tasks, a) - (a * total - a**2 / 2 * ascent) for a in rates]
    return torch.stack(found).norm(dim=1).tolist()


def slope(rates: Sequence[float], values: Sequence[float]) -> float:
    """Of the straight line through (log α, log residual), by least squares: the order of the residual."""
    return float(np.polyfit(np.log(rates), np.log(values), 1)[0])


def expansion(*, n_seeds: int, n_tasks: Sequence[int], rates: Sequence[float]) -> pd.DataFrame:
    """The residual of every activation, number of tasks, seed and rate: a row each.

    rates: the slopes are those of small α. Above 2e-3 the smooth term O(α³) bends the lines of slope 2.5 and
      2 (beside |u|^2.5 it has √α of its weight); below 1e-4 the residual of tanh is float64's rounding.
    """
    rows = []
    for activation in ACTIVATIONS:
        for n in n_tasks:
            for seed in range(n_seeds):
                heads, tasks = small_problem(activation, seed=seed, n_tasks=n)
                for rate, value in zip(rates, residuals(heads, tasks, rates), strict=True):
                    rows.append((activation, n, seed, rate, value))
    return pd.DataFrame(rows, columns=["activation", "n_tasks", "seed", "rate", "residual"])


def train(alignment: str, *, seed: int, rate: float, rounds: int, n_tasks: int) -> list[tuple[float, float]]:
    """Mean inner product and mean cosine of the tasks' gradients after each round of plain steps.

    alignment: "sequential", with β = 1, so that θ moves to θ̃; or "summed", joint gradients with a step of
      −α Σ g_i. The two are equal to first order; in the mean over orders they differ by the lemma's second
      term, up to O(α³). rate: α.
    """
    heads, tasks = small_problem("tanh", seed=seed, n_tasks=n_tasks)
    config = AlignmentConfig(alignment=alignment, align_inner_lr=rate, align_optimizer="sgd")
    outer = 1.0 if alignment == "sequential" else rate
    optimizer = make_optimizer("sgd", list(heads.learner.params.values()), outer)
    rng, found = torch.Generator().manual_seed(seed), []
    for _ in range(rounds):
        align(heads, tasks, config, optimizer, rng)
        product, cosine = gradient_agreement(heads, tasks)
        found.append((float(product), float(cosine)))
    return found


def training(*, n_seeds: int, rate: float, rounds: int, n_tasks: int) -> pd.DataFrame:
    """A row a seed and round: inner products with sequential steps, with joint ones, and their difference.

    The cosines stand beside the inner products, in columns whose names end in `_cosine`.
    """
    frames = []
    for seed in range(n_seeds):
        kinds = {}
        for kind in ("sequential", "summed"):
            curve = train(kind, seed=seed, rate=rate, rounds=rounds, n_tasks=n_tasks)
            kinds[kind], kinds[f"{kind}_cosine"] = zip(*curve, strict=True)
        frames.append(pd.DataFrame({"seed": seed, "round": range(1, rounds + 1), **kinds}))
    rows = pd.concat(frames, ignore_index=True)
    for end in ("", "_cosine"):
        rows[f"difference{end}"] = rows[f"sequential{end}"] - rows[f"summed{end}"]
    return rows.assign(rate=rate, n_tasks=n_tasks)

"""The small problems of lemma 1: a student in float64, and tasks whose teachers answer at random."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from freelib.alignment import DistillationBatch, DistillationHeads
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
    """A student in float64 and tasks of six images whose teachers answer at random, all from one seed."""
    learner = MetaLearner(SmallStudent(activation, seed=seed), mean=(0.0,), std=(1.0,), image_size=2)
    rng = torch.Generator().manual_seed(1000 + seed)
    draw = [
        (torch.randn(6, 1, 2, 2, generator=rng).double(), 2 * torch.randn(6, 3, generator=rng).double())
        for _ in range(n_tasks)
    ]
    return DistillationHeads(learner), [DistillationBatch(images, logits) for images, logits in draw]

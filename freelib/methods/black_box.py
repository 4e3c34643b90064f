"""Models that can only be called: gradients with respect to the image by zero-order estimation."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from freelib.distillation import at_least_float32
from freelib.models.pool import PretrainedModel

Answer = Callable[[Tensor], Tensor]


class ZeroOrder(torch.autograd.Function):
    """logits = answer(images), with a backward pass that calls `answer` instead of differentiating it.

    Along directions u_i, uniform on the unit sphere of an image's d numbers and drawn for each image apart,

        ∇̂ = (d/q) Σ_i u_i · gᵀ(answer(x + μ u_i) − answer(x)) / μ,    i = 1 … q,

    where g is the loss's gradient with respect to the logits, which is known. E[d · u uᵀ] is the identity:
    for a linear `answer` the estimate is unbiased, for a smooth one its bias is O(μ).
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, answer: Answer, directions: int, mu: float, rng: torch.Generator) -> Tensor:
        """Images `(n, C, H, W)` -> logits `(n, n_way)`."""
        logits = at_least_float32(answer(images.detach()))
        ctx.save_for_backward(images, logits)
        ctx.settings = answer, directions, mu, rng
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        """∇̂ `(n, C, H, W)` for the gradient `(n, n_way)`; `directions` calls of `answer`."""
        images, logits = ctx.saved_tensors
        answer, directions, mu, rng = ctx.settings
        estimate = torch.zeros_like(images)
        for _ in range(directions):
            u = torch.randn(images.shape, generator=rng).to(images)
            u /= u.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            slope = ((answer(images + mu * u) - logits) * gradient).sum(1) / mu  # (n,), along u
            estimate += slope.to(images).view(-1, 1, 1, 1) * u
        return estimate * (images[0].numel() / directions), None, None, None, None


class BlackBox(nn.Module):
    """A module without weights around something that can be called; counts the images asked about."""

    def __init__(self, answer: Answer, *, directions: int, mu: float, rng: torch.Generator) -> None:
        super().__init__()
        if directions < 1 or mu <= 0:
            raise ValueError(f"directions must be at least 1 and mu above 0, got {directions} and {mu}.")
        self._answer = answer
        self.directions, self.mu, self.rng = directions, mu, rng
        self.images_asked = 0

    @torch.no_grad()
    def ask(self, images: Tensor) -> Tensor:
        """One call of the model; no gradient comes back from it."""
        self.images_asked += len(images)
        return self._answer(images)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(n, n_way)` of images in [0, 1]; their gradient with respect to the images is estimated."""
        return ZeroOrder.apply(images, self.ask, self.directions, self.mu, self.rng)


def black_box_model(
    answer: Answer, *, rng: torch.Generator, directions: int = 100, mu: float = 0.005, channels: int = 3, **about: Any
) -> PretrainedModel:
    """A member of a pool of which nothing is used but calls.

    answer: images `(n, channels, image_size, image_size)` in [0, 1] -> logits or log-probabilities
      `(n, n_way)`; it normalises for itself
    directions, mu, rng: of the estimated gradients, see `ZeroOrder`
    about: class_names, image_size, name, domain and accuracy of the `PretrainedModel`

    Raises ValueError for directions or mu that are not positive.
    """
    box = BlackBox(answer, directions=directions, mu=mu, rng=rng)
    plain = {"mean": (0.0,) * channels, "std": (1.0,) * channels}
    return PretrainedModel(box, **{"name": "black box", "arch": "black box", **plain, **about})

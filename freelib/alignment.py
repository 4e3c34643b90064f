"""BelL, Better generalization via meta-Learner: distillation whose steps agree across models (part 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from freelib.augmentation import random_crop_flip
from freelib.distillation import DISTILLATION_LOSSES, at_least_float32
from freelib.generator import RecoveredTask
from freelib.meta_learner import MetaLearner

ALIGNMENTS = ("sequential", "summed")


@dataclass(frozen=True)
class AlignmentConfig:
    """The outer step over a meta-batch of recovered tasks; the defaults are the public release's.

    alignment: "sequential" is BelL's implicit gradient alignment; "summed" the plain sum of the tasks'
      gradients at θ
    align_inner_lr: α, of the sequential steps; align_lr: β, of the outer step
    align_optimizer: "adam" (inner state fresh each round, θ − θ̃ fed to the outer Adam as its gradient) or
      "sgd" (plain gradient steps inside and outside, the form that Lemma 1 speaks of)
    distillation: "kl", or the public release's mistaken form, "release"
    """

    alignment: str = "sequential"
    align_inner_lr: float = 1e-3
    align_lr: float = 1e-3
    align_optimizer: str = "adam"
    distillation: str = "kl"

    def __post_init__(self) -> None:
        for field, known in (
            ("alignment", ALIGNMENTS),
            ("align_optimizer", ("adam", "sgd")),
            ("distillation", tuple(DISTILLATION_LOSSES)),
        ):
            if getattr(self, field) not in known:
                raise ValueError(f"{field} is one of {', '.join(known)}, got {getattr(self, field)!r}.")


def make_optimizer(kind: str, params: Sequence[Tensor], lr: float) -> torch.optim.Optimizer:
    """Adam (fused) or plain gradient descent."""
    if kind == "adam":
        return torch.optim.Adam(params, lr=lr, fused=True)
    return torch.optim.SGD(params, lr=lr)


@dataclass(frozen=True)
class DistillationBatch:
    """What the student learns from one task: augmented images in [0, 1] and the teacher's logits for them."""

    images: Tensor
    teacher_logits: Tensor


@torch.no_grad()
def distillation_batch(
    task: RecoveredTask, rng: torch.Generator, *, padding: int = 4, flip: bool = True
) -> DistillationBatch:
    """A recovered task's images, cropped and flipped anew, with the answers of its model."""
    images = random_crop_flip(task.images, rng, padding=padding, flip=flip)
    return DistillationBatch(images, at_least_float32(task.model(images)))


def distillation_loss(
    learner: MetaLearner, params: dict[str, Tensor], batch: DistillationBatch, kind: str = "kl"
) -> Tensor:
    """L_KD of the student with weights `params`: the mean over images of KL(teacher ‖ student); a scalar."""
    logits = learner.forward(params, learner.transform(batch.images))
    return DISTILLATION_LOSSES[kind](batch.teacher_logits, logits).mean()


def aligned_displacement(
    learner: MetaLearner, batches: Sequence[DistillationBatch], config: AlignmentConfig
) -> tuple[dict[str, Tensor], Tensor]:
    """θ − θ̃ by name, and the mean loss: θ̃ is θ after one inner step a batch, in the order given.

    With plain steps, E[θ − θ̃] over random orders is α Σ g_i − α²/2 Σ_{i<j} ∇(g_i·g_j) + O(α³): Lemma 1.
    """
    start = learner.params
    params = {name: p.detach().clone().requires_grad_() for name, p in start.items()}
    optimizer = make_optimizer(config.align_optimizer, list(params.values()), config.align_inner_lr)
    losses = []
    for batch in batches:
        loss = distillation_loss(learner, params, batch, config.distillation)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return {name: p.detach() - params[name].detach() for name, p in start.items()}, torch.stack(losses).mean()


def summed_gradient(
    learner: MetaLearner, batches: Sequence[DistillationBatch], config: AlignmentConfig
) -> tuple[dict[str, Tensor], Tensor]:
    """Σ_i ∇L_KD(θ; task_i) by name, and the mean loss: what BelL is compared with."""
    params = learner.params
    losses = [distillation_loss(learner, params, batch, config.distillation) for batch in batches]
    total = torch.stack(losses)
    gradients = torch.autograd.grad(total.sum(), list(params.values()))
    return dict(zip(params, gradients, strict=True)), total.detach().mean()


def align(
    learner: MetaLearner,
    batches: Sequence[DistillationBatch],
    config: AlignmentConfig,
    optimizer: torch.optim.Optimizer,
    rng: torch.Generator,
) -> Tensor:
    """The outer step θ ← θ − β(θ − θ̃) over the batches in random order; gives the mean L_KD, a scalar.

    optimizer: the outer one, over the learner's parameters (see `make_optimizer`)
    """
    order = torch.randperm(len(batches), generator=rng).tolist()
    direction = aligned_displacement if config.alignment == "sequential" else summed_gradient
    gradients, loss = direction(learner, [batches[i] for i in order], config)
    for name, parameter in learner.params.items():
        parameter.grad = gradients[name]
    optimizer.step()
    optimizer.zero_grad()
    return loss


def gradient_agreement(
    learner: MetaLearner, batches: Sequence[DistillationBatch], kind: str = "kl"
) -> tuple[Tensor, Tensor]:
    """How far the tasks' gradients at θ agree: mean inner product and mean cosine over pairs (figure 5).

    Raises ValueError for fewer than two tasks.
    """
    if len(batches) < 2:
        raise ValueError(f"An inner product across tasks needs at least two of them, got {len(batches)}.")
    params = learner.params
    rows = []
    for batch in batches:
        gradients = torch.autograd.grad(
            distillation_loss(learner, params, batch, kind), list(params.values())
        )
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    stacked = torch.stack(rows)
    pairs = torch.triu_indices(len(rows), len(rows), offset=1)
    products = (stacked @ stacked.T)[pairs[0], pairs[1]]
    norms = stacked.norm(dim=1)
    return products.mean(), (products / (norms[pairs[0]] * norms[pairs[1]]).clamp_min(1e-12)).mean()

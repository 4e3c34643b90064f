"""BelL, Better generalization via meta-Learner: distillation by steps that agree across models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from freelib.distillation import DISTILLATION_LOSSES, at_least_float32
from freelib.generator import SynthesisedTask
from freelib.meta_learner import MetaLearner
from freelib.models.pool import ModelPool, PretrainedModel
from freelib.models.transform import random_crop_flip
from freelib.settings import check_above_zero, check_at_least, check_one_of, later

ALIGNMENTS = ("sequential", "summed", "variance")
OPTIMIZERS = {"adam": ("adam", "adam"), "sgd": ("sgd", "sgd"), "sgd_inside": ("sgd", "adam")}
"""By `align_optimizer`: that of the inner steps and that of the outer one."""


@dataclass(frozen=True)
class AlignmentConfig:
    """The outer step over a meta-batch of synthesised tasks.

    The defaults are the public release's, but for distillation and displacement_scale.

    alignment: "sequential" takes one step a task (Reptile-style), which is BelL's implicit gradient
      alignment; "summed" is its control, joint gradients: the plain sum of the tasks' gradients at θ;
      "variance" is TGR's rule (Wei et al., ICML 2024), see `variance_gradient`, with ε = variance_step
    align_inner_lr: α, of the sequential steps; align_lr: β, of the outer step
    align_optimizer: "adam" (inner state fresh each round, θ − θ̃ fed to the outer Adam as its gradient),
      "sgd" (plain gradient steps inside and outside, the form that Lemma 1 speaks of), or "sgd_inside" (plain
      steps inside, Adam outside: a fresh Adam's first steps have the gradients' signs and not their sizes)
    align_sweeps: distillation steps a round; the first over its tasks, the others over tasks from the memory
    label_weight: of the cross-entropy with the intended labels, beside L_KD
    distillation: "kl", or the public release's mistaken form, "release"
    displacement_scale: what θ − θ̃ is multiplied by before Adam gets it (the public release: 67), which Adam's ε
      and moments shared with replay alone can tell
    kd_heads: "shared", the student's one head answers for all models (as in the public release), though
      class 0 of one model is class 3 of another; or "per_model", a head for each on the shared features, as
      is usual in multi-task distillation
    """

    alignment: str = "sequential"
    align_sweeps: int = 1
    kd_heads: str = "shared"
    align_inner_lr: float = 1e-3
    align_lr: float = 1e-3
    align_optimizer: str = "adam"
    distillation: str = "kl"
    displacement_scale: float = later(1.0)
    label_weight: float = later(0.0)
    variance_step: float = later(1e-3)

    def __post_init__(self) -> None:
        check_at_least(self, align_sweeps=1, label_weight=0)
        check_above_zero(self, "displacement_scale", "variance_step")
        check_one_of(self, alignment=ALIGNMENTS, align_optimizer=OPTIMIZERS)
        check_one_of(self, distillation=DISTILLATION_LOSSES, kd_heads=("shared", "per_model"))


def outer_optimizer(config: AlignmentConfig, params: Sequence[Tensor]) -> torch.optim.Optimizer:
    """The optimizer of the outer step, over the learner's parameters and the heads'."""
    return make_optimizer(OPTIMIZERS[config.align_optimizer][1], params, config.align_lr)


def make_optimizer(kind: str, params: Sequence[Tensor], lr: float) -> torch.optim.Optimizer:
    """Adam (fused) or plain gradient descent."""
    if kind == "adam":
        return torch.optim.Adam(params, lr=lr, fused=True)
    return torch.optim.SGD(params, lr=lr)


@dataclass(frozen=True)
class DistillationBatch:
    """What the student learns from one task.

    images: augmented, `(n, C, H, W)` in [0, 1]; teacher_logits: their model's, `(n, n_way)`; model: its name
    labels: the classes that the images were made for, `(n,)`, where they are learnt from as well
    """

    images: Tensor
    teacher_logits: Tensor
    model: str = ""
    labels: Tensor | None = None


@torch.no_grad()
def distillation_batch(
    task: SynthesisedTask, rng: torch.Generator, *, padding: int = 4, flip: bool = True, each: bool = True
) -> DistillationBatch:
    """A synthesised task's images, cropped and flipped anew, with the answers of its model.

    padding, flip, each: see `random_crop_flip`
    """
    images = random_crop_flip(task.images, rng, padding=padding, flip=flip, each=each)
    return DistillationBatch(images, at_least_float32(task.model(images)), task.model.name, task.labels)


class DistillationHeads:
    """The linear heads through which the student answers for the models that it is distilled from.

    n_ways: None for the student's own head, whichever model asks; or the number of classes of each model by
      name, for a head `(n_way_i, feature_dim)` each, so that models do not contradict each other
    """

    def __init__(self, learner: MetaLearner, n_ways: Mapping[str, int] | None = None, *, seed: int = 0) -> None:
        self.learner, self.per_model = learner, n_ways is not None
        self.params: dict[str, Tensor] = {}
        if n_ways is None:
            return
        rng = torch.Generator().manual_seed(seed)
        like = learner.params["head.weight"]
        bound = like.shape[1] ** -0.5  # as nn.Linear starts
        for name, n_way in n_ways.items():
            for kind, shape in (("weight", (n_way, like.shape[1])), ("bias", (n_way,))):
                start = torch.empty(shape).uniform_(-bound, bound, generator=rng)
                self.params[f"{name}.{kind}"] = start.to(like).requires_grad_()

    @classmethod
    def for_pool(cls, learner: MetaLearner, pool: ModelPool, kind: str, *, seed: int = 0) -> DistillationHeads:
        """The heads for a pool: "shared" or "per_model" (see `AlignmentConfig`).

        Raises ValueError where one shared head would have to serve models with another number of classes.
        """
        n_ways = {d["name"]: len(d["class_names"]) for d in pool.descriptions}
        if kind == "per_model":
            return cls(learner, n_ways, seed=seed)
        own, classes = len(learner.params["head.weight"]), sorted(set(n_ways.values()))
        if classes != [own]:
            raise ValueError(
                f'One {own}-way head can\'t be distilled from models with {classes} classes: set kd_heads="per_model".'
            )
        return cls(learner)

    def trained(self, batches: Sequence[DistillationBatch]) -> dict[str, Tensor]:
        """What distillation from these batches changes, by name: θ, or the features and the models' heads."""
        if not self.per_model:
            return self.learner.params
        features = {name: p for name, p in self.learner.params.items() if not name.startswith("head.")}
        names = dict.fromkeys(f"{batch.model}.{kind}" for batch in batches for kind in ("weight", "bias"))
        return features | {name: self.params[name] for name in names}

    def student(self, params: Mapping[str, Tensor], model: str) -> dict[str, Tensor]:
        """The student's weights by their own names, its head the one that answers for a model."""
        if not self.per_model:
            return dict(params)
        own = self.learner.params
        chosen = {name: params[name] for name in own if not name.startswith("head.")}
        return chosen | {f"head.{kind}": params[f"{model}.{kind}"] for kind in ("weight", "bias")}

    def logits(self, images: Tensor, model: PretrainedModel) -> Tensor:
        """The student's logits `(n, n_way_i)` for a model's images in [0, 1], what L_adv looks at."""
        params = self.student({**self.learner.params, **self.params}, model.name)
        return self.learner.forward(params, self.learner.transform(images))

    def state_dict(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.params.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, parameter in self.params.items():
            parameter.copy_(state[name])


def distillation_loss(
    heads: DistillationHeads,
    params: Mapping[str, Tensor],
    batch: DistillationBatch,
    config: AlignmentConfig | None = None,
) -> Tensor:
    """L_KD = mean over images of KL(M_i(x) ‖ f_θ(x)), of the student with weights `params`; a scalar.

    config: by its `distillation` it is another divergence, by its `label_weight` the cross-entropy with the labels
      is added: what the outer step goes down for one task
    """
    config = config or AlignmentConfig()
    learner = heads.learner
    logits = learner.forward(heads.student(params, batch.model), learner.transform(batch.images))
    loss = DISTILLATION_LOSSES[config.distillation](batch.teacher_logits, logits).mean()
    if config.label_weight and batch.labels is not None:
        loss = loss + config.label_weight * F.cross_entropy(logits, batch.labels)
    return loss


def aligned_displacement(
    heads: DistillationHeads, batches: Sequence[DistillationBatch], config: AlignmentConfig
) -> tuple[dict[str, Tensor], Tensor]:
    """θ − θ̃ by name, and the mean loss: θ̃ is θ after θ̃ ← θ̃ − α ∇L_KD(θ̃; task_i), in the order given.

    Lemma 1: with plain steps and g_i = ∇L_KD(θ; task_i), over a random order,
    E[θ − θ̃] = α Σ_i g_i − α²/2 Σ_{i<j} ∇(g_i·g_j) + O(α³): it goes down the losses, and up the inner products
    of the tasks' gradients.
    """
    start = heads.trained(batches)
    params = {name: p.detach().clone().requires_grad_() for name, p in start.items()}
    inner, _ = OPTIMIZERS[config.align_optimizer]
    optimizer = make_optimizer(inner, list(params.values()), config.align_inner_lr)
    losses = []
    for batch in batches:
        loss = distillation_loss(heads, params, batch, config)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    scale = config.displacement_scale
    moved = {name: scale * (p.detach() - params[name].detach()) for name, p in start.items()}
    return moved, torch.stack(losses).mean()


def summed_gradient(
    heads: DistillationHeads, batches: Sequence[DistillationBatch], config: AlignmentConfig
) -> tuple[dict[str, Tensor], Tensor]:
    """Joint gradients, Σ_i ∇L_KD(θ; task_i) by name, and the mean loss: what BelL is compared with."""
    params = heads.trained(batches)
    total = torch.stack([distillation_loss(heads, params, batch, config) for batch in batches])
    gradients = torch.autograd.grad(total.sum(), list(params.values()))
    return dict(zip(params, gradients, strict=True)), total.detach().mean()


def variance_gradient(
    heads: DistillationHeads, batches: Sequence[DistillationBatch], config: AlignmentConfig
) -> tuple[dict[str, Tensor], Tensor]:
    """mean_i g_i(θ + ε (g_i − ḡ)) by name, and the mean loss: TGR's outer gradient (Wei et al., ICML 2024).

    With g_i = ∇L_i(θ) and their mean ḡ it is, to first order in ε, the gradient of mean_i L_i + ε/2 · mean_i
    ‖g_i − ḡ‖²: it goes down the losses and the variance of the tasks' gradients, in no order of the tasks. It
    takes twice the gradients of `summed_gradient`.
    """
    params = heads.trained(batches)

    def gradient(at: Mapping[str, Tensor], batch: DistillationBatch) -> tuple[list[Tensor], Tensor]:
        own = {name: p.detach().requires_grad_() for name, p in at.items()}
        loss = distillation_loss(heads, own, batch, config)
        found = torch.autograd.grad(loss, list(own.values()), materialize_grads=True)
        return list(found), loss.detach()

    gradients, losses = zip(*(gradient(params, batch) for batch in batches), strict=True)
    means = [torch.stack(parts).mean(0) for parts in zip(*gradients, strict=True)]
    after = []
    for own, batch in zip(gradients, batches, strict=True):
        moves = (config.variance_step * (g - mean) for g, mean in zip(own, means, strict=True))
        moved = {name: p.detach() + move for (name, p), move in zip(params.items(), moves, strict=True)}
        after.append(gradient(moved, batch)[0])
    total = (torch.stack(parts).mean(0) for parts in zip(*after, strict=True))
    return dict(zip(params, total, strict=True)), torch.stack(losses).mean()


def align(
    heads: DistillationHeads,
    batches: Sequence[DistillationBatch],
    config: AlignmentConfig,
    optimizer: torch.optim.Optimizer,
    rng: torch.Generator,
) -> Tensor:
    """BelL's outer step, θ ← θ − β(θ − θ̃), over the batches in random order; gives the mean L_KD, a scalar.

    In the place of θ − θ̃ stands Σ_i ∇L_KD(θ; task_i) with joint gradients, or `variance_gradient`.

    heads: of the student, which is changed in place; batches: one a task of the meta-batch
    optimizer: see `outer_optimizer`, over all that is trained; rng: what the order is drawn from
    """
    order = torch.randperm(len(batches), generator=rng).tolist()
    directions = {"sequential": aligned_displacement, "summed": summed_gradient, "variance": variance_gradient}
    gradients, loss = directions[config.alignment](heads, [batches[i] for i in order], config)
    for name, parameter in heads.trained(batches).items():
        parameter.grad = gradients[name]
    optimizer.step()
    optimizer.zero_grad()
    return loss


def gradient_agreement(
    heads: DistillationHeads, batches: Sequence[DistillationBatch], kind: str = "kl"
) -> tuple[Tensor, Tensor]:
    """How far the tasks' gradients at θ agree: mean inner product and mean cosine over pairs, two scalars.

    With a head for each model, only the features' gradients count: the heads have none in common.

    Raises ValueError for fewer than two tasks.
    """
    if len(batches) < 2:
        raise ValueError(f"An inner product across tasks needs at least two of them, got {len(batches)}.")
    params, rows = heads.trained(batches), []
    shared = [name for name in params if name in heads.learner.params]
    for batch in batches:
        loss = distillation_loss(heads, params, batch, AlignmentConfig(distillation=kind))
        gradients = torch.autograd.grad(loss, [params[name] for name in shared])
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    stacked = torch.stack(rows)
    pairs = torch.triu_indices(len(rows), len(rows), offset=1)
    products = (stacked @ stacked.T)[pairs[0], pairs[1]]
    norms = stacked.norm(dim=1)
    return products.mean(), (products / (norms[pairs[0]] * norms[pairs[1]]).clamp_min(1e-12)).mean()

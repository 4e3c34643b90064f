"""The terms of the inversion loss L_G, which makes a generator's images look like a model's training data."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freelib.distillation import DISTILLATION_LOSSES, at_least_float32, kl_divergence, release_divergence
from freelib.models.pool import PretrainedModel, batchnorm_layers
from freelib.settings import check_at_least, check_one_of, later

Student = Callable[[Tensor], Tensor]  # from images (n, C, H, W) in [0, 1] to logits (n, n_way)


@dataclass(frozen=True)
class InversionConfig:
    """The weights of L_G's terms, and how images are made by it.

    The defaults are the public release's, but for the last three.

    lambda_ce, lambda_bn, lambda_adv: of the terms of L_G, see `inversion_loss`; lambda_tv, lambda_l2: of the
      image priors, which FREE leaves out
    adapt_steps: k, generator iterations of the inner loop (the paper: 5)
    images_per_class: of each synthesised task; z_dim, ngf: of the `Generator`
    generator_lr, z_lr: of the inner loop's Adam; meta_lr: of the outer one
    augment_padding, augment_flip: pixels of the random crop; whether images are mirrored at random
    augment_each: both are drawn for each image; False, for a batch as a whole, as in the public release
    meta_adam: the outer step's Adam keeps its moments ("kept"), or is new every round, with β₁ = 0.5 ("fresh"),
      as in the public release
    adversarial: "kl", or the public release's mistaken form, "release", see `adversarial_loss`
    """

    lambda_ce: float = 1.0
    lambda_bn: float = 0.0
    lambda_adv: float = 1.0
    lambda_tv: float = 0.0
    lambda_l2: float = 0.0
    adapt_steps: int = 5
    images_per_class: int = 20
    z_dim: int = 256
    ngf: int = 64
    generator_lr: float = 1e-3
    z_lr: float = 1e-3
    meta_lr: float = 1e-3
    augment_padding: int = 4
    augment_flip: bool = True
    augment_each: bool = later(True)
    meta_adam: str = later("kept")
    adversarial: str = later("kl")

    def __post_init__(self) -> None:
        check_one_of(self, meta_adam=("kept", "fresh"), adversarial=DISTILLATION_LOSSES)
        check_at_least(self, adapt_steps=1, images_per_class=1, z_dim=1, ngf=1, augment_padding=0)

    @property
    def crops(self) -> dict[str, Any]:
        """The augmentation, as arguments of `random_crop_flip`."""
        return {"padding": self.augment_padding, "flip": self.augment_flip, "each": self.augment_each}


@contextmanager
def batchnorm_inputs(module: nn.Module) -> Iterator[list[tuple[nn.Module, Tensor]]]:
    """Collects what each BatchNorm with running statistics is given: (layer, `(n, C, H, W)`)."""
    seen: list[tuple[nn.Module, Tensor]] = []

    def collect(layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        if args and args[0].ndim == 4:
            seen.append((layer, args[0]))

    with ExitStack() as hooks:
        for layer in batchnorm_layers(module):
            hooks.enter_context(layer.register_forward_pre_hook(collect))
        yield seen


class _ChannelMoments(torch.autograd.Function):
    """Mean and variance of each channel of `(n, C, H, W)`: one pass over x forward, one backward.

    torch.var_mean over these three dimensions takes tens of times as long on channels_last.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        unused = at_least_float32(x.new_zeros(2, x.shape[1]))  # its type is what the moments get
        mean, variance = torch.batch_norm_update_stats(x, unused[0], unused[1], 0.0)
        ctx.save_for_backward(x, mean)
        return mean, variance

    @staticmethod
    def backward(ctx: Any, d_mean: Tensor, d_variance: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        count = x.numel() // x.shape[1]
        slope = 2 / count * d_variance
        offset = d_mean / count - slope * mean
        slope, offset = (v.to(x.dtype).view(1, -1, 1, 1) for v in (slope, offset))
        return torch.addcmul(offset, x, slope)


def batchnorm_loss(inputs: list[tuple[nn.Module, Tensor]]) -> Tensor:
    """L_BN = Σ_l ‖μ_l − μ̂_l‖ + ‖σ²_l − σ̂²_l‖, the batch's statistics against the stored ones; a scalar.

    inputs: what `batchnorm_inputs` has collected, of at least one layer
    """
    terms = []
    for layer, x in inputs:
        mean, variance = _ChannelMoments.apply(x)
        assert isinstance(layer.running_mean, Tensor) and isinstance(layer.running_var, Tensor)
        terms.append((mean - layer.running_mean).norm() + (variance - layer.running_var).norm())
    return torch.stack(terms).sum()


def adversarial_loss(teacher_logits: Tensor, student_logits: Tensor, kind: str = "kl") -> Tensor:
    """L_adv = −mean over images of [agree · KL(teacher ‖ student)]; logits `(n, n_way)` twice -> a scalar.

    agree is 1 where both give the same class, else 0: it looks for images on which they still differ.

    kind: "release" is the public release's form, which changes places: the student's answers are constants, and
      the teacher's *probabilities* stand where log-probabilities belong
    """
    agree = teacher_logits.argmax(1) == student_logits.argmax(1)
    if kind == "release":
        return -(agree * release_divergence(student_logits.detach(), teacher_logits)).mean()
    return -(agree * kl_divergence(teacher_logits, student_logits)).mean()


def total_variation(x: Tensor) -> Tensor:
    """Σ ‖x − neighbour‖ over four directions, right, below and both diagonals: `(n, C, H, W)` -> a scalar."""
    right, below = x[..., :, 1:] - x[..., :, :-1], x[..., 1:, :] - x[..., :-1, :]
    falling, rising = x[..., 1:, 1:] - x[..., :-1, :-1], x[..., 1:, :-1] - x[..., :-1, 1:]
    return right.norm() + below.norm() + falling.norm() + rising.norm()


def inversion_loss(
    model: PretrainedModel, images: Tensor, labels: Tensor, config: InversionConfig, *, student: Student | None = None
) -> tuple[Tensor, Tensor]:
    """L_G = λ_ce CE(M(x), y) + λ_bn L_BN + λ_adv L_adv, a scalar, and the model's logits M(x), `(n, n_way)`.

    The image priors λ_tv TV(x) + λ_l2 ‖x‖, of normalised images, are added where their weights are not 0.

    images: x, `(n, C, H, W)` in [0, 1]; labels: y, the classes that they are meant to be of, `(n,)`
    student: without one (warm-up), or with λ_adv = 0, there is no adversarial term

    A model without BatchNorm statistics has no L_BN. That some model of a pool has them, `check_batchnorm` sees to.
    """
    with batchnorm_inputs(model.module) as inputs:
        logits = at_least_float32(model(images))
    loss = config.lambda_ce * F.cross_entropy(logits, labels)
    if config.lambda_bn and inputs:
        loss = loss + config.lambda_bn * batchnorm_loss(inputs)
    if config.lambda_tv or config.lambda_l2:
        x = model.transform(images)  # normalised, so that the l2 norm pulls to the mean colour, not to black
        loss = loss + config.lambda_tv * total_variation(x) + config.lambda_l2 * x.norm()
    if student is not None and config.lambda_adv:
        loss = loss + config.lambda_adv * adversarial_loss(logits, student(images), config.adversarial)
    return loss, logits

"""FIve, Faster Inversion via meta-generator: one generator that fits any model after five steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from freelib.datasets.episodes import class_major_labels
from freelib.distillation import at_least_float32
from freelib.fast.threads import adapt_each
from freelib.inversion import InversionConfig, inversion_loss
from freelib.models.pool import PretrainedModel
from freelib.models.transform import random_crop_flip, resized

Student = Callable[[Tensor], Tensor]


class UpsampleConv(nn.Conv2d):
    """Nearest-neighbour ×2 upsampling followed by a 3x3 convolution, without making the upsampled image.

    Of the nine taps of an output pixel several fall on one input pixel. Added up, the kernel is one of 4x4,
    transposed and of stride 2: the same function in 4/9 of the multiplications. No bias: BatchNorm follows.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, channels_in, H, W)` -> `(n, channels_out, 2H, 2W)`."""
        w = self.weight.flip(2, 3)
        w = F.pad(w, (0, 0, 0, 1)) + F.pad(w, (0, 0, 1, 0))  # rows w₂, w₂ + w₁, w₁ + w₀, w₀; columns alike
        w = F.pad(w, (0, 1)) + F.pad(w, (1, 0))
        return F.conv_transpose2d(x, w.transpose(0, 1), stride=2, padding=1)


class Generator(nn.Module):
    """G(z): `(n, z_dim)` standard normal -> images `(n, channels, image_size, image_size)` in (0, 1).

    The public release's network: linear, BatchNorm, then twice ×2 upsampling with a 3x3 convolution,
    BatchNorm and LeakyReLU, then a 3x3 convolution to pixels and a sigmoid. BatchNorm is on the batch's
    statistics.

    Raises ValueError for an image size that is no multiple of 4.
    """

    def __init__(
        self, image_size: int, channels: int = 3, *, z_dim: int = 256, ngf: int = 64, seed: int = 0
    ) -> None:
        super().__init__()
        if image_size % 4:
            raise ValueError(
                f"The generator doubles its image twice: image_size is a multiple of 4, got {image_size}."
            )
        self.side, self.ngf, self.z_dim = image_size // 4, ngf, z_dim
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.project = nn.Linear(z_dim, 2 * ngf * self.side**2)
            self.norm0 = nn.BatchNorm2d(2 * ngf, track_running_stats=False)
            self.conv1 = UpsampleConv(2 * ngf, 2 * ngf)
            self.norm1 = nn.BatchNorm2d(2 * ngf, track_running_stats=False)
            self.conv2 = UpsampleConv(2 * ngf, ngf)
            self.norm2 = nn.BatchNorm2d(ngf, track_running_stats=False)
            self.to_pixels = nn.Conv2d(ngf, channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Images of codes z."""
        x = self.project(z).view(len(z), 2 * self.ngf, self.side, self.side)
        x = self.norm0(x.contiguous(memory_format=torch.channels_last))
        x = F.leaky_relu(self.norm1(self.conv1(x)), 0.2)
        x = F.leaky_relu(self.norm2(self.conv2(x)), 0.2)
        return torch.sigmoid(at_least_float32(self.to_pixels(x)))


@dataclass(frozen=True)
class SynthesisedTask:
    """What inversion recovers from one model.

    images: `(n_way * images_per_class, C, H, W)` float32 in [0, 1]; labels: the intended classes, `(n,)`
      int64
    teacher_logits: the model's, for the images as the last step augmented them, `(n, n_way)`
    losses, agreements: of every step, `(steps,)`
    """

    images: Tensor
    labels: Tensor
    model: PretrainedModel
    teacher_logits: Tensor
    losses: Tensor
    agreements: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def agreement(self) -> Tensor:
        """Share of images that the teacher puts in the intended class, in [0, 1]; a scalar tensor."""
        return (self.teacher_logits.argmax(1) == self.labels).float().mean()


class MetaGenerator:
    """FIve (paper, part 1, algorithm 2): θ_G, its five-step adaptation, and the first-order outer step."""

    def __init__(
        self,
        config: InversionConfig,
        *,
        image_size: int,
        channels: int = 3,
        seed: int = 0,
        device: torch.device | str = "cpu",
        precision: str = "float32",
    ) -> None:
        self.config, self.device = config, torch.device(device)
        self.generator = Generator(image_size, channels, z_dim=config.z_dim, ngf=config.ngf, seed=seed).to(
            self.device
        )
        self.optimizer = torch.optim.Adam(self.generator.parameters(), lr=config.meta_lr, fused=True)
        self.bf16 = precision == "bfloat16"
        self.passes = 0  # generate-forward-backward passes so far

    def augment(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Random crop and flip, as the config says."""
        return random_crop_flip(
            images, rng, padding=self.config.augment_padding, flip=self.config.augment_flip
        )

    def adapt(
        self,
        model: PretrainedModel,
        student: Student | None,
        rng: torch.Generator,
        *,
        steps: int | None = None,
    ) -> SynthesisedTask:
        """Inner loop: k steps of Adam on a copy of θ_G and on z; the last step's images are the task.

        One generator serves models of all sizes: its pictures, as large as the largest needs, are shrunk
        to the model's own, so that a recovered image has no detail that its model could not see.

        Adds the copy's last gradient to θ_G's, where `meta_step` finds it. The copy is not updated after the
        last gradient: no one would see it.
        """
        c, n_steps = self.config, self.config.adapt_steps if steps is None else steps
        if n_steps < 1:
            raise ValueError(f"A task is recovered in at least 1 step, got {n_steps}.")
        labels = class_major_labels(model.n_way, c.images_per_class).to(self.device)
        z = torch.randn(len(labels), c.z_dim, generator=rng).to(self.device).requires_grad_()
        params = {name: p.detach().clone().requires_grad_() for name, p in self.generator.named_parameters()}
        inner = torch.optim.Adam(
            [{"params": list(params.values()), "lr": c.generator_lr}, {"params": [z], "lr": c.z_lr}],
            betas=(0.5, 0.999),
            fused=True,
        )
        losses, agreements = [], []
        for step in range(n_steps):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                images = functional_call(self.generator, params, (z,))
                images = resized(images, min(images.shape[-1], model.image_size))
                loss, logits = inversion_loss(model, self.augment(images, rng), labels, c, student=student)
            inner.zero_grad()
            loss.backward(inputs=[*params.values(), z])  # the student's weights get no gradient
            losses.append(loss.detach())
            agreements.append((logits.detach().argmax(1) == labels).float().mean())
            if step < n_steps - 1:
                inner.step()
        self.passes += n_steps
        for name, parameter in self.generator.named_parameters():
            gradient = params[name].grad
            assert gradient is not None
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        curves = torch.stack(losses), torch.stack(agreements)
        return SynthesisedTask(images.detach(), labels, model, logits.detach(), *curves)

    def meta_step(self) -> None:
        """Outer loop: one Adam step of θ_G on the sum of the copies' last gradients (first-order MAML)."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    def discard_gradients(self) -> None:
        """Forgets the gradients gathered since the last meta-step: they leave no trace in θ_G."""
        self.optimizer.zero_grad()

    def state_dict(self) -> dict:
        """θ_G, its optimiser's state and the count of passes."""
        return {
            "generator": self.generator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "passes": self.passes,
        }

    def load_state_dict(self, state: dict) -> None:
        """Back to a state that `state_dict` gave."""
        self.generator.load_state_dict(state["generator"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.passes = state["passes"]


class TaskSynthesis(Protocol):
    """What recovers tasks round by round: `MetaGenerator`, and what stands in for it."""

    def adapt(self, model: PretrainedModel, student: Student | None, rng: torch.Generator) -> SynthesisedTask:
        """A task of one model."""

    def meta_step(self) -> None:
        """Learns from the tasks since the last such step."""


def synthesise_round(
    generator: TaskSynthesis,
    models: Sequence[PretrainedModel],
    rng: torch.Generator,
    students: Sequence[Student | None] | None = None,
) -> list[SynthesisedTask]:
    """One round of recovery (paper, algorithm 2): a task of each model, then the outer step on all of them.

    students: one a model, for the adversarial term, see `inversion_loss`; by default none, as in warm-up
    """
    tasks = adapt_each(generator, models, students or [None] * len(models), rng)
    generator.meta_step()
    return tasks


def synthesise_from_scratch(
    model: PretrainedModel,
    config: InversionConfig,
    rng: torch.Generator,
    *,
    steps: int,
    student: Student | None = None,
    image_size: int | None = None,
    device: torch.device | str = "cpu",
    precision: str = "float32",
) -> SynthesisedTask:
    """A freshly initialised generator and z, trained together for `steps` generate-forward-backward passes.

    The same steps on the same loss as `MetaGenerator.adapt`, from random weights in place of θ_G; the task's
    `losses` and `agreements` tell of every step.

    student: for the adversarial term, see `inversion_loss`; image_size: by default the model's
    """
    fresh = MetaGenerator(
        config,
        image_size=image_size or model.image_size,
        channels=len(model.mean),
        seed=int(torch.randint(2**31 - 1, (), generator=rng)),
        device=device,
        precision=precision,
    )
    return fresh.adapt(model, student, rng, steps=steps)


class ScratchGenerator:
    """FIve's stand-in for the ablation: a generator of its own for every model, none learns from another.

    config: as for `MetaGenerator`; steps: generate-forward-backward passes for each model
    The interface is `MetaGenerator`'s; there is no θ_G, so the meta-step does nothing.

    Raises ValueError for less than 1 step.
    """

    def __init__(
        self,
        config: InversionConfig,
        *,
        steps: int,
        image_size: int,
        device: torch.device | str = "cpu",
        precision: str = "float32",
    ) -> None:
        if steps < 1:
            raise ValueError(f"A task is recovered in at least 1 step, got {steps}.")
        self.config, self.steps = config, steps
        self.image_size, self.device, self.precision = image_size, device, precision
        self.passes = 0  # generate-forward-backward passes so far

    def adapt(self, model: PretrainedModel, student: Student | None, rng: torch.Generator) -> SynthesisedTask:
        """A task from a generator that is drawn now and trained for this model alone."""
        self.passes += self.steps
        return synthesise_from_scratch(
            model,
            self.config,
            rng,
            steps=self.steps,
            student=student,
            image_size=self.image_size,
            device=self.device,
            precision=self.precision,
        )

    def meta_step(self) -> None:
        """Nothing: no generator outlives its model."""

    def state_dict(self) -> dict[str, int]:
        """The count of passes."""
        return {"passes": self.passes}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Back to a state that `state_dict` gave."""
        self.passes = state["passes"]

"""FIve, Faster Inversion via meta-generator: one generator that fits any model after a few steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from freelib.distillation import at_least_float32
from freelib.inversion import InversionConfig, Student, inversion_loss
from freelib.models.pool import PretrainedModel
from freelib.models.transform import random_crop_flip, resized


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
    """G(z; θ_G): from noise to images in (0, 1), the network of the paper's public release.

    A linear layer and BatchNorm, then twice ×2 upsampling with a 3x3 convolution, BatchNorm and LeakyReLU,
    then a 3x3 convolution to pixels and a sigmoid. BatchNorm is on the batch's own statistics.

    image_size: the images' height and width in pixels, a multiple of 4; channels: 3 for colour, 1 for grey
    z_dim: how many numbers a code z has; ngf: the width of the last hidden layer
    seed: of the initial weights; torch's global generator is left as it was

    Raises ValueError for an image size that is no multiple of 4.

    >>> Generator(image_size=32, z_dim=8, ngf=4)(torch.randn(6, 8)).shape
    torch.Size([6, 3, 32, 32])
    """

    def __init__(self, image_size: int, channels: int = 3, *, z_dim: int = 256, ngf: int = 64, seed: int = 0) -> None:
        super().__init__()
        if image_size % 4:
            raise ValueError(f"The generator doubles its image twice: image_size is a multiple of 4, got {image_size}.")
        self.side, self.ngf, self.z_dim, self.image_size = image_size // 4, ngf, z_dim, image_size
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
        """Images `(n, channels, image_size, image_size)` of standard normal codes `(n, z_dim)`."""
        x = self.project(z).view(len(z), 2 * self.ngf, self.side, self.side)
        x = self.norm0(x.contiguous(memory_format=torch.channels_last))
        x = F.leaky_relu(self.norm1(self.conv1(x)), 0.2)
        x = F.leaky_relu(self.norm2(self.conv2(x)), 0.2)
        return torch.sigmoid(at_least_float32(self.to_pixels(x)))


PIXELS_AT_ONCE, FEWEST_CLASSES = 1000 * 32**2, 5
"""Pixels of a synthesised task's images together, at most; but it is of so many classes, whatever they take."""


def most_classes(images_per_class: int, image_size: int) -> int:
    """How many classes a synthesised task has at most: a model of a thousand takes the memory of one of fifty."""
    return max(FEWEST_CLASSES, PIXELS_AT_ONCE // (images_per_class * image_size**2))


def some_classes(classes: Tensor, images_per_class: int, image_size: int, rng: torch.Generator) -> Tensor:
    """The given classes, `(n,)`, or `most_classes` of them, drawn anew each time, in order."""
    most = most_classes(images_per_class, image_size)
    if len(classes) <= most:
        return classes
    return classes[torch.randperm(len(classes), generator=rng)[:most]].sort().values


@dataclass(frozen=True)
class SynthesisedTask:
    """A task that model inversion has synthesised from one pre-trained model.

    images: `(n, C, H, W)` float32 in [0, 1]; labels: the classes that they were made for, `(n,)` int64, class
      by class: all of the model's, or some, see `most_classes`
    model: the model they were made from; teacher_logits: its answers to the images as the last step augmented
      them, `(n, n_way)`
    losses, teacher_accuracies: L_G and the teacher's accuracy at every step, `(steps,)` each
    """

    images: Tensor
    labels: Tensor
    model: PretrainedModel
    teacher_logits: Tensor
    losses: Tensor
    teacher_accuracies: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def teacher_accuracy(self) -> Tensor:
        """The share of images that the teacher puts in the intended class, in [0, 1]; a scalar tensor."""
        return (self.teacher_logits.argmax(1) == self.labels).float().mean()


def add_gradients(weights: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Adds gradients to those that the weights have."""
    for weight, gradient in zip(weights, gradients, strict=True):
        if gradient is not None:
            weight.grad = gradient if weight.grad is None else weight.grad + gradient


class MetaGenerator:
    """FIve (the paper's algorithm 2): θ_G, its adaptation to one model, and the first-order outer step.

    config: the weights of L_G's terms, the number of inner steps and all learning rates
    image_size, channels: of the largest images that any model of the pool takes; generated are the next multiple of 4
    seed: of θ_G's initial weights; device: where θ_G is, and where the models have to be
    precision: "float32", or "bfloat16" for the convolutions of the inner loop

    >>> from freelib.models.backbones import build_backbone
    >>> about = {"class_names": ("cat", "dog"), "mean": (0.5,) * 3, "std": (0.25,) * 3, "image_size": 16}
    >>> model = PretrainedModel(build_backbone("conv4", n_way=2, image_size=16), **about)
    >>> generator = MetaGenerator(InversionConfig(images_per_class=3, ngf=4), image_size=16)
    >>> task = generator.adapt(model, student=None, rng=torch.Generator().manual_seed(0))
    >>> generator.meta_step()
    >>> task.images.shape
    torch.Size([6, 3, 16, 16])
    """

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
        generator = Generator(-(-image_size // 4) * 4, channels, z_dim=config.z_dim, ngf=config.ngf, seed=seed)
        self.generator = generator.to(self.device)
        betas = (0.9 if config.meta_adam == "kept" else 0.5, 0.999)
        self.optimizer = torch.optim.Adam(self.generator.parameters(), lr=config.meta_lr, betas=betas, fused=True)
        self.bf16 = precision == "bfloat16"
        self.iterations = 0  # generator iterations so far: generate, forward, backward

    def augment(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Random crop and flip, as the config says; the shape stays."""
        return random_crop_flip(images, rng, **self.config.crops)

    def labels(self, model: PretrainedModel, rng: torch.Generator) -> Tensor:
        """The classes that a task's images are made for, class by class, `(n,)` int64."""
        n = self.config.images_per_class
        return some_classes(torch.arange(model.n_way), n, self.generator.image_size, rng).repeat_interleave(n)

    def adapt(
        self, model: PretrainedModel, student: Student | None, rng: torch.Generator, *, steps: int | None = None
    ) -> SynthesisedTask:
        """The inner loop: k steps of Adam on L_G, on a copy of θ_G and on z; the last images are the task.

        The copy's last gradient is added to θ_G's, where `meta_step` finds it. The copy is not updated after
        it: no one would see that. A model of smaller images gets the generator's images shrunk to its size,
        so that a task has no detail that its model could not see.

        student: for the adversarial term, see `inversion_loss`; rng: what z and the augmentation draw from
        steps: k, at least 1; by default the config's

        Raises ValueError for less than 1 step.
        """
        c, n_steps = self.config, self.config.adapt_steps if steps is None else steps
        if n_steps < 1:
            raise ValueError(f"A task is synthesised in at least 1 step, got {n_steps}.")
        labels = self.labels(model, rng).to(self.device)
        z = torch.randn(len(labels), c.z_dim, generator=rng).to(self.device).requires_grad_()
        params = {name: p.detach().clone().requires_grad_() for name, p in self.generator.named_parameters()}
        inner = torch.optim.Adam(
            [{"params": list(params.values()), "lr": c.generator_lr}, {"params": [z], "lr": c.z_lr}],
            betas=(0.5, 0.999),
            fused=True,
        )
        losses, accuracies = [], []
        for step in range(n_steps):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                images = functional_call(self.generator, params, (z,))
                images = resized(images, min(images.shape[-1], model.image_size))
                loss, logits = inversion_loss(model, self.augment(images, rng), labels, c, student=student)
            inner.zero_grad()
            loss.backward(inputs=[*params.values(), z])  # the student's weights get no gradient
            losses.append(loss.detach())
            accuracies.append((logits.detach().argmax(1) == labels).float().mean())
            if step < n_steps - 1:
                inner.step()
        self.iterations += n_steps
        add_gradients(list(self.generator.parameters()), [p.grad for p in params.values()])
        curves = torch.stack(losses), torch.stack(accuracies)
        return SynthesisedTask(images.detach(), labels, model, logits.detach(), *curves)

    def meta_step(self) -> None:
        """The outer loop: an Adam step of θ_G on the sum of the copies' last gradients (first-order MAML)."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.config.meta_adam == "fresh":
            self.optimizer.state.clear()

    def discard_gradients(self) -> None:
        """Forgets the gradients since the last meta-step: what was adapted to leaves no trace in θ_G."""
        self.optimizer.zero_grad()

    def state_dict(self) -> dict:
        return {
            "generator": self.generator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "passes": self.iterations,
        }

    def load_state_dict(self, state: dict) -> None:
        self.generator.load_state_dict(state["generator"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.iterations = state["passes"]


class ScratchGenerator:
    """FIve's stand-in for the ablation: a randomly initialised generator for every model, none learns.

    It takes the same steps on the same loss as `MetaGenerator`, whose interface it has: there is no θ_G, so
    that the meta-step does nothing.

    config, image_size, device, precision: as for `MetaGenerator`
    steps: generator iterations for each model, at least 1

    >>> ScratchGenerator(InversionConfig(), steps=200, image_size=32).iterations
    0
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
        self.fresh = partial(MetaGenerator, config, image_size=image_size, device=device, precision=precision)
        self.steps, self.iterations = steps, 0  # generator iterations: for each model, and so far

    def adapt(self, model: PretrainedModel, student: Student | None, rng: torch.Generator) -> SynthesisedTask:
        """A task from a generator that is drawn now, and trained for this model alone."""
        self.iterations += self.steps
        seed = int(torch.randint(2**31 - 1, (), generator=rng))
        generator = self.fresh(channels=len(model.mean), seed=seed)
        return generator.adapt(model, student, rng, steps=self.steps)

    def meta_step(self) -> None:
        """Nothing: no generator outlives its model."""

    def state_dict(self) -> dict[str, int]:
        return {"passes": self.iterations}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.iterations = state["passes"]


def adapt_each(
    generator: MetaGenerator | ScratchGenerator,
    models: Sequence[PretrainedModel],
    students: Sequence[Student | None],
    rng: torch.Generator,
) -> list[SynthesisedTask]:
    """A synthesised task of each model, one after the other, in their order."""
    return [generator.adapt(model, student, rng) for model, student in zip(models, students, strict=True)]


def synthesise_round(
    generator: MetaGenerator | ScratchGenerator,
    models: Sequence[PretrainedModel],
    rng: torch.Generator,
    students: Sequence[Student | None] | None = None,
    *,
    adapt_each: Callable[..., list[SynthesisedTask]] = adapt_each,
) -> list[SynthesisedTask]:
    """One round of FIve (the paper's algorithm 2): a task of each model, then the outer step on all of them.

    students: one a model, for the adversarial term, see `inversion_loss`; by default none, as in warm-up
    adapt_each: how the tasks are made
    """
    tasks = adapt_each(generator, models, students or [None] * len(models), rng)
    generator.meta_step()
    return tasks

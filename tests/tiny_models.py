"""Models, students and optimisers so small that a test can redo by hand what freelib does."""

from collections.abc import Sequence
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freelib.alignment import (
    AlignmentConfig,
    DistillationBatch,
    DistillationHeads,
    align,
    distillation_batch,
    make_optimizer,
)
from freelib.datasets import FewShotDataset
from freelib.datasets.episodes import Episode, class_major_labels
from freelib.generator import MetaGenerator, SynthesisedTask
from freelib.inversion import InversionConfig
from freelib.meta_learner import MetaLearner
from freelib.methods.base import Monitor
from freelib.models.backbones import build_backbone
from freelib.models.pool import ModelPool, PretrainedModel
from freelib.models.pretraining import PoolConfig, pretrain_model

TINY_POOL = PoolConfig(n_models=4, width=8, epochs=12, batch_size=32)


def rng(seed: int = 0) -> torch.Generator:
    """A generator of random numbers at its start."""
    return torch.Generator().manual_seed(seed)


def tiny_model(
    seed: int = 0,
    *,
    arch: str = "conv4",
    width: int = 4,
    image_size: int = 16,
    n_way: int = 5,
    first_class: int = 0,
    domain: str = "tiny",
    accuracy: float | None = None,
) -> PretrainedModel:
    """An untrained model whose statistics and head are far enough from their start to have opinions."""
    module = build_backbone(arch, n_way=n_way, image_size=image_size, width=width, seed=seed)
    draw = rng(seed + 1000)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.copy_(0.1 * torch.randn(layer.num_features, generator=draw))
                layer.running_var.copy_(0.05 + 0.1 * torch.rand(layer.num_features, generator=draw))
        module.head.weight.mul_(4)
    return PretrainedModel(
        module,
        class_names=[f"class {first_class + i}" for i in range(n_way)],
        mean=(0.5, 0.4, 0.3),
        std=(0.25, 0.2, 0.3),
        image_size=image_size,
        name=f"{domain}-{arch}-{seed:04d}",
        arch=arch,
        domain=domain,
        accuracy=accuracy,
    )


def tiny_pool(n: int = 4, **settings: object) -> ModelPool:
    """A pool of untrained models; model i knows classes i to i + 4."""
    return ModelPool.from_models([tiny_model(i, first_class=i, accuracy=0.5 + 0.1 * i, **settings) for i in range(n)])


class OwnNet(nn.Module):
    """Linear layers in another order than they run in, and one that does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.stem, self.unused = nn.Linear(4, 3), nn.Linear(192, 4), nn.Linear(7, 3)

    def forward(self, x):
        return self.head(self.stem(x.flatten(1)))


def own(module: nn.Module | None = None, **settings) -> PretrainedModel:
    """A classifier of someone else's making."""
    fields = {"class_names": ["a", "b", "c"], "mean": (0.5,) * 3, "std": (0.2,) * 3, "image_size": 8}
    return PretrainedModel(module or OwnNet(), **{"name": "own", **fields, **settings})


@lru_cache(maxsize=1)
def trained_pool(dataset: FewShotDataset) -> ModelPool:
    """A pool that was trained on the tiny data set, once for all tests of a process."""
    members = range(TINY_POOL.n_models)
    return ModelPool.from_models([pretrain_model(dataset, TINY_POOL, seed=0, index=i) for i in members])


def conv_learner(
    head: str = "maml", arch: str = "conv4", *, width: int = 4, image_size: int = 16, seed: int = 1, **settings: object
) -> MetaLearner:
    """A learner with an untrained network on batch statistics."""
    backbone = build_backbone(arch, width=width, image_size=image_size, batch_stats=True, seed=seed)
    rule = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "image_size": image_size}
    return MetaLearner(backbone, head=head, **rule | settings)


def random_episode(
    n_shot: int = 2, n_query: int = 2, *, n_way: int = 5, seed: int = 0, shape=(3, 16, 16), dtype=torch.float32
) -> Episode:
    """Noise in [0, 1] as support and query images."""
    draw = rng(seed)
    support, query = (torch.rand(n_way * n, *shape, generator=draw, dtype=dtype) for n in (n_shot, n_query))
    return Episode(support, class_major_labels(n_way, n_shot), query, class_major_labels(n_way, n_query))


def random_batch(seed: int = 0, n: int = 6) -> DistillationBatch:
    """Images of 2x2 pixels and a teacher's random answers of 3 classes to them, in float64."""
    draw = rng(seed)
    images = torch.rand(n, 1, 2, 2, generator=draw, dtype=torch.float64)
    return DistillationBatch(images, 2 * torch.randn(n, 3, generator=draw, dtype=torch.float64))


class SmoothNet(nn.Module):
    """Pixels, a tanh layer, a linear head: smooth enough for derivatives of any order."""

    def __init__(self, n_way: int = 3, hidden: int = 4, pixels: int = 4, seed: int = 0) -> None:
        super().__init__()
        self.n_way = n_way
        self.encoder, self.head = nn.Linear(pixels, hidden), nn.Linear(hidden, n_way)
        draw = rng(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.7)

    def features(self, images: Tensor) -> Tensor:
        return torch.tanh(self.encoder(images.flatten(1)))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


def smooth_learner(head: str = "maml", *, seed: int = 0, **settings: object) -> MetaLearner:
    """A learner in float64 for images `(n, 1, 2, 2)`, left as they are."""
    backbone = SmoothNet(seed=seed).double()
    return MetaLearner(backbone, mean=(0.0,), std=(1.0,), image_size=2, head=head, **settings)


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors as one vector."""
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def weights(learner: MetaLearner) -> Tensor:
    """All of a learner's parameters as one vector."""
    return flat(list(learner.params.values()))


class Killed(Exception):
    """What `kill_at` raises."""


def kill_at(round_wanted: int) -> Monitor:
    """A monitor that ends the run at a round (-1: at none), and likes the earliest round best."""

    def monitor(round_number: int, learner: MetaLearner) -> float:
        if round_number == round_wanted:
            raise Killed
        return -float(round_number)

    return monitor


class PlainAdam:
    """torch's Adam on values that are given anew at each step."""

    def __init__(self, lr: float, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.held: list[Tensor] = []
        self.settings = {"lr": lr, "betas": betas}

    def step(self, values: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        """The values after one step."""
        if not self.held:
            self.held = [value.detach().clone() for value in values]
            self.adam = torch.optim.Adam(self.held, **self.settings)
        for held, value, gradient in zip(self.held, values, gradients, strict=True):
            held.data, held.grad = value.detach().clone(), gradient
        self.adam.step()
        return [held.clone() for held in self.held]


def tiny_round(device: str, precision: str = "float32", *, lambda_bn: float = 0.1, **settings: str) -> Tensor:
    """A round of FREE on a device: the student's L_KD, then each task's L_G, `(4,)`; settings: of the alignment."""
    models, student, draw = [tiny_model(i).to(device) for i in range(3)], conv_learner(), rng()
    student.backbone.to(device)
    n_ways = {m.name: m.n_way for m in models} if settings.get("kd_heads") == "per_model" else None
    heads = DistillationHeads(student, n_ways)
    config = InversionConfig(ngf=8, z_dim=16, images_per_class=4, adapt_steps=3, lambda_bn=lambda_bn)
    generator = MetaGenerator(config, image_size=16, device=device, precision=precision)
    tasks = [generator.adapt(m, partial(heads.logits, model=m), draw) for m in models]
    generator.meta_step()
    optimizer = make_optimizer("adam", [*student.params.values(), *heads.params.values()], 1e-3)
    batches = [distillation_batch(task, draw) for task in tasks]
    loss = align(heads, batches, AlignmentConfig(**settings), optimizer, draw)
    return torch.stack([loss, *(task.losses[-1] for task in tasks)])


def task_of(model: PretrainedModel, images: Tensor, labels: Tensor) -> SynthesisedTask:
    """Images as if they had been recovered from a model."""
    with torch.no_grad():
        logits = model(images)
    return SynthesisedTask(images, labels, model, logits, F.cross_entropy(logits, labels)[None])

"""What all methods share: the student's configuration, the student, and the course of a meta-training."""

import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from freelib.meta_learner import HEADS, PRECISIONS, MetaLearner
from freelib.methods.training import Monitor, TrainingRun
from freelib.models.backbones import ARCHITECTURES, DEFAULT_WIDTH, INITS, SMALL_IMAGES, Backbone, build_backbone
from freelib.models.pool import ModelPool, check_access
from freelib.settings import check_at_least, check_device, check_numbers, check_one_of, check_seed, later
from freelib.storage import Checkpoint


@dataclass(frozen=True)
class MethodConfig:
    """What every method's student shares; the defaults are the paper's protocol.

    n_way, n_shot, n_query: of the episodes that the student is trained for
    arch, width, init: the student's network, see `build_backbone`; head: how it adapts ("maml", "anil",
      "prototypes")
    inner_lr: α; inner_steps, test_steps: steps of its inner loop, in training and at test time
    device: where it is trained; precision: float32, or bfloat16 for the convolutions of what synthesises
      images, of the pool's answers and of a student with prototypes; one with inner steps is float32 always

    Raises ValueError for another arch, head, device or precision, for numbers that are out of range or not
    finite, and where a method's own settings don't fit. A config may extend others beside this one
    (`InversionConfig`, …): their checks are made too.

    >>> MethodConfig(n_way=3, n_shot=5).test_steps
    10
    """

    n_way: int = 5
    n_shot: int = 1
    n_query: int = 15
    arch: str = "conv4"
    width: int | None = None
    head: str = "maml"
    inner_lr: float = 0.01
    inner_steps: int = 5
    test_steps: int = 10
    device: str = "cpu"
    precision: str = "float32"
    init: str = later("torch")

    def __post_init__(self) -> None:
        check_one_of(self, arch=ARCHITECTURES, head=HEADS, precision=PRECISIONS, init=INITS)
        check_device(self.device)
        check_at_least(self, n_way=2, n_shot=1, n_query=1, width=1, inner_lr=0, inner_steps=0, test_steps=0)
        check_numbers(self)
        for part in type(self).__mro__:  # a dataclass calls one __post_init__ only
            if "__post_init__" in vars(part) and not issubclass(part, MethodConfig):
                part.__post_init__(self)  # type: ignore[attr-defined]

    def backbone_fields(self) -> dict[str, Any]:
        """What the method decides of `build_backbone`: n_way class scores, BatchNorm on batch statistics."""
        return {"n_way": self.n_way, "batch_stats": True}


def stream_seed(seed: int, stream: str) -> int:
    """The seed of one of a run's random streams ("generator", "draws", …), so that no two are alike.

    The student's weights take the run's own seed: they are those of the untrained student, `Random`.
    """
    return int.from_bytes(hashlib.blake2b(f"{seed} {stream}".encode(), digest_size=4).digest(), "big")


def student_backbone(config: MethodConfig, *, image_size: int, channels: int, seed: int = 0) -> Backbone:
    """The untrained network of a method's student, on its device, ready to answer."""
    fields = config.backbone_fields() | {"width": config.width, "init": config.init}
    backbone = build_backbone(config.arch, image_size=image_size, channels=channels, seed=seed, **fields)
    return backbone.to(config.device).to(memory_format=torch.channels_last).eval()


def build_student(pool: ModelPool, config: MethodConfig, *, seed: int) -> MetaLearner:
    """An untrained student for a pool, with the pool's image size and normalisation."""
    return MetaLearner(
        student_backbone(config, image_size=pool.image_size, channels=pool.channels, seed=seed),
        mean=pool.mean,
        std=pool.std,
        image_size=pool.image_size,
        head=config.head,
        inner_lr=config.inner_lr,
        inner_steps=config.test_steps,
        precision=config.precision,
    )


def require_same_architecture(pool: ModelPool, config: MethodConfig, method: str) -> None:
    """Raises ValueError where weights can't be fused: of own networks, a mixed pool, into another student."""
    own = [d["name"] for d in pool.descriptions if d.get("own")]
    if own:
        raise ValueError(f"{method} fuses the weights of freelib's networks only, and {own[0]} is another.")
    kinds = {(d["arch"], d["width"]) for d in pool.descriptions}
    if len(kinds) > 1:
        raise ValueError(
            f"{method} fuses weights, so all models must be of one architecture and width; "
            f"the pool has {sorted(kinds, key=str)}."
        )
    arch, width = next(iter(kinds))
    student = (config.arch, config.width or DEFAULT_WIDTH.get(config.arch))
    if student != (arch, width):
        raise ValueError(
            f"{method} gives a network like the pool's, {arch} of width {width}; "
            f"the student is set to {student[0]} of width {student[1]}."
        )
    # A convolution's weights know no image size; the head's do, and it is not fused.
    sizes = sorted({d["image_size"] for d in pool.descriptions})
    if arch != "conv4" and sizes[0] <= SMALL_IMAGES < sizes[-1]:
        raise ValueError(
            f"{method} fuses weights, and above {SMALL_IMAGES} pixels a {arch} has another first layer; "
            f"the pool has models for {sizes} pixels."
        )


class Method:
    """A way to get a meta-learner out of a pool of pre-trained models.

    A method has these attributes, and defines `train`, or, if nothing is trained, `build`.

    name: as on the command line; title: as in a table; citation: authors, title, venue
    needs: "nothing", "weights", "gradients" or "calls" of the models, or "data"
    same_architecture: all models, and the student, must be of one kind: it fuses weights
    uses_shots: its training depends on n_shot; where not, one training serves every number of shots
    uses_seed: something in it is drawn; where not, every seed gives the same learner from the same pool
    cost: of meta-training, in words; oracle: it sees the real meta-training images (marked in every table)
    images: whether `meta_train` takes unlabelled images: "none" (it is data-free), "optional" or "required"
    models_at_test: networks at inference, None for all models of the pool
    revision: raised when the method's results change, so that older records are not taken for new ones
    Config: its settings, a dataclass that extends `MethodConfig`

    >>> from freelib.methods import get_method
    >>> get_method("free").needs
    'gradients'
    """

    name: ClassVar[str]
    title: ClassVar[str]
    citation: ClassVar[str]
    needs: ClassVar[str]
    same_architecture: ClassVar[bool] = False
    uses_shots: ClassVar[bool] = True
    uses_seed: ClassVar[bool] = True
    cost: ClassVar[str] = ""
    oracle: ClassVar[bool] = False
    images: ClassVar[str] = "none"
    models_at_test: ClassVar[int | None] = 1
    revision: ClassVar[int] = 1
    Config: ClassVar[type[MethodConfig]] = MethodConfig

    def meta_train(
        self,
        pool: ModelPool,
        config: Any,
        *,
        seed: int,
        monitor: Monitor | None = None,
        checkpoint: Checkpoint | None = None,
        images: Tensor | None = None,
    ) -> MetaLearner:
        """Learns from the pool alone. The same seed gives the same bits on the same machine.

        config: an instance of the method's Config
        monitor: called with (round, learner); where it gives a number, the round with the highest one is kept
        checkpoint: where the state is kept, so that a killed run goes on where it was
        images: unlabelled ones, uint8 `(n, C, size, size)` of the pool's size, for a method that takes them; see
          `unlabelled_images`

        Raises ValueError or TypeError where the pool or the config is not what the method needs, ValueError
        for a seed out of range and a checkpoint of another run, and FloatingPointError where the training
        diverges.
        """
        check_seed(seed)
        self.check_images(images, pool)
        if self.same_architecture:
            require_same_architecture(pool, config, self.title)
        pool = pool.to(config.device)
        if (needs := self.needs_of_models(config)) in ("weights", "gradients"):
            check_access(pool, needs)
        learner = self.build(pool, config, seed=seed)
        rng = torch.Generator().manual_seed(stream_seed(seed, "draws"))
        return self.train(TrainingRun(learner, pool, config, rng, seed, monitor, checkpoint, images))

    def check_images(self, images: Tensor | None, pool: ModelPool) -> None:
        """Raises ValueError for unlabelled images that the method does not take, or lacks, or of another size."""
        if images is None and self.images == "required":
            raise ValueError(f"{self.name} learns from unlabelled images: give images=, or set unlabelled.")
        if images is None:
            return
        if self.images == "none":
            raise ValueError(f"{self.name} takes no images: pool_distillation and ldfml do.")
        wanted = (pool.channels, pool.image_size, pool.image_size)
        if images.dtype != torch.uint8 or images.shape[1:] != wanted:
            raise ValueError(f"Unlabelled images are uint8 (n, {wanted}), got {images.dtype} {tuple(images.shape)}.")

    def needs_of_models(self, config: Any) -> str:
        """`needs`, where the config does not change it."""
        return self.needs

    def build(self, pool: ModelPool, config: Any, *, seed: int) -> MetaLearner:
        """The learner that training begins with: an untrained student, if the method has no other."""
        return self.ready(build_student(pool, config, seed=seed), config)

    def train(self, run: TrainingRun) -> MetaLearner:
        """Trains `run.learner` in `run.rounds` and gives `run.finish()`; without training, what was built."""
        return run.learner

    def ready(self, learner: MetaLearner, config: Any) -> MetaLearner:
        """A student with all that the method does at test time: from the student alone, whose θ it shares."""
        return learner

"""Learners on disk: meta-trained into a folder, and read from it.

The folder holds `learner.json` and, for a student, its weights in `learner.safetensors`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from freelib.datasets import load_dataset
from freelib.datasets.unlabelled import images_of
from freelib.folders import IN_A_CLONE, check_writable, named_folder
from freelib.meta_learner import MetaLearner
from freelib.methods import METHODS, get_method
from freelib.methods.base import MethodConfig, student_backbone
from freelib.methods.screening import screened
from freelib.methods.training import TrainingLog, clocks
from freelib.models.backbones import Backbone
from freelib.models.metadata import check_metadata, read_metadata
from freelib.models.pool import ModelPool
from freelib.models.pretrained import check_finite_tensors
from freelib.progress import Progress
from freelib.run.budget import both_cores, check_minutes, planned
from freelib.run.pools import pool_seed, pretrain_into
from freelib.run.profiles import Profile
from freelib.run.runner import Run
from freelib.run.units import Unit, make_config, unit_config
from freelib.settings import MOST_WIDE, check_device
from freelib.storage import Checkpoint, digest_of, load_tensors, plain, save_tensors, tensors_digest, write_atomically


class AdaptationRule(msgspec.Struct):
    """How a learner adapts: arguments of `MetaLearner`."""

    head: str
    inner_lr: float
    inner_steps: Annotated[int, msgspec.Meta(le=MOST_WIDE)]
    centre: str
    precision: str


class Images(msgspec.Struct):
    """The images that a learner takes: side in pixels, mean and deviation of each channel."""

    mean: list[float]
    std: list[float]
    image_size: int


class Description(msgspec.Struct):
    """What `learner.json` says.

    `kind` is "student" (a network of freelib's, kept by its weights), "pool" (made of the pool's frozen
    models) or "custom" (a network of one's own, of which only the weights are kept). `pool` is the folder
    that the pool was read from, if any.
    """

    kind: Literal["student", "pool", "custom"]
    method: str
    config: dict[str, Any]
    seed: int
    rule: AdaptationRule
    images: Images
    pool: str | None
    pool_digest: str
    weights_digest: str | None = None


def save_learner(
    learner: MetaLearner,
    folder: str | Path,
    *,
    method: str,
    config: MethodConfig,
    seed: int,
    pool: ModelPool,
    pool_folder: str | Path | None = None,
) -> None:
    """Writes a learner, so that `load_learner` gives it back; what the folder held is replaced.

    A learner that is made of the pool's frozen models is kept by `pool_folder`; without it, `load_learner`
    has to be given the pool.

    Raises ValueError for a config that is not the method's, and weights that are not finite.

    >>> import tempfile
    >>> from freelib.models.backbones import build_backbone
    >>> from freelib.models.pretrained import PretrainedModel
    >>> network = build_backbone("conv4", n_way=5, image_size=16, width=8)
    >>> about = {"mean": [0.5] * 3, "std": [0.25] * 3, "image_size": 16}
    >>> pool = ModelPool.from_models([PretrainedModel(network, class_names=list("abcde"), **about)])
    >>> config = get_method("random").Config(width=8)
    >>> learner = get_method("random").meta_train(pool, config, seed=0)
    >>> folder = tempfile.mkdtemp()
    >>> save_learner(learner, folder, method="random", config=config, seed=0, pool=pool)
    >>> load_learner(folder).inner_steps
    10
    """
    kind: Literal["student", "pool", "custom"] = "pool"
    if isinstance(learner.backbone, Backbone):
        kind = "student"
    elif any(parameter.requires_grad for parameter in learner.backbone.parameters()):
        kind = "custom"
    if kind != "custom" and type(config) is not get_method(method).Config:
        raise ValueError(f"a {type(config).__name__} is no config of {method}")
    weights = learner.backbone.state_dict() if kind != "pool" else {}
    check_finite_tensors(f"{method}'s learner", weights)
    description = Description(
        kind=kind,
        method=method,
        config=plain(config),
        seed=seed,
        rule=AdaptationRule(**{n: getattr(learner, n) for n in AdaptationRule.__struct_fields__}),
        images=Images(list(pool.mean), list(pool.std), pool.image_size),
        pool=None if pool_folder is None else str(Path(pool_folder).resolve()),
        pool_digest=pool.digest,
        weights_digest=tensors_digest(weights),
    )
    if weights:
        save_tensors(Path(folder) / "learner.safetensors", weights)
    text = msgspec.json.format(msgspec.json.encode(description), indent=1) + b"\n"
    write_atomically(Path(folder) / "learner.json", text)


def train_learner(
    unit: Unit,
    profile: Profile,
    folder: str | Path,
    *,
    pool_folder: str | Path | None = None,
    select_on: str | None = None,
    minutes: float | None = None,
    screen: bool = False,
) -> tuple[MetaLearner, float]:
    """Meta-trains a unit's method and saves the learner in a folder: the learner, and the seconds it took.

    The pool is read from `pool_folder`, else it is the profile's of `unit.dataset`, pre-trained where it
    lacks. Without `select_on`, a data set on whose meta-validation classes the checkpoint is selected, no
    image is seen but by an oracle. With `screen` the members that `screened` keeps are stored beside the learner,
    and are its pool. A run that was killed goes on from its checkpoint, in the same folder; one that is fitted
    to some `minutes`, as `meta_train` does, begins anew.

    Raises ValueError for settings that do not fit the method, a device that is not there, and a folder that
    holds the learner of another run; MissingDataError where images are not there.
    """
    folder, method, config = Path(folder), get_method(unit.method), unit_config(unit, profile)
    check_minutes(minutes, unit.method, unit.overrides)
    # What can be refused is refused before the pool is pre-trained, which takes long.
    for device in {config.device} if pool_folder else {config.device, profile.device}:
        check_device(device, here=True)
    progress = Progress(f"train {unit.method}")
    # Selected with as many shots as were asked for, also where the training itself does not use them.
    run = Run(replace(unit, dataset=select_on or unit.dataset), replace(profile, shots=(unit.n_shot,)))
    monitor = run.monitor(progress.note) if select_on else None
    saved_as: dict[str, Any] = {"method": unit.method, "config": config, "seed": unit.seed}
    if minutes is not None and (folder / "learner.json").is_file():
        raise ValueError(f"{folder} holds a learner, and a run of some minutes begins anew: choose another folder")
    _check_room(folder, **saved_as)
    if pool_folder is None:
        with Progress(f"pool of {unit.dataset}") as bar:
            own = pool_seed(profile, unit.seed)
            pool, pool_folder = pretrain_into(unit.dataset, profile, own, progress=bar)
    else:
        pool = ModelPool.load(pool_folder := named_folder(pool_folder), device=config.device)
    if screen:
        pool, pool_folder = screened(pool, folder / "pool").to(config.device), folder / "pool"
    _check_room(folder, **saved_as, pool_digest=pool.digest)
    images: dict[str, Any] = images_of(config, size=pool.image_size, channels=pool.channels, seed=unit.seed)
    if method.oracle:
        images = {"dataset": load_dataset(unit.dataset, "train", size=pool.image_size)}
    seen = [images["dataset"].digest] if method.oracle else [tensors_digest(images)] if images else []
    key = digest_of([unit.method, method.revision, config, unit.seed, pool.digest, select_on, *seen])
    checkpoint = Checkpoint(folder / f"checkpoint-{key}.pt")
    began = clocks()
    with progress, both_cores():
        if minutes is not None:
            about: dict[str, Any] = {"seed": unit.seed, "named": unit.overrides, "images": images}
            config, images, checkpoint = planned(pool, config, minutes, progress, **about)
        learner = method.meta_train(pool, config, seed=unit.seed, monitor=monitor, checkpoint=checkpoint, **images)
    seconds = (learner.log or TrainingLog()).spent(began)["training"]
    save_learner(learner, folder, **saved_as | {"config": config}, pool=pool, pool_folder=pool_folder)
    checkpoint.remove()
    return learner, seconds


def _check_room(folder: Path, **run: Any) -> None:
    """Raises ValueError where nothing can be written, or another run's learner is there and would be lost."""
    check_writable(folder)
    if (folder / "learner.json").is_file():
        there = read_description(folder)
        if other := [name for name, value in plain(run).items() if getattr(there, name) != value]:
            raise ValueError(f"{folder} holds the learner of a run with another {other[0]}: choose another folder")


def read_description(folder: str | Path) -> Description:
    """What `learner.json` says. Raises FileNotFoundError, ValueError where the file is missing or damaged."""
    file = Path(folder) / "learner.json"
    if not file.exists():
        raise FileNotFoundError(f"there is no learner in {folder}: `freelib train` makes one; {IN_A_CLONE}")
    try:
        return msgspec.convert(read_metadata(file), Description)
    except (msgspec.ValidationError, ValueError) as error:
        raise ValueError(f"{file} does not describe a learner ({error}): train it again") from error


def load_learner(folder: str | Path, *, pool: ModelPool | None = None, allow_custom: bool = False) -> MetaLearner:
    """The learner in a folder, or the one of that name in results/models of a checkout, "pool_distillation/cifar-fs".

    It may come from a stranger: only methods of freelib's own are used. `pool` is what a learner of kind "pool"
    was made of, where it is not read from its folder. With `allow_custom=True` a method "module:Class" that the
    file names is imported, which runs code of that module. Where its device is not here, it is put on the CPU.

    Raises FileNotFoundError, ValueError where its files, or the pool that it is made of, are missing, damaged or not
    finite, ValueError for a method that is not registered, and TypeError for a student that is no network of freelib's.

    >>> load_learner("pool_distillation/cifar-fs").head
    'prototypes'
    """
    folder = named_folder(folder)
    description = read_description(folder)
    method = description.method
    if description.kind == "custom":
        raise TypeError(
            f"{folder} holds the weights of a student that only {method} can build: load learner.safetensors "
            "into its backbone"
        )
    if method not in METHODS and not allow_custom:
        raise ValueError(
            f"{folder} names {method!r}, which is no method of freelib's: if you trust that code, say "
            "allow_custom=True (--allow-custom-method)"
        )
    try:
        config = make_config(method, description.config)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    try:
        check_device(config.device, here=True)
    except ValueError:  # it was trained on another machine
        config = replace(config, device="cpu")
    if description.kind == "student":
        return _student(Path(folder), description, config)
    if pool is None:
        try:
            pool = ModelPool.load(description.pool or "", device=config.device)
        except (ValueError, FileNotFoundError) as error:
            raise ValueError(
                f"{folder} is made of a pool that can't be read ({error}): give load_learner that pool"
            ) from error
    if pool.digest != description.pool_digest:
        raise ValueError(f"the pool, from {description.pool}, is not the one that {folder} was made from")
    return get_method(method).meta_train(pool, config, seed=description.seed)


def _student(folder: Path, description: Description, config: MethodConfig) -> MetaLearner:
    """A student as `build_student` makes it, but from what is stored instead of from a pool."""
    images, rule = msgspec.structs.asdict(description.images), msgspec.structs.asdict(description.rule)
    check_metadata(folder / "learner.json", images)
    weights = load_tensors(folder / "learner.safetensors")
    check_finite_tensors(folder / "learner.safetensors", weights)
    if description.weights_digest not in (None, tensors_digest(weights)):
        raise ValueError(f"{folder}: learner.json and learner.safetensors are of two runs; train it again")
    try:
        size, channels = description.images.image_size, len(description.images.mean)
        student = MetaLearner(student_backbone(config, image_size=size, channels=channels), **images, **rule)
        learner = get_method(description.method).ready(student, config)
        learner.backbone.load_state_dict(weights)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            f"{folder}: the weights are not those of the network in learner.json ({' '.join(str(error).split())})"
        ) from error
    return learner

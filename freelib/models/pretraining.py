"""Pre-training the pool: n models, each on a few random meta-training classes."""

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor

from freelib.datasets import FewShotDataset
from freelib.datasets.episodes import images_to_float
from freelib.environment import accelerators, end_with_parent, keep_freed_memory, process_context, torch_threads
from freelib.models.backbones import ARCHITECTURES, INITS, build_backbone
from freelib.models.pool import ModelPool
from freelib.models.pretrained import PretrainedModel, read_description, save_member
from freelib.models.transform import random_crop_flip
from freelib.settings import check_at_least, check_numbers, check_one_of, check_seed, check_weights, later
from freelib.storage import plain


@dataclass(frozen=True)
class PoolConfig:
    """How the `n_models` models of a pool are trained; the defaults are those of the public release of FREE.

    Each model knows `n_way` classes. Its architecture is one of `archs`, in turn, with `width` channels in
    the first stage (None is the architecture's usual width). It is trained for `epochs` in batches of about
    `batch_size` images: a Conv4 by Adam with `learning_rate`, a ResNet by SGD with `momentum` and
    `weight_decay` as well. The share `holdout` of each class's images, in (0, 1), measures the model instead
    of training it. `augment` adds random crops (padding 4) and horizontal flips. `precision` is "float32" or
    "bfloat16" (autocast), `device` a name of torch's, `init` see `build_backbone`.

    Raises ValueError for a value out of range.

    >>> PoolConfig(n_models=10, epochs=4).learning_rate
    0.01
    """

    n_models: int = 100
    n_way: int = 5
    archs: tuple[str, ...] = ("conv4",)
    width: int | None = None
    epochs: int = 60
    batch_size: int = 128
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    holdout: float = 0.2
    augment: bool = False
    precision: str = "float32"
    device: str = "cpu"
    init: str = later("torch")

    def __post_init__(self) -> None:
        check_at_least(self, n_models=1, n_way=2, epochs=0, batch_size=2, width=1)
        check_one_of(self, precision=("float32", "bfloat16"), init=INITS)
        check_numbers(self)
        if not self.archs or not set(self.archs) <= set(ARCHITECTURES):
            raise ValueError(f"archs are some of {', '.join(ARCHITECTURES)}, got {list(self.archs)}.")
        if not 0 < self.holdout < 1:
            raise ValueError(f"holdout is a share between 0 and 1, got {self.holdout}.")


def split_classes(dataset: FewShotDataset, classes: list[int], holdout: float, rng: torch.Generator) -> list[Tensor]:
    """Splits some classes at random: [train images, train labels, held-out images, held-out labels].

    Images are uint8 `(n, C, H, W)`; labels `(n,)` count the given classes from 0.
    """
    parts: list[list[Tensor]] = [[], [], [], []]
    for label, c in enumerate(classes):
        images = dataset.class_images(c)[torch.randperm(dataset.counts[c], generator=rng)]
        n_held = min(max(1, round(holdout * len(images))), len(images) - 1)
        for part, chosen in ((2, images[:n_held]), (0, images[n_held:])):
            parts[part].append(chosen)
            parts[part + 1].append(torch.full((len(chosen),), label))
    return [torch.cat(part) for part in parts]


def train_classifier(
    model: PretrainedModel, images: Tensor, labels: Tensor, config: PoolConfig, rng: torch.Generator
) -> None:
    """Trains a model's module in place by cross-entropy on images uint8 `(n, C, H, W)` and labels `(n,)`."""
    device = torch.device(config.device)
    images = images.to(device).contiguous(memory_format=torch.channels_last)
    labels = labels.to(device)
    module = model.module.train().requires_grad_(True)
    weights, lr, decay = module.parameters(), config.learning_rate, config.weight_decay
    optimizer: torch.optim.Optimizer
    if model.arch == "conv4":
        optimizer = torch.optim.Adam(weights, lr=lr, fused=True)
    else:
        optimizer = torch.optim.SGD(weights, lr, config.momentum, weight_decay=decay, fused=True)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16")
    for _ in range(config.epochs):
        # A last batch of one image would leave BatchNorm without a variance: batches are as even as can be.
        n_batches = -(-len(images) // config.batch_size)
        for rows in torch.randperm(len(images), generator=rng).to(device).tensor_split(n_batches):
            batch = images_to_float(images[rows])
            if config.augment:
                batch = random_crop_flip(batch, rng)
            with autocast:
                loss = F.cross_entropy(module(model.transform(batch)).float(), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    module.eval().requires_grad_(False)


@torch.no_grad()
def accuracy_on(model: PretrainedModel, images: Tensor, labels: Tensor) -> float:
    """The share of images, uint8 `(n, C, H, W)`, that a model classifies rightly, in [0, 1]."""
    hits = [
        int((model(images_to_float(x.to(model.device))).argmax(1).cpu() == y).sum())
        for x, y in zip(images.split(500), labels.split(500), strict=True)
    ]
    return sum(hits) / len(labels)


def pretrain_model(dataset: FewShotDataset, config: PoolConfig, *, seed: int, index: int) -> PretrainedModel:
    """Trains member `index`: its classes, weights and batches depend on the seed and on the index alone."""
    rng = torch.Generator().manual_seed((seed * 1_000_003 + index) * 2 + 1)
    classes = torch.randperm(dataset.n_classes, generator=rng)[: config.n_way].tolist()
    images, labels, held_images, held_labels = split_classes(dataset, classes, config.holdout, rng)
    arch = config.archs[index % len(config.archs)]
    module = build_backbone(
        arch,
        n_way=config.n_way,
        image_size=dataset.image_size,
        channels=dataset.channels,
        width=config.width,
        init=config.init,
        seed=int(torch.randint(2**31, (1,), generator=rng)),
    )
    model = PretrainedModel(
        module.to(config.device).to(memory_format=torch.channels_last),
        name=f"{dataset.name}-{arch}-{index:04d}",
        arch=arch,
        domain=dataset.name,
        class_names=[dataset.class_names[c] for c in classes],
        mean=dataset.mean,
        std=dataset.std,
        image_size=dataset.image_size,
    )
    train_classifier(model, images, labels, config, rng)
    check_weights(model.module.parameters(), config, f"{config.epochs} epochs of {model.name}")
    model.accuracy = accuracy_on(model, held_images, held_labels)
    return model


def pretraining_seconds(pool: ModelPool) -> float | None:
    """Seconds that pre-training the members took, one thread each; None where some do not say."""
    spent = [float(d["seconds"]) for d in pool.descriptions if "seconds" in d]
    return sum(spent) if len(spent) == len(pool) else None


def training_of(dataset: FewShotDataset, config: PoolConfig, seed: int) -> dict[str, Any]:
    """What all members of a pool share and their bits depend on; kept in the metadata of each."""
    fields = {name: value for name, value in plain(config).items() if name not in ("n_models", "device")}
    return {"data_digest": dataset.digest, "image_size": dataset.image_size, "seed": seed, **fields}


def _refuse_a_mixture(dataset: FewShotDataset, folder: Path, training: dict[str, Any]) -> None:
    usual = plain(asdict(PoolConfig()))
    for file in sorted(folder.glob(f"{dataset.name}-*.json")):
        description = read_description(file)
        there = description.get("training", training)  # older pools do not say: they are taken as they are
        there, wanted = usual | there, usual | training  # what a card does not say is a default
        other = [name for name in wanted if there[name] != wanted[name]]
        if other and description["domain"] == dataset.name:
            was, now = (", ".join(f"{n}={d[n]}" for n in other) for d in (there, wanted))
            raise ValueError(
                f"{folder} has models of {dataset.name} trained with {was}; {now} was asked for: choose "
                "another folder, or the settings that it began with."
            )


def pretrain_pool(
    dataset: FewShotDataset,
    config: PoolConfig,
    folder: Path | str,
    *,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> ModelPool:
    """Pre-trains the members that a folder lacks, and opens the pool.

    `dataset` is the meta-training split, of which each member learns `config.n_way` classes. With `workers=1`
    the members are trained in this process; with more, so many child processes share the work, and a script
    that calls this must do so behind `if __name__ == "__main__":`. The bits of a member depend on the data
    set, the config, the seed and its number in the pool alone. What the folder has stays: a run that was
    killed goes on where it was. `progress` is called with (members done, members wanted).

    Raises ValueError where the data set has fewer classes than `config.n_way`, or the folder has models of
    this data set that were trained with other settings, which are left as they are, and for a seed outside of
    0 to 2³¹ − 1; FloatingPointError where a training diverges; RuntimeError where a child process dies.

    >>> import tempfile
    >>> from freelib.datasets import load_dataset
    >>> train = load_dataset("glyphs", "train", size=16)
    >>> config = PoolConfig(n_models=2, epochs=1, width=8)
    >>> pool = pretrain_pool(train, config, tempfile.mkdtemp())
    >>> len(pool), pool[0].n_way
    (2, 5)
    """
    check_seed(seed, most=2**31 - 1)  # a member's generator takes twice of it
    if dataset.n_classes < config.n_way:
        raise ValueError(
            f"{dataset.name} has {dataset.n_classes} training classes, too few for {config.n_way}-way models."
        )
    if workers > 1 and getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            "A child process imports the script that started it: put what the script does behind "
            'if __name__ == "__main__":, or pre-train with workers=1.'
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{dataset.name}-{config.archs[i % len(config.archs)]}-{i:04d}" for i in range(config.n_models)]
    with FileLock(folder / ".pretraining.lock"):  # released when its holder dies
        _refuse_a_mixture(dataset, folder, training_of(dataset, config, seed))
        missing = [i for i, name in enumerate(names) if not (folder / f"{name}.json").is_file()]

        def tell(trained: int) -> None:
            if progress:
                progress(config.n_models - len(missing) + trained, config.n_models)

        tell(0)
        train = partial(_pretrain_and_save, config=config, folder=folder, seed=seed)
        if min(workers, len(missing)) > 1:
            _train_in_processes(train, dataset, missing, workers, tell)
        else:
            for trained, index in enumerate(missing, start=1):
                train(dataset, index)
                tell(trained)
    return ModelPool.load(folder, names=names)


def _pretrain_and_save(dataset: FewShotDataset, index: int, config: PoolConfig, folder: Path, seed: int) -> None:
    start = time.perf_counter()
    with torch_threads(1):  # whichever process this is, the bits are the same
        model = pretrain_model(dataset, config, seed=seed, index=index)
    seconds = round(time.perf_counter() - start, 3)
    save_member(model, folder, training=training_of(dataset, config, seed), seconds=seconds)


def _train_in_processes(
    train: partial[None], dataset: FewShotDataset, indices: Sequence[int], workers: int, tell: Callable[[int], None]
) -> None:
    # As an array the images go through a pipe: a tensor takes shared memory, which containers lack.
    fields = {**vars(dataset), "images": dataset.images.numpy()}
    n, others = min(workers, len(indices)), multiprocessing.active_children()
    gpus = accelerators() if torch.device(train.keywords["config"].device).type == "cuda" else []
    with ProcessPoolExecutor(n, process_context(), _start_child, (fields, gpus)) as executor:
        try:
            with ThreadPoolExecutor(1) as starter:  # where no interrupt leaves a process half started
                jobs = starter.submit(lambda: [executor.submit(_train_in_child, train, i) for i in indices]).result()
            for trained, done in enumerate(as_completed(jobs), start=1):
                done.result()
                tell(trained)
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"A process that pre-trained models of {dataset.name} died (did memory run out?): start "
                "again with fewer workers; what is trained stays."
            ) from error
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):  # what they have begun is lost, what they saved stays
                for child in set(multiprocessing.active_children()) - set(others):
                    child.terminate()
            executor.shutdown(cancel_futures=True)  # else the error shows when all others are trained
            raise


_child_dataset: FewShotDataset  # each child process's own, set once when it starts


def _start_child(fields: dict[str, Any], gpus: list[str]) -> None:
    global _child_dataset
    if gpus:  # the processes are numbered as they start
        number = multiprocessing.current_process()._identity[-1]
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    end_with_parent()
    keep_freed_memory()
    _child_dataset = FewShotDataset(**{**fields, "images": torch.from_numpy(fields["images"])})


def _train_in_child(train: Callable[[FewShotDataset, int], None], index: int) -> None:
    train(_child_dataset, index)

"""The benchmark: each piece of the paper's protocol, timed against a plain implementation and the machine."""

from __future__ import annotations

import copy
import importlib.util
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from freelib.datasets import FewShotDataset
from freelib.datasets.episodes import EpisodeSampler
from freelib.environment import keep_freed_memory, peak_memory_mib, process_context
from freelib.fast.conv4_derivatives import query_loss
from freelib.generator import Generator, MetaGenerator, SynthesisedTask
from freelib.inversion import InversionConfig
from freelib.memory import TaskMemory
from freelib.meta_learner import MetaLearner
from freelib.methods.free import Free, FreeConfig
from freelib.models.backbones import build_backbone
from freelib.models.pool import ModelPool, PretrainedModel
from freelib.models.pretrained import save_member
from freelib.models.pretraining import PoolConfig, train_classifier
from freelib.run.measure import computed
from freelib.run.records import Record

PIECES = ("pretraining", "recovery", "replay", "test")
VARIANTS = {piece: ("float32", "bfloat16")[: 2 if piece in PIECES[:2] else 1] for piece in PIECES}
"""The precisions that a piece of ours is timed in: MAML's derivatives do not bear bfloat16."""
CLASSES, MODELS = 20, 4
SCALE: dict[str, Any] = {"mean": (0.5, 0.45, 0.4), "std": (0.25, 0.25, 0.3)}


@dataclass(frozen=True)
class Size:
    """How large the pieces are; by default as in the `paper` profile on CIFAR-FS, 5-way 1-shot.

    images: of one pre-training epoch. images_per_class: of a synthesised task. repeats: of each timing.
    processes: of one thread, side by side, against as many threads in one.
    members: sizes of the pools that a round is timed with. rounds: of that.
    """

    image_size: int = 32
    width: int = 32
    images: int = 2400
    ngf: int = 64
    images_per_class: int = 20
    n_query: int = 15
    repeats: int = 15
    processes: int = 2
    members: tuple[int, ...] = (10, 100, 1000)
    rounds: int = 3


SMALL = Size(16, 8, 200, 8, 4, 3, 3, 1, (4, 8, 16), 2)
"""A few seconds of work, to see that it runs; its ratios say little."""


class Work:
    """The inputs that all implementations share: smooth random images and untrained networks, from seeds.

    folder: holds every image as `<class>_<number>.png` too (see `write_images`)
    """

    def __init__(self, size: Size, folder: Path) -> None:
        self.size, self.folder = size, folder
        rng = torch.Generator().manual_seed(0)
        coarse = torch.rand(size.images, 3, 8, 8, generator=rng)
        fine = nn.functional.interpolate(coarse, (size.image_size,) * 2, mode="bilinear").mul_(255)
        self.images = fine.round_().to(torch.uint8)
        self.labels = torch.arange(size.images) // (size.images // CLASSES)  # class by class
        shape: dict[str, Any] = {"image_size": size.image_size, "width": size.width}
        nets = [build_backbone("conv4", seed=i, **shape) for i in range(MODELS)]
        self.teachers = [
            PretrainedModel(
                net.to(memory_format=torch.channels_last),
                class_names=[str(5 * i + j) for j in range(5)],
                name=f"teacher-{i}",
                arch="conv4",
                image_size=size.image_size,
                **SCALE,
            )
            for i, net in enumerate(nets)
        ]
        student = build_backbone("conv4", batch_stats=True, seed=9, **shape)
        self.student = MetaLearner(student.to(memory_format=torch.channels_last), image_size=size.image_size, **SCALE)
        self.inversion = InversionConfig(ngf=size.ngf, images_per_class=size.images_per_class)
        self.start = Generator(size.image_size, z_dim=self.inversion.z_dim, ngf=size.ngf)

    def write_images(self) -> None:
        """The images as PNG files, for implementations that read them."""
        per_class = len(self.images) // CLASSES
        for i, image in enumerate(self.images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(self.file(i // per_class, i % per_class))

    def file(self, label: int, number: int) -> Path:
        """Where an image of a class lies."""
        return self.folder / f"{label:03d}_{number:04d}.png"

    @cached_property
    def sampler(self) -> EpisodeSampler:
        """The test episodes."""
        dataset = FewShotDataset(
            "none", "test", self.images, tuple(range(0, len(self.images) + 1, len(self.images) // CLASSES)),
            tuple(map(str, range(CLASSES))), **SCALE, digest="",
        )  # fmt: skip
        return EpisodeSampler(dataset, n_query=self.size.n_query)

    @property
    def remembered(self) -> int:
        """Images of each class that replay draws from: what one synthesised task gives it."""
        return max(self.size.images_per_class, 1 + self.size.n_query)


class Ours:
    """The four pieces as freelib's methods run them."""

    def __init__(self, work: Work, precision: str = "float32") -> None:
        self.work, self.precision = work, precision
        self.meta_generator = MetaGenerator(work.inversion, image_size=work.size.image_size, precision=precision)
        self.memory = TaskMemory(image_size=work.size.image_size)
        per_class = len(work.images) // CLASSES
        for i, teacher in enumerate(work.teachers):
            rows = torch.cat([torch.arange(work.remembered) + (5 * i + j) * per_class for j in range(5)])
            images, labels = work.images[rows] / 255, work.labels[rows] - 5 * i
            self.memory.add([SynthesisedTask(images, labels, teacher, torch.empty(0), torch.empty(0))])

    def pretraining(self) -> nn.Module:
        """One epoch of a Conv4 on `size.images` images."""
        model = copy.copy(self.work.teachers[0])
        model.module = copy.deepcopy(model.module)
        config = PoolConfig(epochs=1, precision=self.precision)
        rng = torch.Generator().manual_seed(1)
        train_classifier(model, self.work.images, self.work.labels % 5, config, rng)
        return model.module

    def recovery(self) -> tuple[Tensor, list[Tensor]]:
        """One synthesised task in five generator iterations, into a memory: a round has four."""
        rng = torch.Generator().manual_seed(1)
        task = self.meta_generator.adapt(self.work.teachers[0], self.work.student, rng)
        TaskMemory(image_size=self.work.size.image_size).add([task])
        gradients = [p.grad for p in self.meta_generator.generator.parameters() if p.grad is not None]
        self.meta_generator.discard_gradients()
        return task.images, gradients

    def replay(self) -> list[Tensor]:
        """One second-order episode of five steps, from the memory, forward and backward."""
        rng = torch.Generator().manual_seed(1)
        episode = self.memory.episode(5, 1, self.work.size.n_query, rng)
        loss, _ = query_loss(self.work.student, episode, steps=5)
        return list(torch.autograd.grad(loss, list(self.work.student.params.values())))

    def test(self) -> Tensor:
        """One episode: ten steps on the support set, then the queries' logits."""
        episode = self.work.sampler.episode(0)
        classifier = self.work.student.adapt(episode.support, episode.support_labels, steps=10)
        return classifier.logits(episode.query)


def load_reference(path: Path, work: Work) -> Any:
    """The `Reference` that a file outside the package defines: the methods of `Ours`, written plainly."""
    spec = importlib.util.spec_from_file_location("reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Reference(work)


# What a piece costs, and what the machine could do at its best.

KINDS = ("kernels", "batch_norm", "pooling")


class Traffic(TorchDispatchMode):
    """Adds up the bytes of every operation's tensors, in and out: what caches would have to spare."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and func.namespace == "aten":
            leaves = tree_leaves((args, kwargs, out))
            self.bytes += sum(x.nbytes for x in leaves if isinstance(x, Tensor))
        return out


class Clock(TorchDispatchMode):
    """Adds up the seconds in PyTorch's large operations by kind, one of KINDS.

    "kernels": convolutions and matrix products, the operations whose FLOP `cost` counts
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = dict.fromkeys(KINDS, 0.0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = time.perf_counter()
        out = func(*args, **(kwargs or {}))
        name = str(func)
        if func._overloadpacket in flop_registry:
            self.seconds["kernels"] += time.perf_counter() - start
        elif "batch_norm" in name:
            self.seconds["batch_norm"] += time.perf_counter() - start
        elif "pool2d" in name:
            self.seconds["pooling"] += time.perf_counter() - start
        return out


def cost(piece: Callable[[], Any], repeats: int = 3) -> dict[str, Any]:
    """FLOP (multiply and add count two), bytes and, by kind, seconds in large operations of a run of a piece.

    seconds: the least of `repeats` runs; what is left of a run's time is small operations and what calls them
    """
    with FlopCounterMode(display=False) as counter:
        piece()
    with Traffic() as traffic:
        piece()
    clocks = []
    for _ in range(repeats):
        with Clock() as clock:
            piece()
        clocks.append(clock.seconds)
    seconds = {kind: min(each[kind] for each in clocks) for kind in KINDS}
    return {"flops": float(counter.get_total_flops()), "bytes": float(traffic.bytes), "seconds": seconds}


def peaks(repeats: int = 5) -> dict[str, float]:
    """What this process reaches: FLOP/s by precision, and bytes/s of a copy in memory.

    FLOP/s: of a matrix product or of a wide 3x3 convolution, whichever is faster; they come from two
    libraries, and on some processors one leaves the vector units half empty.
    """

    def best(run: Callable[[], Any]) -> float:
        runs = [seconds_of(run)]
        while len(runs) <= repeats and sum(runs) < 1:  # a precision that is emulated takes seconds
            runs.append(seconds_of(run))
        return min(runs)

    found = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a = torch.ones(1024, 1024, dtype=dtype)
        x, w = (torch.ones(n, 128, k, k, dtype=dtype) for n, k in ((16, 32), (128, 3)))
        x, w = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, w))
        found[name] = max(
            2 * 1024**3 / best(partial(torch.mm, a, a)),
            2 * x.numel() * w[0].numel() / best(partial(torch.conv2d, x, w, padding=1)),
        )
    x = torch.ones(2**25)
    y = torch.empty_like(x)
    return found | {"bytes": 2 * x.nbytes / best(lambda: y.copy_(x))}


def seconds_of(run: Callable[[], Any]) -> float:
    """Wall-clock time of a call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high}


# The measurement: in processes of its own, so that memory, threads and caches are those of the piece.


@dataclass(frozen=True)
class Job:
    """What one measuring process does: its pieces' size and threads, and whether it counts costs too."""

    size: Size
    folder: Path
    reference: Path | None
    threads: int = 1
    counting: bool = False


def measure(job: Job) -> dict[str, Any]:
    """In this process: seconds by piece and variant, taken in turns; with `counting` costs and peaks too."""
    torch.set_num_threads(job.threads)
    keep_freed_memory()
    work = Work(job.size, job.folder)
    variants: dict[str, Any] = {precision: Ours(work, precision) for precision in ("float32", "bfloat16")}
    if job.reference:
        variants["reference"] = load_reference(job.reference, work)
    seconds: dict[str, dict[str, list[float]]] = {}
    costs: dict[str, dict[str, dict[str, Any]]] = {}
    for piece in PIECES:
        chosen = {v: getattr(p, piece) for v, p in variants.items() if v in (*VARIANTS[piece], "reference")}
        for run in chosen.values():
            run()
        many = job.size.repeats * (1 if piece in PIECES[:2] else 3)
        turns = [{v: seconds_of(run) for v, run in chosen.items()} for _ in range(many)]
        seconds[piece] = {v: [turn[v] for turn in turns] for v in chosen}
        if job.counting:
            costs[piece] = {v: cost(run) for v, run in chosen.items()}
    peak = {"peaks": peaks(), "costs": costs} if job.counting else {}
    return {"seconds": seconds, "peak_memory_mib": peak_memory_mib()} | peak


def measure_rounds(job: Job) -> dict[int, dict[str, float | None]]:
    """In this process: seconds of FREE's rounds by the pool's size, and the memory's peak so far.

    The pools are on disk, copies of one model under other names, the smallest first.
    """
    torch.set_num_threads(job.threads)
    keep_freed_memory()
    size, found = job.size, {}
    teacher = Work(replace(size, images=CLASSES * 2), job.folder).teachers[0]
    config = FreeConfig(
        warmup_rounds=1, rounds=size.rounds, ngf=size.ngf, images_per_class=size.images_per_class,
        precision="bfloat16", n_query=min(size.n_query, size.images_per_class - 1), kd_heads="per_model",
        width=size.width, replay_batches=1, replay_episodes=2, checkpoint_every=0,
    )  # fmt: skip
    for members in size.members:
        folder = job.folder / str(members)
        for i in range(members):
            member = copy.copy(teacher)
            member.name, member.class_names = f"m{i:04d}", tuple(str((i + j) % 64) for j in range(5))
            save_member(member, folder)
        train = partial(Free().meta_train, ModelPool.load(folder), config, seed=0)
        seconds = seconds_of(train)
        found[members] = {"seconds": seconds / (size.rounds + 1), "peak_memory_mib": peak_memory_mib()}
    return found


def in_processes(run: Callable[[Any], Any], *jobs: Any) -> list[Any]:
    """`run(job)` of each job, all at the same time, each in a process that ends after it."""
    with ProcessPoolExecutor(len(jobs), process_context()) as executor:
        return list(executor.map(run, jobs))


def measure_pieces(size: Size, reference: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """What the records hold, by piece and precision.

    seconds, reference_seconds, ratio: one thread each, in turns in one process. side_by_side: ours,
      wall-clock time a piece with several processes of one thread at once. threads, reference_threads: one
      process with as many threads. All as median and quartiles.
    cost, reference_cost: see `cost`. peaks: of the machine, in the piece's precision and in the reference's.
    """
    processes = size.processes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Work(size, folder).write_images()
        (alone,) = in_processes(measure, Job(size, folder, reference, 1, True))
        beside = in_processes(measure, *[Job(size, folder, None)] * processes)
        (threaded,) = in_processes(measure, Job(size, folder, reference, processes))
    found = {}
    for piece in PIECES:
        for v in VARIANTS[piece]:
            ours, theirs = alone["seconds"][piece][v], alone["seconds"][piece]["reference"]
            counted, peaks = alone["costs"][piece], alone["peaks"]
            found[piece, v] = {
                "piece": piece,
                "seconds": spread(ours),
                "reference_seconds": spread(theirs),
                "ratio": spread([b / a for a, b in zip(ours, theirs, strict=True)]),
                "side_by_side": spread([s / processes for one in beside for s in one["seconds"][piece][v]]),
                "threads": spread(threaded["seconds"][piece][v]),
                "reference_threads": spread(threaded["seconds"][piece]["reference"]),
                "cost": counted[v],
                "reference_cost": counted["reference"],
                "peaks": {"flops": peaks[v], "reference_flops": peaks["float32"], "bytes": peaks["bytes"]},
                "peak_memory_mib": max(one["peak_memory_mib"] for one in beside),
            }
    return found


def benchmark_records(size: Size, reference: str | Path, results: str | Path, profile: str) -> list[Record]:
    """The benchmark's records, one a piece and precision, then one a pool: read, or else measured together.

    reference: the file that defines the plain implementation, as `Reference`.
    """
    settings = asdict(replace(size, members=()))
    pieces = cache(lambda: measure_pieces(size, Path(reference).resolve()))

    @cache
    def rounds() -> dict[int, dict[str, float | None]]:
        with tempfile.TemporaryDirectory() as folder:
            return in_processes(measure_rounds, Job(size, Path(folder), None))[0]

    def piece(name: str, precision: str) -> Record:
        def make() -> dict[str, Any]:
            return pieces()[name, precision]

        return computed(
            "benchmark", name, settings, make, results, profile=profile, precision=precision, revision=2
        )  # revision 2: the seconds in convolutions and matrix products

    def pool(n: int) -> Record:
        def make() -> dict[str, Any]:
            return {"piece": "round", "members": n, **rounds()[n]}

        own = settings | {"members": n}
        return computed("benchmark", "round", own, make, results, profile=profile, precision="bfloat16")

    return [piece(name, v) for name in PIECES for v in VARIANTS[name]] + [pool(n) for n in size.members]

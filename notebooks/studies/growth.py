"""How the seconds and the memory of a method's steps grow with the pool, the images and the classes of a model."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from freelib.environment import keep_freed_memory, peak_memory_mib
from freelib.methods import get_method
from freelib.methods.ensemble import ProbabilityEnsemble
from freelib.methods.free import FreeConfig
from freelib.methods.pool_distillation import PoolDistillationConfig
from freelib.models.backbones import build_backbone
from freelib.models.pool import ModelPool
from freelib.models.pretrained import PretrainedModel, save_member
from freelib.run.measure import computed
from freelib.run.profiles import fitted, get_profile
from freelib.run.records import Record
from studies.benchmark import in_processes

STEPS = {
    "free": ("recovery", "alignment", "replay"),
    "pool_distillation": ("recovery", "answers", "axes", "distillation"),
}


@dataclass(frozen=True)
class Setting:
    """What is measured; all else is the methods' defaults.

    members: models in the pool; image_size: side of their images in pixels; classes: of each model
    rounds: of inversion, with four models each; images: that the models answer and the student learns from
    """

    members: int = 10
    image_size: int = 32
    classes: int = 5
    rounds: int = 2
    images: int = 1024


def write_pool(folder: Path, setting: Setting) -> None:
    """A pool on disk of Conv4s with random weights, each of its own seed; their domain says what they are."""
    size, n = setting.image_size, setting.classes
    about: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "image_size": size, "arch": "conv4"}
    for i in range(setting.members):
        network, names = build_backbone("conv4", n_way=n, image_size=size, seed=i), [f"{i}-{c}" for c in range(n)]
        model = PretrainedModel(network, class_names=names, name=f"{i:04d}", domain="random weights", **about)
        save_member(model, folder)


def config_of(method: str, setting: Setting) -> Any:
    """A method's config: one replay batch of ten episodes a round; one epoch on `setting.images` images."""
    if method == "free":
        short = {"warmup_rounds": 0, "rounds": setting.rounds, "replay_batches": 1, "replay_patience": 0}
        return FreeConfig(**short, kd_heads="per_model", precision="bfloat16")  # type: ignore[arg-type]
    n = setting.images // 8  # of the last round; those before it warm up
    images = {"warmup_rounds": setting.rounds - 1, "recovered": n, "procedural": setting.images - n, "mixed": 0}
    return PoolDistillationConfig(**images, epochs=1, precision="bfloat16")  # type: ignore[arg-type]


def measure(method: str, setting: Setting) -> dict[str, Any]:
    """What `timed` gives, in a process of its own: so the peak of memory is this training's."""
    with tempfile.TemporaryDirectory() as name:
        write_pool(Path(name), setting)
        (found,) = in_processes(partial(timed, method, setting), Path(name))
    return found


def timed(method: str, setting: Setting, folder: Path) -> dict[str, Any]:
    """Trains by a method on the pool in a folder, on one thread of this process, after a short training.

    seconds: wall-clock time of each of STEPS. "recovery" and "alignment": a round's; "replay": a batch's of ten
      episodes; "answers", of all members, and "distillation": of 1,024 images; "axes": once, of the answers
    peak_memory_gib: of the process until now, PyTorch itself included, in GiB
    cpu_share: CPU time over wall-clock time; where it is far below 1, other processes had the core
    """
    torch.set_num_threads(1)
    keep_freed_memory()
    pool, config = ModelPool.load(folder), config_of(method, setting)
    few = {"images_per_class": 2, "adapt_steps": 1}
    few |= {"rounds": 1, "n_query": 1} if method == "free" else {"warmup_rounds": 0, "recovered": 16, "procedural": 112}
    train, fit, axes = partial(get_method(method).meta_train, seed=0), ProbabilityEnsemble.fit, [0.0]
    train(pool[:4], replace(config, **few))  # what a process does once is not measured

    def clocked_fit(*args: Any, **kwargs: Any) -> None:
        start = time.perf_counter()
        fit(*args, **kwargs)
        axes[0] = time.perf_counter() - start

    with patch.object(ProbabilityEnsemble, "fit", clocked_fit):  # in the log it is a part of the answers
        log = train(pool, config).log
    spent, seconds, thousands = log.spent(), {"axes": axes[0], **log.seconds}, setting.images / 1024
    seconds["answers"] = seconds.get("answers", 0.0) - axes[0]
    replayed = sum(log.history.get("replay_batches", []))
    work = {"recovery": setting.rounds, "alignment": setting.rounds, "replay": replayed, "axes": 1}
    work |= {"answers": thousands, "distillation": thousands}
    return {
        "seconds": {step: float(f"{seconds[step] / work[step]:.4g}") for step in STEPS[method]},
        "peak_memory_gib": round((peak_memory_mib() or math.nan) / 1024, 3),
        "cpu_share": round(spent["training_cpu"] / spent["training"], 3),
    }


def growth_records(profile: str, results: str | Path) -> list[tuple[str, Record]]:
    """By axis, a record of each method at each of its values; the other axes have their first one.

    The values are the profile's `sensitivity` in its section "growth", the rest of `Setting` its measurement "growth".
    """
    own = get_profile(profile, "growth")
    base = fitted(Setting, own.measurements.get("growth", {}), "growth")
    base = replace(base, **{axis: values[0] for axis, values in own.sensitivity.items()})
    found = []
    for axis, values in own.sensitivity.items():
        for setting in (replace(base, **{axis: value}) for value in values):
            for method in STEPS:
                make, keyed = partial(measure, method, setting), {"method": method, **asdict(setting)}
                record = computed("growth", "growth", keyed, make, results, profile=profile, precision="bfloat16")
                found.append((axis, record))
    return found


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The power of the size that a value grows with, from the first to the last: 1 in proportion, 0 not at all."""
    return math.log(values[-1] / values[0]) / math.log(sizes[-1] / sizes[0])

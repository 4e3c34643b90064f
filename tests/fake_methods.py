"""Methods, found by path ("fake_methods:Drifting"), and a world so small that experiments run in seconds."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tiny_sources
import torch
from PIL import Image

from freelib.datasets.class_lists import class_lists
from freelib.methods.base import Method, MethodConfig, build_student
from freelib.run.profiles import Profile

TINY = Profile(
    name="tiny",
    datasets=("cifar-fs",),
    shots=(1,),
    n_query=3,
    n_episodes=6,
    validation_episodes=4,
    image_size=16,
    pool={"n_models": 2, "epochs": 1, "width": 4},
    overrides={"*": {"width": 4}, "fake_methods:Drifting": {"rounds": 4}},
    monitor_every=2,
)


@dataclass(frozen=True)
class DriftingConfig(MethodConfig):
    """rounds of random steps, `pause` seconds each; fail_at: the round that raises."""

    rounds: int = 3
    pause: float = 0.0
    fail_at: int | None = None
    monitor_every: int = 1
    checkpoint_every: int = 1
    scales: tuple[float, ...] = (0.1,)


class Drifting(Method):
    """A random walk of the weights, with all that a real method has: log, selection, checkpoints."""

    name = "drifting"
    title = "Drifting"
    citation = "none"
    needs = "nothing"
    Config = DriftingConfig

    def train(self, run):
        config, learner = run.config, run.learner
        run.rng.manual_seed(run.seed)
        for number in run.rounds(config.rounds):
            if number == config.fail_at:
                raise RuntimeError(f"told to fail in round {number}")
            for parameter in learner.params.values():
                step = config.scales[0] * torch.randn(parameter.shape, generator=run.rng)
                parameter.data.add_(step)
            run.log.append(
                round=float(number), size=sum(float(p.detach().abs().sum()) for p in learner.params.values())
            )
            run.log.iterations += 1
            time.sleep(config.pause)
        return run.finish()


class Shotless(Drifting):
    """The same walk; it does not look at n_shot."""

    uses_shots = False


class Doomed(Drifting):
    """The same walk; with seed 0 its process is killed, as when memory runs out."""

    def meta_train(self, pool, config, *, seed, monitor=None, checkpoint=None):
        if seed == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().meta_train(pool, config, seed=seed, monitor=monitor, checkpoint=checkpoint)


@dataclass(frozen=True)
class ColourConfig(MethodConfig):
    head: str = "prototypes"


class Colour(Method):
    """Nearest mean colour: no training at all."""

    name = "colour"
    title = "Colour"
    citation = "none"
    needs = "nothing"
    oracle = True
    Config = ColourConfig

    def meta_train(self, pool, config, *, seed, monitor=None, checkpoint=None, dataset):
        assert dataset.split == "train"
        return build_student(pool, config, seed=seed)


def write_parquet(folder: Path, dataset: str = "cifar-fs", *, n_images: int = 8, side: int = 16) -> None:
    """A `<dataset>.parquet` with all of its class names, each a colour with noise."""
    rng = np.random.default_rng(0)
    rows = []
    for name in (name for names in class_lists(dataset).values() for name in names):
        colour = rng.integers(0, 256, 3)
        for _ in range(n_images):
            pixels = np.clip(colour + rng.integers(-60, 60, (side, side, 3)), 0, 255).astype(np.uint8)
            image = {"bytes": tiny_sources.png(Image.fromarray(pixels)), "path": f"{name}.png"}
            rows.append({"image": image, "label": name})
    tiny_sources.write_parquet(folder / f"{dataset}.parquet", rows)

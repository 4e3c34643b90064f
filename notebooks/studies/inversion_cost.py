"""What it costs to synthesise a task: a meta-initialised generator, a randomly initialised one, or pixels.

Figure 1 and table 5 read the same measurement: one process, one thread count, models that the meta-generator
never met. The second one asks what meta-training does to the generator, round by round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from freelib.generator import Generator, ScratchGenerator, synthesise_round
from freelib.inversion import InversionConfig
from freelib.methods.base import stream_seed
from freelib.methods.free import FreeConfig, build_meta_generator
from freelib.methods.purer import DynamicDataset, PurerConfig
from freelib.models.pool import ModelPool, PretrainedModel
from freelib.run.measure import measured
from freelib.run.pools import get_pool
from freelib.run.profiles import fitted
from freelib.run.records import Record
from freelib.run.runner import Run
from freelib.storage import plain

WAYS = {
    "five": "meta-initialised generator (FIve)",
    "scratch": "randomly initialised generator",
    "pixels": "pixels, as PURER's",
}
Curve = tuple[Tensor, Tensor]  # loss and teacher accuracy at every iteration, `(iterations,)` each


@dataclass(frozen=True)
class CostConfig:
    """How the cost of a task is measured.

    rounds: in which the meta-generator meets all other models. held_out: models that it never meets. steps:
      iterations of the two ways that are randomly initialised.
    """

    rounds: int = 60
    held_out: int = 4
    steps: int = 200


@dataclass(frozen=True)
class MetaTrainingConfig:
    """How meta-training is followed.

    rounds: of meta-training. every: rounds between two measurements. held_out: models that it never meets.
    rates: step sizes of θ_G, as multiples of the profile's meta_lr. steps: iterations of a randomly
      initialised generator, for comparison.
    """

    rounds: int = 60
    every: int = 10
    held_out: int = 4
    rates: tuple[float, ...] = (1.0, 0.3, 0.1)
    steps: int = 30


def cost_record(run: Run, results: str | Path) -> Record:
    """The measured cost of a task on the pool of `run`, a unit of FREE. See `measured` for what it raises."""
    return _record("recovery_cost", CostConfig, measure_cost, run, results)


def meta_training_record(run: Run, results: str | Path) -> Record:
    """What meta-training does to the generator, on the pool of `run`, a unit of FREE."""
    return _record("meta_training", MetaTrainingConfig, measure_meta_training, run, results)


def _record(name: str, kind: type, measure: Callable[..., Any], run: Run, results: str | Path) -> Record:
    own: Any = fitted(kind, run.profile.measurements.get(name, {}), name)
    config = run.settings["config"]
    names = {item.name for item in fields(InversionConfig)}
    inversion = {name: value for name, value in plain(config).items() if name in names}
    keyed = {**asdict(own), **inversion, "meta_batch": config.meta_batch}

    def make() -> dict[str, Any]:
        pool = get_pool(run.unit.dataset, run.profile, run.unit.seed)
        return measure(pool, config, own, run.unit.seed)

    return measured(run, name, keyed, make, results)


def pixels(model: PretrainedModel, config: FreeConfig, rng: torch.Generator, *, steps: int) -> Curve:
    """PURER's learnable pixels for one model alone: as many images, L_G with PURER's priors added to it."""
    purer = PurerConfig(
        n_way=model.n_way,
        n_shot=1,
        n_query=config.images_per_class - 1,
        lambda_ce=config.lambda_ce,
        lambda_bn=config.lambda_bn,
        device=config.device,
        precision=config.precision,
    )
    dataset = DynamicDataset(ModelPool.from_models([model]), purer, rng)
    found = []
    for _ in range(steps):
        found.append(dataset.invert(model, purer, rng))
        dataset.step()
    losses, accuracies = torch.stack(found).T
    return losses, accuracies


def _clock(config: FreeConfig) -> Callable[[], float]:
    """Seconds of CPU time where one thread does it all, other load does not count; else wall-clock."""
    if config.device == "cpu" and torch.get_num_threads() == 1:
        return time.process_time

    def wall() -> float:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return time.perf_counter()

    return wall


def split_off(pool: ModelPool, held_out: int, seed: int) -> tuple[ModelPool, list[PretrainedModel], torch.Generator]:
    """The models that a meta-generator meets, those that it never does, and random numbers from there on."""
    rng = torch.Generator().manual_seed(stream_seed(seed, "recovery_cost"))
    order = torch.randperm(len(pool), generator=rng).tolist()
    held = [pool[i] for i in order[:held_out]]
    return ModelPool.from_models([pool[i] for i in order[held_out:]]), held, rng


def measure_cost(pool: ModelPool, config: FreeConfig, cost: CostConfig, seed: int) -> dict[str, Any]:
    """Trains a meta-generator without some models, then synthesises a task from each of those in three ways.

    Gives, by way, each task's loss and teacher accuracy at every iteration and its seconds; what θ_G cost
    before; all iterations.
    """
    met, held, rng = split_off(pool, cost.held_out, seed)
    clock = _clock(config)
    generator = build_meta_generator(pool, config, seed=stream_seed(seed, "generator"))
    start = clock()
    for _ in range(cost.rounds):
        synthesise_round(generator, met.sample(config.meta_batch, rng), rng)
    before: dict[str, Any] = {"passes": generator.iterations, "seconds": round(clock() - start, 4)}

    def five(model: PretrainedModel) -> Curve:
        task = generator.adapt(model, None, rng)
        generator.discard_gradients()  # it is to stay a stranger
        return task.losses, task.teacher_accuracies

    ways: dict[str, Callable[[PretrainedModel], Curve]] = {
        "five": five,
        "scratch": lambda model: _from_scratch(model, config, rng, cost.steps, pool.image_size),
        "pixels": lambda model: pixels(model, config, rng, steps=cost.steps),
    }
    tasks: list[dict[str, Any]] = []
    for model in held:
        for way, synthesise in ways.items():
            start = clock()
            losses, accuracies = synthesise(model)
            seconds = clock() - start
            curves = {"loss": digits(losses), "agreement": digits(accuracies)}
            tasks.append({"way": way, "model": model.name, "seconds": round(seconds, 4), **curves})
    passes = before["passes"] + sum(len(task["loss"]) for task in tasks)
    return {"before": before, "tasks": tasks, "passes": passes}


def _from_scratch(
    model: PretrainedModel, config: FreeConfig, rng: torch.Generator, steps: int, image_size: int
) -> Curve:
    where = {"device": config.device, "precision": config.precision}
    generator = ScratchGenerator(config, steps=steps, image_size=image_size, **where)
    task = generator.adapt(model, None, rng)
    return task.losses, task.teacher_accuracies


def digits(values: Tensor) -> list[float]:
    """A tensor's values with the five digits that a record keeps of a curve."""
    return [float(f"{value:.5g}") for value in values.tolist()]


def measure_meta_training(pool: ModelPool, config: FreeConfig, own: MetaTrainingConfig, seed: int) -> dict[str, Any]:
    """Meta-trains a generator at each rate and measures it on models that it never meets (figure 1's).

    A measurement is FIve's adaptation to each of these, with the same codes and augmentation every time; it
    leaves no trace in θ_G.

    Gives, of each measurement, every model's loss and teacher accuracy at the last iteration, and the norm of
    `weights_before_norm`; of a randomly initialised generator both at every iteration; all iterations.
    """
    met, held, _ = split_off(pool, own.held_out, seed)

    def draws(name: str) -> torch.Generator:
        return torch.Generator().manual_seed(stream_seed(seed, name))

    measurements: list[dict[str, Any]] = []
    passes = 0
    for rate in own.rates:
        meta_lr, rng = rate * config.meta_lr, draws("meta_training")
        own_config = replace(config, meta_lr=meta_lr)
        generator = build_meta_generator(pool, own_config, seed=stream_seed(seed, "generator"))
        for number in range(own.rounds + 1):
            if number > 0:
                synthesise_round(generator, met.sample(config.meta_batch, rng), rng)
            if number % own.every == 0:
                same = draws("looks")
                tasks = [generator.adapt(model, None, same) for model in held]
                generator.discard_gradients()
                last = {
                    "loss": digits(torch.stack([task.losses[-1] for task in tasks])),
                    "agreement": digits(torch.stack([task.teacher_accuracies[-1] for task in tasks])),
                }
                norm = weights_before_norm(generator.generator)
                measurements.append({"meta_lr": meta_lr, "round": number, "norm": norm, **last})
        passes += generator.iterations
    same, scratch = draws("looks"), []
    for model in held:
        task = _from_scratch(model, config, same, own.steps, pool.image_size)
        scratch.append({"loss": digits(task[0]), "agreement": digits(task[1])})
        passes += own.steps
    names = [model.name for model in held]
    return {"models": names, "looks": measurements, "scratch": scratch, "passes": passes}


def weights_before_norm(generator: Generator) -> float:
    """Norm of the weights whose scale BatchNorm cancels: the larger, the less a step of Adam turns them."""
    layers = (generator.project, generator.conv1, generator.conv2)
    return float(torch.cat([layer.weight.detach().flatten() for layer in layers]).norm())


def cost_rows(records: Sequence[Record]) -> pd.DataFrame:
    """A row an iteration of a task.

    Columns: dataset, seed, way, model, iteration, loss, accuracy (the teacher's on the images, %), seconds
    until then.
    """
    found = [
        {
            "dataset": record["dataset"],
            "seed": record["seed"],
            "way": task["way"],
            "model": task["model"],
            "iteration": number,
            "loss": loss,
            "accuracy": 100 * accuracy,
            "seconds": task["seconds"] * number / len(task["loss"]),
        }
        for record in records
        for task in record["extra"]["tasks"]
        for number, (loss, accuracy) in enumerate(zip(task["loss"], task["agreement"], strict=True), start=1)
    ]
    return pd.DataFrame(found)


def cost_at_equal_quality(rows: pd.DataFrame, way: str, measure: str = "accuracy") -> pd.DataFrame:
    """What a way takes to FIve's last teacher accuracy (or "loss") on the same task, against FIve: a row a
    data set.

    rows: of `cost_rows`. Columns: dataset, tasks, reached (the share of tasks in which it was), and the
    medians of iterations, iterations_ratio and seconds_ratio (to FIve's). A task in which it was not reached
    counts as one that takes longer than any.
    """
    better, found = -1 if measure == "loss" else 1, []
    for (dataset, _, _), task in rows.groupby(["dataset", "seed", "model"], sort=False):
        five, other = task[task["way"] == "five"].iloc[-1], task[task["way"] == way]
        reached = other[better * other[measure] >= better * five[measure]]
        at = reached.iloc[0] if len(reached) else {"iteration": np.inf, "seconds": np.inf}
        ratios = [at[name] / five[name] for name in ("iteration", "seconds")]
        found.append((dataset, bool(len(reached)), at["iteration"], *ratios))
    columns = ["dataset", "reached", "iterations", "iterations_ratio", "seconds_ratio"]
    tasks = pd.DataFrame(found, columns=columns).groupby("dataset", sort=False)
    return pd.concat(
        [tasks.size().rename("tasks"), tasks["reached"].mean(), tasks[columns[2:]].median()], axis=1
    ).reset_index()

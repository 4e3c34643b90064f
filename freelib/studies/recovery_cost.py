"""What it costs to recover a task: a warm meta-generator, a generator from scratch, pixels. One measurement.

Figure 1 and table 5 both read it: one process, one thread count, models that the meta-generator never met.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from freelib.generator import ScratchGenerator, synthesise_round
from freelib.inversion import InversionConfig
from freelib.methods.base import stream_seed
from freelib.methods.free import FreeConfig, build_meta_generator
from freelib.methods.purer import DynamicDataset, PurerConfig
from freelib.models.pool import ModelPool, PretrainedModel
from freelib.run.measure import measured
from freelib.run.pools import get_pool
from freelib.run.profiles import Profile, get_profile
from freelib.run.records import Record, RecordStore
from freelib.run.runner import Run
from freelib.run.units import Unit, checked_fields

NAME = "recovery_cost"
WAYS = {"five": "FIve, warm", "scratch": "a generator from scratch", "pixels": "pixels, as PURER's"}
Curve = tuple[Tensor, Tensor]  # loss and teacher agreement at every step, `(steps,)` each


@dataclass(frozen=True)
class CostConfig:
    """rounds: in which the meta-generator meets all other models; held_out: models that it never meets.

    steps: of the two ways that start from nothing
    """

    rounds: int = 60
    held_out: int = 4
    steps: int = 200


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
    losses, agreements = torch.stack(found).T
    return losses, agreements


def _clock(config: FreeConfig) -> Callable[[], float]:
    """Seconds: of the processor where one thread does it all, so that other load does not count."""
    if config.device == "cpu" and torch.get_num_threads() == 1:
        return time.process_time

    def wall() -> float:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return time.perf_counter()

    return wall


def split_off(
    pool: ModelPool, held_out: int, seed: int
) -> tuple[ModelPool, list[PretrainedModel], torch.Generator]:
    """The models that a meta-generator meets, those that it never does, and random numbers from there on."""
    rng = torch.Generator().manual_seed(stream_seed(seed, NAME))
    order = torch.randperm(len(pool), generator=rng).tolist()
    held = [pool[i] for i in order[:held_out]]
    return ModelPool.from_models([pool[i] for i in order[held_out:]]), held, rng


def measure(pool: ModelPool, config: FreeConfig, cost: CostConfig, seed: int) -> dict[str, Any]:
    """Trains a meta-generator without some models, then recovers each of those in the three ways.

    Gives, by way, each task's loss and teacher agreement at every step and its seconds; what θ_G cost before;
    all passes.
    """
    met, held, rng = split_off(pool, cost.held_out, seed)
    clock, size, device, precision = _clock(config), pool.image_size, config.device, config.precision
    generator = build_meta_generator(pool, config, seed=stream_seed(seed, "generator"))
    fresh = ScratchGenerator(config, steps=cost.steps, image_size=size, device=device, precision=precision)
    start = clock()
    for _ in range(cost.rounds):
        synthesise_round(generator, met.sample(config.meta_batch, rng), rng)
    before: dict[str, Any] = {"passes": generator.iterations, "seconds": round(clock() - start, 4)}

    def five(model: PretrainedModel) -> Curve:
        task = generator.adapt(model, None, rng)
        generator.discard_gradients()  # it is to stay a stranger
        return task.losses, task.teacher_accuracies

    def scratch(model: PretrainedModel) -> Curve:
        task = fresh.adapt(model, None, rng)
        return task.losses, task.teacher_accuracies

    ways: dict[str, Callable[[PretrainedModel], Curve]] = {
        "five": five,
        "scratch": scratch,
        "pixels": lambda model: pixels(model, config, rng, steps=cost.steps),
    }
    tasks: list[dict[str, Any]] = []
    for model in held:
        for way, recover in ways.items():
            start = clock()
            losses, agreements = recover(model)
            seconds = clock() - start
            curves = {"loss": digits(losses), "agreement": digits(agreements)}
            tasks.append({"way": way, "model": model.name, "seconds": round(seconds, 4), **curves})
    passes = before["passes"] + sum(len(task["loss"]) for task in tasks)
    return {"before": before, "tasks": tasks, "passes": passes}


def measured_on_pool(
    name: str,
    measure: Callable[[ModelPool, FreeConfig, Any, int], dict[str, Any]],
    own: Any,
    run: Run,
    results: str | Path,
) -> Record:
    """The record of `measure(pool, FREE's config, own, seed)` on the pool of `run`, a unit of FREE.

    own: the measurement's config, a dataclass; beside it only what inversion depends on is keyed

    Raises MissingDataError.
    """
    config, unit = run.settings["config"], run.unit
    inversion = {item.name: getattr(config, item.name) for item in fields(InversionConfig)}
    keyed = {**asdict(own), **inversion, "meta_batch": config.meta_batch}

    def make() -> dict[str, Any]:
        pool = get_pool(unit.dataset, run.profile, unit.seed, cache=run.cache)
        return measure(pool, config, own, unit.seed)

    return measured(run, name, keyed, make, RecordStore(Path(results) / run.profile.name / "records"))


def digits(values: Tensor) -> list[float]:
    """A tensor's values with the five digits that a record keeps of a curve."""
    return [float(f"{value:.5g}") for value in values.tolist()]


def run(
    profile: str | Profile,
    *,
    experiment: str,
    results: str | Path,
    datasets: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    cache: str | Path | None = None,
) -> list[Record]:
    """The measurements' records, one for each data set and seed; the profile's where None.

    Raises MissingDataError, ValueError for fields in the profile that `CostConfig` does not have.
    """
    profile = get_profile(profile)
    cost = CostConfig(**checked_fields(CostConfig, profile.overrides.get(NAME, {}), NAME))
    return [
        measured_on_pool(
            NAME,
            measure,
            cost,
            Run(Unit(experiment, "free", dataset, profile.shots[0], seed), profile, cache),
            results,
        )
        for dataset in datasets or profile.datasets
        for seed in seeds or profile.seeds_for(dataset)
    ]


def rows(records: Sequence[Record]) -> pd.DataFrame:
    """A row a step of a task: dataset, seed, way, model, step, loss, agreement (%), seconds until then."""
    found = [
        {
            "dataset": record["dataset"],
            "seed": record["seed"],
            "way": task["way"],
            "model": task["model"],
            "step": step,
            "loss": loss,
            "agreement": 100 * agreement,
            "seconds": task["seconds"] * step / len(task["loss"]),
        }
        for record in records
        for task in record["extra"]["tasks"]
        for step, (loss, agreement) in enumerate(zip(task["loss"], task["agreement"], strict=True), start=1)
    ]
    return pd.DataFrame(found)


def steps_to_equal(table: pd.DataFrame, way: str, measure: str = "agreement") -> pd.DataFrame:
    """How many steps a way takes to FIve's agreement, or loss, at its last step, for each task of a data set.

    Columns: dataset, seed, model, target (of agreement in %), step (NaN where it was never reached), seconds,
    five_steps, five_seconds.
    """
    better = -1 if measure == "loss" else 1
    found = []
    for (dataset, seed, model), task in table.groupby(["dataset", "seed", "model"], sort=False):
        five, other = task[task["way"] == "five"].iloc[-1], task[task["way"] == way]
        reached = other[better * other[measure] >= better * five[measure]]
        first = reached.iloc[0] if len(reached) else None
        found.append(
            {
                "dataset": dataset,
                "seed": seed,
                "model": model,
                "target": five[measure],
                "step": float("nan") if first is None else first["step"],
                "seconds": float("nan") if first is None else first["seconds"],
                "five_steps": five["step"],
                "five_seconds": five["seconds"],
            }
        )
    return pd.DataFrame(found)

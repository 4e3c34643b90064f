"""What meta-training makes of FIve's generator: five steps on models that it never met, round by round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from freelib.generator import Generator, ScratchGenerator, synthesise_round
from freelib.methods.base import stream_seed
from freelib.methods.free import FreeConfig, build_meta_generator
from freelib.models.pool import ModelPool
from freelib.run.profiles import Profile, get_profile
from freelib.run.records import Record, RecordStore
from freelib.run.runner import Run
from freelib.run.units import Unit, checked_fields
from freelib.show.figures import LINE_STYLES, PALETTE, mean_and_each, new_figure, styled
from freelib.show.tables import DATASET_TITLES
from freelib.studies.recovery_cost import digits, measured_on_pool, split_off

NAME = "meta_training"
_MEASURES = {
    "agreement": "teacher agreement, %",
    "loss": "inversion loss",
}


@dataclass(frozen=True)
class MetaTrainingConfig:
    """rounds: of meta-training; every: rounds between looks; held_out: models that are only looked at.

    rates: step sizes of θ_G, as multiples of the profile's meta_lr
    steps: of a generator from scratch, which the looks are held against
    """

    rounds: int = 60
    every: int = 10
    held_out: int = 4
    rates: tuple[float, ...] = (1.0, 0.3, 0.1)
    steps: int = 30


def measure(pool: ModelPool, config: FreeConfig, own: MetaTrainingConfig, seed: int) -> dict[str, Any]:
    """Meta-trains a generator at each rate and looks at it on models that it never meets.

    A look is FIve's adaptation to each of these, with the same codes and augmentation at every look; it
    leaves no trace in θ_G. The models are those that figure 1 holds out.

    Gives, of each look, every model's loss and teacher agreement at the last step, and the norm of
    `weights_before_norm`; of a generator from scratch loss and agreement of every step; all passes.
    """
    met, held, _ = split_off(pool, own.held_out, seed)

    def draws(name: str) -> torch.Generator:
        return torch.Generator().manual_seed(stream_seed(seed, name))

    looks: list[dict[str, Any]] = []
    passes = 0
    for rate in own.rates:
        meta_lr, rng = rate * config.meta_lr, draws(NAME)
        generator = build_meta_generator(
            pool, replace(config, meta_lr=meta_lr), seed=stream_seed(seed, "generator")
        )
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
                looks.append({"meta_lr": meta_lr, "round": number, "norm": norm, **last})
        passes += generator.iterations
    same, scratch = draws("looks"), []
    size, device, precision = pool.image_size, config.device, config.precision
    fresh = ScratchGenerator(config, steps=own.steps, image_size=size, device=device, precision=precision)
    for model in held:
        task = fresh.adapt(model, None, same)
        scratch.append({"loss": digits(task.losses), "agreement": digits(task.teacher_accuracies)})
        passes += own.steps
    return {"models": [model.name for model in held], "looks": looks, "scratch": scratch, "passes": passes}


def weights_before_norm(generator: Generator) -> float:
    """Norm of the weights whose scale BatchNorm cancels: the larger, the less a step of Adam turns them."""
    layers = (generator.project, generator.conv1, generator.conv2)
    return float(torch.cat([layer.weight.detach().flatten() for layer in layers]).norm())


def run(
    profile: str | Profile,
    *,
    experiment: str,
    results: str | Path,
    datasets: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    cache: str | Path | None = None,
) -> list[Record]:
    """The measurement's records, of the first data set and by seed; the profile's where None.

    That of the first seed is made where it is missing; the others are those that stand, measured alike.

    Raises MissingDataError, ValueError for fields in the profile that `MetaTrainingConfig` does not have.
    """
    profile = get_profile(profile)
    own = MetaTrainingConfig(**checked_fields(MetaTrainingConfig, profile.overrides.get(NAME, {}), NAME))
    dataset = (datasets or profile.datasets)[0]
    seed = (seeds or profile.seeds_for(dataset))[0]
    run = Run(Unit(experiment, "free", dataset, profile.shots[0], seed), profile, cache)
    first = measured_on_pool(NAME, measure, own, run, results)
    alike = {name: first[name] for name in ("method", "method_revision", "dataset", "config", "precision")}
    found = RecordStore(Path(results) / profile.name / "records").find({"experiment": experiment, **alike})
    others = {record["seed"]: record for record in found if record["seed"] in (seeds or [record["seed"]])}
    by_seed = others | {seed: first}
    return [by_seed[number] for number in sorted(by_seed)]


def rows(record: Record) -> pd.DataFrame:
    """A row a look and model: meta_lr, round, model, loss, agreement (%), norm over that at the start."""
    extra = record["extra"]
    start = extra["looks"][0]["norm"]
    return pd.DataFrame(
        [
            {
                "meta_lr": look["meta_lr"],
                "round": look["round"],
                "model": model,
                "loss": loss,
                "agreement": 100 * agreement,
                "norm": look["norm"] / start,
            }
            for look in extra["looks"]
            for model, loss, agreement in zip(extra["models"], look["loss"], look["agreement"], strict=True)
        ]
    )


def from_scratch(record: Record) -> pd.DataFrame:
    """A row a pass of the generators from scratch: step, loss, agreement (%), means over the models."""
    curves = record["extra"]["scratch"]
    loss, agreement = (
        torch.tensor([curve[name] for curve in curves]).mean(0) for name in ("loss", "agreement")
    )
    steps = range(1, len(loss) + 1)
    return pd.DataFrame({"step": steps, "loss": loss.numpy(), "agreement": 100 * agreement.numpy()})


@styled
def meta_training_figure(records: Sequence[Record]) -> Figure:
    """Agreement and loss after the adaptation's last step against rounds of meta-training; a line a rate.

    A row of panels a record, which is a seed's; its axes are those of the first. Thin lines are single
    models; the dotted one is a generator from scratch after as many passes.
    """
    height = 1.9 + 0.5 / len(records)
    figure, axes = new_figure(len(records), len(_MEASURES), height=height, sharex=True, sharey="col")
    for line, record in zip(axes, records, strict=True):
        for axis, (name, label) in zip(line, _MEASURES.items(), strict=True):
            _draw(axis, record, name)
            axis.set(ylabel=label)
        line[0].set_title(f"seed {record['seed']}", loc="left")
    for axis in axes[-1]:
        axis.set_xlabel("rounds of meta-training")
    axes[0][0].set_ylim(top=102)
    dataset, models = records[0]["dataset"], len(records[0]["extra"]["models"])
    where = DATASET_TITLES.get(dataset, dataset)
    figure.suptitle(f"{where}: the mean of {models} models, and each of them (thin)", size=9)
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2)
    return figure


def _draw(axis: Axes, record: Record, name: str) -> None:
    """One measure of a record."""
    for i, (rate, own) in enumerate(rows(record).groupby("meta_lr", sort=False)):
        curves = own.pivot(index="round", columns="model", values=name)
        style = {"color": PALETTE[i], "linestyle": LINE_STYLES[i], "linewidth": 1.3}
        mean_and_each(axis, curves.index, curves.to_numpy(), f"meta-learning rate {rate:g}", **style)
    as_many = from_scratch(record).iloc[record["config"]["adapt_steps"] - 1]
    dotted: dict[str, Any] = {"color": "#555555", "linewidth": 0.9, "linestyle": ":"}
    axis.axhline(as_many[name], label="a generator from scratch, as many passes", **dotted)


def conclusion(record: Record) -> str:
    """Whether meta-training warms the generator, for how long, and what its best is worth in passes."""
    looks = rows(record).groupby(["meta_lr", "round"], sort=False)[["agreement", "loss", "norm"]].mean()
    scratch, steps = from_scratch(record), record["config"]["adapt_steps"]
    best, lowest = looks["agreement"].max(), looks["loss"].min()
    sentences = [
        f"On {DATASET_TITLES.get(record['dataset'], record['dataset'])}, seed {record['seed']}, mean over "
        f"{len(record['extra']['models'])} models that the meta-generator never met: {steps} steps reach an "
        f"agreement of {looks['agreement'].iloc[0]:.0f} % (loss {looks['loss'].iloc[0]:.1f}) before any "
        "meta-training"
    ]
    for rate, own in looks.groupby(level=0, sort=False):
        own = own.droplevel(0)
        peak, last = own.iloc[int(own["agreement"].argmax())], own.iloc[-1]
        sentences.append(
            f"at a meta-learning rate of {rate:g} at best {peak['agreement']:.0f} % (after {peak.name} "
            f"rounds, loss {peak['loss']:.1f}) and {last['agreement']:.0f} % after {last.name} (loss "
            f"{last['loss']:.1f}), when its weights' norm is {last['norm']:.2f} times what it was"
        )
    same = scratch.iloc[steps - 1]
    sentences.append(
        f"a generator from scratch reaches {same['agreement']:.0f} % (loss {same['loss']:.1f}) in as many "
        f"passes, the best agreement of these, {best:.0f} %, {_after(scratch, scratch['agreement'] >= best)} "
        f"and the lowest loss, {lowest:.1f}, {_after(scratch, scratch['loss'] <= lowest)}"
    )
    return "; ".join(sentences) + "."


def _after(scratch: pd.DataFrame, reached: pd.Series) -> str:
    """The first pass at which it is reached, in words."""
    steps = scratch["step"]
    return f"after {steps[reached].iloc[0]}" if reached.any() else f"not in {steps.iloc[-1]}"

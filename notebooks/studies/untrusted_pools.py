"""Pools with members that are not what they say, and what the methods make of them, with and without a screening."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from freelib.datasets import FewShotDataset
from freelib.datasets.episodes import EpisodeSampler
from freelib.folders import cache_folder
from freelib.methods import get_method
from freelib.methods.screening import check_pool
from freelib.models.pool import ModelPool
from freelib.models.pretrained import PretrainedModel, save_member
from freelib.models.pretraining import PoolConfig, pretrain_model
from freelib.run.evaluation import evaluate
from freelib.run.measure import measured
from freelib.run.pools import get_pool, pool_config, pool_identity
from freelib.run.records import Record
from freelib.run.runner import TEST_SEED, Run
from freelib.run.units import unit_config
from freelib.storage import digest_of, plain

KINDS = ("shuffled labels", "other data", "random weights", "false accuracy")
OVERFLOW = "overflowing weights"
FEW = {"five images for longer": (5, 300), "twenty images": (20, 60)}  # images a class, epochs
ALL = (*KINDS, OVERFLOW, *FEW)
IMAGES_TESTED = 60  # of each class: every method embeds each once


def shuffled(data: FewShotDataset, rng: torch.Generator) -> FewShotDataset:
    """The same images, each with the label of another one drawn at random."""
    return replace(data, images=data.images[torch.randperm(len(data.images), generator=rng)])


def first_of_each(data: FewShotDataset, n: int) -> FewShotDataset:
    """The first n images of each class."""
    images = torch.cat([data.class_images(c)[:n] for c in range(data.n_classes)])
    return replace(data, images=images, offsets=tuple(range(0, n * data.n_classes + 1, n)))


def coloured_noise(data: FewShotDataset, n: int, rng: torch.Generator) -> FewShotDataset:
    """Under the same class names, n images a class of noise around a colour, of a strength, of the class's own."""
    k, size = data.n_classes, data.image_size
    colour = torch.rand(k, 1, 3, 1, 1, generator=rng)
    strength = 0.05 + 0.25 * torch.rand(k, 1, 1, 1, 1, generator=rng)
    images = colour + strength * torch.randn(k, n, 3, size, size, generator=rng)
    pixels = images.clamp(0, 1).mul(255).round().to(torch.uint8).flatten(0, 1)
    return replace(data, images=pixels, offsets=tuple(range(0, n * k + 1, n)))


def bad_member(
    kind: str, i: int, train: FewShotDataset, config: PoolConfig, good: ModelPool, *, seed: int
) -> PretrainedModel:
    """Member i of a kind, which stands in for member i of the good pool and claims the accuracy of that one.

    One of "false accuracy" has seen five images a class for 20 epochs, and claims 100 %, as do those of FEW. One
    that overflows is the good member with weights so large that what it computes is not finite.
    """
    rng = torch.Generator().manual_seed(10_000 * seed + 100 * ALL.index(kind) + i)
    data = train.subset(torch.randperm(train.n_classes, generator=rng)[: config.n_way].tolist())
    if kind == "shuffled labels":
        data = shuffled(data, rng)
    elif kind == "other data":
        data = coloured_noise(data, 200, rng)
    elif kind == "random weights":
        data, config = first_of_each(data, 10), replace(config, epochs=0)
    elif kind == "false accuracy" or kind in FEW:
        images, epochs = FEW.get(kind, (5, 20))
        data, config = first_of_each(data, images), replace(config, epochs=epochs)
    model = pretrain_model(data, config, seed=seed + 1, index=i) if kind != OVERFLOW else good[i]
    if kind == OVERFLOW:
        for parameter in model.module.parameters():
            parameter.mul_(1e15)
    model.name = f"{kind.replace(' ', '-')}-{i:04d}"
    model.accuracy = 1.0 if kind == "false accuracy" or kind in FEW else good.descriptions[i]["accuracy"]
    return model


def members(run: Run, kind: str, n_bad: int) -> list[str]:
    """Names of a pool's members: the good ones, the last `n_bad` of them replaced by bad ones of a kind."""
    n = run.profile.pool["n_models"]
    good = [f"{run.unit.dataset}-conv4-{i:04d}" for i in range(n - n_bad)]
    return good + [f"{kind.replace(' ', '-')}-{i:04d}" for i in range(n - n_bad, n)]


def pool_of(run: Run, names: Sequence[str]) -> ModelPool:
    """The pool of some members by name; what the cache lacks is trained."""
    profile, seed = run.profile, run.unit.seed
    good, (train,) = get_pool(run.unit.dataset, profile, seed), run.datasets("train")
    config = pool_config(run.unit.dataset, profile)
    folder = cache_folder() / "pools" / f"untrusted-{digest_of(pool_identity(train, config, seed))}"
    places = {about["name"]: i for i, about in enumerate(good.descriptions)}
    models = []
    for name in names:
        if name not in places and not (folder / f"{name}.json").is_file():
            kind, _, i = name.rpartition("-")
            again = get_pool(run.unit.dataset, profile, seed)  # one is changed
            made = bad_member(kind.replace("-", " "), int(i), train, config, again, seed=seed)
            save_member(made, folder)
        models.append(good[places[name]] if name in places else ModelPool.load(folder, names=[name])[0])
    by_name = {model.name: model for model in models}
    digests = [{**model.describe(), "width": model.module.width} for model in models]
    return ModelPool(digests, lambda about: by_name[about["name"]])


def screening(run: Run, names: Sequence[str] | None, results: str | Path) -> Record:
    """The record of `check_pool`: `extra` has the names kept, and by member the verdict and what it rests on.

    names: of the members; None is the run's own pool
    """

    def make() -> dict[str, Any]:
        unit, profile = run.unit, run.profile
        rows = check_pool(pool_of(run, names) if names else get_pool(unit.dataset, profile, unit.seed))
        shown = ("name", "teacher_accuracy", "distance", "verdict")
        kept = [row["name"] for row in rows if row["verdict"] == "keep"]
        return {"kept": kept, "rows": plain([{key: row[key] for key in shown} for row in rows])}

    return measured(run, "pool screening", {"members": list(names or [])}, make, results, revision=2)


def accuracies(run: Run, names: Sequence[str], methods: Sequence[str], results: str | Path) -> Record:
    """The record of methods on a pool: `extra` has by method the accuracies over episodes, or what went wrong."""
    units = [replace(run.unit, method=method) for method in methods]
    configs = {unit.method: unit_config(unit, run.profile) for unit in units}
    shape = {"n_way": run.profile.n_way, "n_shot": run.unit.n_shot, "n_query": run.profile.n_query}
    about = {"members": list(names), "episodes": run.profile.n_episodes, "images": IMAGES_TESTED, **shape}

    def make() -> dict[str, Any]:
        test = first_of_each(run.datasets("test")[0], IMAGES_TESTED)
        sampler = EpisodeSampler(test, **shape, seed=TEST_SEED)
        found: dict[str, Any] = {}
        for name, config in configs.items():
            try:
                learner = get_method(name).meta_train(pool_of(run, names), config, seed=run.unit.seed)
                scores = evaluate(learner, sampler, run.profile.n_episodes).accuracies
                found[name] = [round(score, 2) for score in scores.tolist()]
            except (ValueError, ArithmeticError, RuntimeError) as error:
                found[name] = str(error)
        return found

    about["configs"] = {name: plain(config) for name, config in configs.items()}
    return measured(run, "untrusted pool", about, make, results)

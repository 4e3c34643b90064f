"""The pool: pre-trained classifiers, the only thing that data-free meta-learning is given."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor, nn

from freelib.folders import IN_A_CLONE, named_folder
from freelib.models.pretrained import PretrainedModel, check_answers, load_member, read_description
from freelib.storage import check_file_name, tensors_digest

RESIDENT = 128
"""How many of a folder's models a pool keeps in memory; those asked for longest ago go."""


class ModelPool(Sequence[PretrainedModel]):
    """A sequence of pre-trained models; those in a folder are read when they are first asked for.

    `ModelPool.from_models` makes a pool of models in memory, `ModelPool.load` opens a folder, in which each
    model is `<name>.safetensors` (weights and BatchNorm statistics) and `<name>.json` (its metadata). At most
    RESIDENT models of a folder are in memory at a time, however many it has.

    `descriptions` are the members' metadata, and `read` gives the member that one of them stands for. `classes`
    are all (domain, class name) pairs that a member knows, sorted. `image_size` is the largest input size among
    the members: at it, no member's detail is lost. Their images have `channels` channels; `mean` and `std`, the
    members' normalisation averaged, are what a student of the pool normalises with.

    Raises ValueError for a pool without members, two members of one name, or both gray and colour images.

    >>> module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    >>> fields = {"mean": [0.5] * 3, "std": [0.25] * 3, "image_size": 8}
    >>> pool = ModelPool.from_models([
    ...     PretrainedModel(module, class_names=["cat", "dog"], name="pets", **fields),
    ...     PretrainedModel(module, class_names=["oak", "elm"], name="trees", **fields),
    ... ])
    >>> len(pool), pool[1].class_names, pool.image_size
    (2, ('oak', 'elm'), 8)
    """

    def __init__(
        self, descriptions: Sequence[dict[str, Any]], read: Callable[[dict[str, Any]], PretrainedModel]
    ) -> None:
        if not descriptions:
            raise ValueError("A pool needs at least one model, got none.")
        if len({description["name"] for description in descriptions}) < len(descriptions):
            raise ValueError("Every model of a pool needs a name of its own.")
        channels = {len(description["mean"]): description["name"] for description in descriptions}
        if len(channels) > 1:
            found = " and ".join(f"{name} of {n}" for n, name in sorted(channels.items()))
            raise ValueError(f"A pool's models take images of one number of channels, not {found}.")
        self.descriptions = list(descriptions)
        self.classes = tuple(sorted({(d["domain"], name) for d in descriptions for name in d["class_names"]}))
        self.image_size = max(description["image_size"] for description in descriptions)
        self.channels = next(iter(channels))
        self.mean, self.std = self._average("mean"), self._average("std")
        self._read = read
        self._member = lru_cache(maxsize=RESIDENT)(lambda index: read(self.descriptions[index]))

    @classmethod
    def from_models(cls, models: Iterable[PretrainedModel]) -> ModelPool:
        """A pool of models that are in memory already.

        Each network that has weights is tried with two images; one without weights may stand for a service
        that costs money, and is not. Raises ValueError, naming the model, for weights or logits that are not
        finite, logits of another shape than `(n, n_way)`, that are the same for all images or others each
        time, and a class name that two models without a domain share: whether that is one class or two, only
        a domain can tell.
        """
        models = list(models)
        owners: dict[str, str] = {}
        for model in models:
            for name in () if model.domain else model.class_names:
                if (other := owners.setdefault(name, model.name)) != model.name:
                    raise ValueError(
                        f"{other} and {model.name} both have a class {name!r}. Give each a domain: the same "
                        "one if it is the same class, different ones if not."
                    )
            if model.tensors():
                check_answers(model)
        members = {model.name: model for model in models}
        descriptions = [
            {**model.describe(), "weights_digest": tensors_digest(model.tensors()), "own": model.is_own}
            for model in models
        ]
        return cls(descriptions, lambda description: members[description["name"]])

    @classmethod
    def joined(cls, pools: Sequence[ModelPool]) -> ModelPool:
        """One pool of the members of several, in order. Raises ValueError where two of them share a name."""
        if len(pools) == 1:
            return pools[0]
        owners = {d["name"]: (pool, i) for pool in pools for i, d in enumerate(pool.descriptions)}
        descriptions = [d for pool in pools for d in pool.descriptions]

        def member(description: dict[str, Any]) -> PretrainedModel:
            pool, i = owners[description["name"]]
            return pool[i]

        return cls(descriptions, member)

    @classmethod
    def load(
        cls, folder: Path | str, *, names: Sequence[str] | None = None, device: torch.device | str = "cpu"
    ) -> ModelPool:
        """The pool in a folder, or the one of that name in results/models of a checkout. Weights are read when needed.

        `names` are the members wanted, in order; without it, all that the folder has, sorted by name.

        Raises FileNotFoundError where the folder has no member, ValueError where a metadata file is damaged
        or a name leads to another folder.
        """
        folder = named_folder(folder)
        there = sorted(folder.glob("*.json"))
        files = there if names is None else [folder / f"{check_file_name(name)}.json" for name in names]
        if not files:
            raise FileNotFoundError(
                f"No pool in {folder}: `freelib pool import` makes one of your models; {IN_A_CLONE}."
            )
        return cls([read_description(file) for file in files], lambda d: load_member(folder, d).to(device))

    def to(self, device: torch.device | str) -> ModelPool:
        """The same pool, its models moved to a device when they are asked for."""
        return ModelPool(self.descriptions, lambda description: self._read(description).to(device))

    def __len__(self) -> int:
        return len(self.descriptions)

    @overload
    def __getitem__(self, index: int) -> PretrainedModel: ...
    @overload
    def __getitem__(self, index: slice) -> ModelPool: ...
    def __getitem__(self, index: int | slice) -> PretrainedModel | ModelPool:
        if isinstance(index, slice):
            return ModelPool(self.descriptions[index], self._read)
        return self._member(range(len(self))[index])

    def sample(self, n: int, rng: torch.Generator, *, replacement: bool = False) -> list[PretrainedModel]:
        """Draws n members, at least 1, with replacement or all different: then no more than the pool has."""
        if n < 1:
            raise ValueError(f"At least 1 model is drawn from a pool, got {n}.")
        if replacement:
            return [self[i] for i in torch.randint(len(self), (n,), generator=rng).tolist()]
        return [self[i] for i in torch.randperm(len(self), generator=rng)[:n].tolist()]

    def best(self) -> PretrainedModel:
        """The member with the highest held-out accuracy (the first of them where several share it)."""
        return self[max(range(len(self)), key=lambda i: self.descriptions[i].get("accuracy") or 0.0)]

    def _average(self, field: str) -> tuple[float, ...]:
        columns = zip(*(description[field] for description in self.descriptions), strict=True)
        return tuple(round(sum(column) / len(self), 6) for column in columns)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits over the members' metadata and weights, but not over how they arose."""
        aside = ("training", "seconds", "own")
        kept = [{key: value for key, value in d.items() if key not in aside} for d in self.descriptions]
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def check_features(models: Sequence[PretrainedModel]) -> None:
    """Raises TypeError where a network that is none of freelib's gives no features `(n, d)`."""
    for model in models:
        if model.is_own:
            with torch.no_grad():
                model.features(model.black_images())


def batchnorm_layers(module: nn.Module) -> list[nn.Module]:
    """The layers with running statistics, of whatever class; TorchScript shows no inputs of its layers."""
    held = ("running_mean", "running_var")
    others = (nn.BatchNorm1d, nn.BatchNorm3d, torch.jit.ScriptModule)
    layers = (layer for layer in module.modules() if not isinstance(layer, others))
    return [layer for layer in layers if all(isinstance(getattr(layer, name, None), Tensor) for name in held)]


def check_batchnorm(pool: ModelPool) -> None:
    """Raises ValueError where no model has a BatchNorm layer with running statistics, which λ_bn is about."""
    if not any(not d.get("own") or batchnorm_layers(pool[i].module) for i, d in enumerate(pool.descriptions)):
        raise ValueError("No model of the pool has a BatchNorm layer with running statistics: set lambda_bn=0.")


def check_access(pool: ModelPool, needs: str) -> None:
    """Raises ValueError, naming the model, where one does not give the "weights" or "gradients" that are needed."""
    for i, description in enumerate(pool.descriptions):
        if not description.get("own"):
            continue
        model, fault = pool[i], ""
        if getattr(model.module, "call_only", False):
            fault = "can only be called"
        elif needs == "gradients" and model.tensors():
            with torch.enable_grad():
                answer = model(model.black_images().requires_grad_())
            fault = "" if answer.requires_grad else "lets no gradient through to its images"
        if fault:
            advice = "take one that needs calls alone, such as pool_opinions"
            raise ValueError(f"{model.name} {fault}, and this method needs the models' {needs}: {advice}.")

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

from freelib.models import checks
from freelib.models.backbones import ARCHITECTURES, Backbone, build_backbone
from freelib.models.checks import (
    check_descriptions,
    check_members,
    check_metadata,
    check_state,
    is_own,
    tensors_of,
)
from freelib.models.transform import ImageTransform
from freelib.storage import load_tensors, save_tensors, tensors_digest, write_atomically

RESIDENT = 128
"""How many of a folder's models a pool keeps in memory; those asked for longest ago go."""
_FIELDS = ("arch", "domain", "class_names", "mean", "std", "image_size")


class PretrainedModel:
    """One member of the pool: a frozen classifier with what is known about it.

    module: takes normalised images `(n, C, image_size, image_size)`, gives logits `(n, n_way)`
    class_names: what its outputs stand for; domain: the data set that they belong to, if known
    mean, std: the normalisation that it was trained with, for images in [0, 1]
    accuracy: on images that its training held out, in [0, 1], or None where unknown
    Raises ValueError, see `check_metadata`.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        class_names: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        image_size: int,
        name: str = "model",
        arch: str = "custom",
        domain: str = "",
        accuracy: float | None = None,
    ) -> None:
        about = {"class_names": class_names, "mean": mean, "std": std, "image_size": image_size}
        check_metadata(name, about | {"accuracy": accuracy})
        self.module = module.eval().requires_grad_(False)
        self.class_names = tuple(map(str, class_names))
        self.name, self.arch, self.domain = name, arch, domain
        self.accuracy = None if accuracy is None else float(accuracy)
        self.transform = t = ImageTransform(mean, std, int(image_size))
        self.mean, self.std, self.image_size = t.mean, t.std, t.image_size

    @property
    def n_way(self) -> int:
        """How many classes the model tells apart."""
        return len(self.class_names)

    @property
    def classes(self) -> tuple[tuple[str, str], ...]:
        """Its classes as (domain, class name): what two models may share."""
        return tuple((self.domain, name) for name in self.class_names)

    @property
    def device(self) -> torch.device:
        """Where its weights are; the CPU for a model that can only be called."""
        return next((p.device for p in self.module.parameters()), torch.device("cpu"))

    def __call__(self, images: Tensor) -> Tensor:
        """Logits `(n, n_way)` of images `(n, C, H, W)` in [0, 1]; differentiable by the images."""
        return self.module(self.transform(images))

    def features(self, images: Tensor) -> Tensor:
        """What the last linear layer to run is given, `(n, d)`, for images `(n, C, H, W)` in [0, 1].

        Raises TypeError where the module has no `features` method and no linear layer runs.
        """
        inputs = self.transform(images)
        own = getattr(self.module, "features", None)
        if callable(own) and not isinstance(own, nn.Module):
            return own(inputs).flatten(1)
        seen: list[Tensor] = []
        linear = [layer for layer in self.module.modules() if isinstance(layer, nn.Linear)]
        handles = [x.register_forward_pre_hook(lambda _layer, args: seen.append(args[0])) for x in linear]
        try:
            self.module(inputs)
        finally:
            for handle in handles:
                handle.remove()
        if not seen:
            raise TypeError(f"{self.name} has no features() and no linear layer whose input could serve.")
        return seen[-1].flatten(1)

    def to(self, device: torch.device | str) -> PretrainedModel:
        """Moves the weights; gives the same object."""
        self.module.to(device)
        return self

    def describe(self) -> dict[str, Any]:
        """The metadata that is stored beside the weights."""
        return {
            "name": self.name,
            "arch": self.arch,
            "width": getattr(self.module, "width", None),
            "domain": self.domain,
            "class_names": list(self.class_names),
            "mean": list(self.mean),
            "std": list(self.std),
            "image_size": self.image_size,
            "accuracy": self.accuracy,
        }


class ModelPool(Sequence[PretrainedModel]):
    """A sequence of pre-trained models; those in a folder are read when they are first asked for.

    A member of a folder is `<name>.safetensors` (weights, BatchNorm statistics) and `<name>.json` (the rest).
    At most RESIDENT of them are in memory at a time: memory is flat in the pool's size.
    """

    def __init__(
        self,
        descriptions: Sequence[dict[str, Any]],
        read: Callable[[dict[str, Any]], PretrainedModel],
    ) -> None:
        check_descriptions(descriptions)
        self.descriptions = list(descriptions)
        self._read = read
        self._member = lru_cache(maxsize=RESIDENT)(lambda index: read(self.descriptions[index]))

    @classmethod
    def from_models(cls, models: Iterable[PretrainedModel]) -> ModelPool:
        """A pool of models that are in memory already. Raises ValueError for what `check_members` finds."""
        models = list(models)
        check_members(models)
        members = {model.name: model for model in models}
        found = [{"weights_digest": tensors_digest(tensors_of(m.module)), "own": is_own(m)} for m in models]
        descriptions = [{**m.describe(), **more} for m, more in zip(models, found, strict=True)]
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
        """The pool in a folder; reads only the metadata, the weights follow when they are asked for.

        names: the members wanted, in order; by default all that the folder has

        Raises FileNotFoundError where the folder has no member, ValueError where a metadata file is damaged.
        """
        folder = Path(folder)
        there = sorted(folder.glob("*.json"))
        files = there if names is None else [folder / f"{name}.json" for name in names]
        if not files:
            raise FileNotFoundError(
                f"No pool in {folder}: it has no <model>.json. `freelib pool --help` tells more."
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

    def sample(self, n: int, rng: torch.Generator) -> list[PretrainedModel]:
        """Draws n different members; all of them, in random order, where the pool has no more."""
        return [self[i] for i in torch.randperm(len(self), generator=rng)[:n].tolist()]

    def best(self) -> PretrainedModel:
        """The member with the highest held-out accuracy (the first of them where several share it)."""
        return self[max(range(len(self)), key=lambda i: self.descriptions[i].get("accuracy") or 0.0)]

    @property
    def classes(self) -> tuple[tuple[str, str], ...]:
        """All (domain, class name) pairs that a member knows, sorted."""
        return tuple(sorted({(d["domain"], name) for d in self.descriptions for name in d["class_names"]}))

    @property
    def image_size(self) -> int:
        """The largest input size among the members: at it, no member's detail is lost."""
        return max(description["image_size"] for description in self.descriptions)

    @property
    def channels(self) -> int:
        """How many channels the members' images have."""
        return len(self.descriptions[0]["mean"])

    @property
    def mean(self) -> tuple[float, ...]:
        """The members' normalisation means, averaged: what a student of the pool normalises with."""
        return self._average("mean")

    @property
    def std(self) -> tuple[float, ...]:
        """The members' normalisation deviations, averaged."""
        return self._average("std")

    def _average(self, field: str) -> tuple[float, ...]:
        columns = zip(*(description[field] for description in self.descriptions), strict=True)
        return tuple(round(sum(column) / len(self), 6) for column in columns)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits over the members' metadata, weights' digests included, not how they arose."""
        aside = ("training", "seconds", "own")
        kept = [{key: value for key, value in d.items() if key not in aside} for d in self.descriptions]
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def save_member(model: PretrainedModel, folder: Path, **more: Any) -> None:
    """Writes a model of one of freelib's architectures: the weights first, so that what is listed is whole.

    more: further metadata
    Raises ValueError for a custom module: a file of tensors can't hold its code.
    """
    if model.arch not in ARCHITECTURES or not isinstance(model.module, Backbone):
        raise ValueError(
            f"{model.name} is a custom module; a pool on disk holds only {', '.join(ARCHITECTURES)}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    digest = save_tensors(folder / f"{model.name}.safetensors", model.module.state_dict())
    description = {**model.describe(), "weights_digest": digest, **more}
    write_atomically(folder / f"{model.name}.json", json.dumps(description, indent=1).encode())


def read_description(file: Path) -> dict[str, Any]:
    """A member's metadata. Raises ValueError where the file is damaged or does not describe it."""
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
        missing = {"name", *_FIELDS, "width"} - set(description)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}): delete it, and it is trained again.") from error
    if missing:
        words = "does not describe a model of a freelib pool (your own: read_own_models)"
        raise ValueError(f"{file} {words}: {', '.join(sorted(missing))} missing.")
    if description["name"] != file.stem:  # the name says which file of weights is read
        raise ValueError(f"{file} describes {description['name']!r}: file and model must share a name.")
    return checks.check_description(file, description)


def load_member(folder: Path, description: dict[str, Any]) -> PretrainedModel:
    """The model that a description of this folder stands for.

    Raises FileNotFoundError or ValueError where its weights are missing, damaged, not finite, of another
    shape or others than those described.
    """
    file = folder / f"{description['name']}.safetensors"
    check_state(file, weights := load_tensors(file))
    if description.get("weights_digest", digest := tensors_digest(weights)) != digest:
        raise ValueError(
            f"{file} holds other weights than its .json describes: delete both, and it is trained again."
        )
    module = build_backbone(
        description["arch"],
        n_way=len(description["class_names"]),
        image_size=description["image_size"],
        channels=len(description["mean"]),
        width=description["width"],
    )
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{file} does not hold the weights of a {description['arch']}: {error}") from error
    return PretrainedModel(
        module.to(memory_format=torch.channels_last),
        name=description["name"],
        accuracy=description.get("accuracy"),
        **{key: description[key] for key in _FIELDS},
    )

"""A pre-trained classifier: in memory, with what is known about it, and as two files in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from freelib.models.backbones import ARCHITECTURES, Backbone, build_backbone
from freelib.models.libraries import LIBRARIES, OnnxNetwork, read_network
from freelib.models.metadata import check_metadata, read_metadata
from freelib.models.transform import ImageTransform
from freelib.storage import (
    check_file_name,
    load_tensors,
    plain,
    save_tensors,
    tensors_digest,
    tensors_of,
    write_atomically,
)

_FIELDS = ("arch", "domain", "class_names", "mean", "std", "image_size")
_OPTIONAL = ("accuracy", "interpolation", "options")


class PretrainedModel:
    """One member of the pool: a frozen classifier with what is known about it.

    `module` is any torch classifier. It takes normalised images `(n, C, image_size, image_size)`, of the type
    of its weights, and gives logits `(n, n_way)`, alone, as the first of a tuple or under the name "logits";
    it is put into eval mode, and its parameters are frozen. One that is compiled runs without the compiler.
    `class_names` are the classes of its outputs, in their order, and `domain` is the data set that they
    belong to, if known. `mean` and `std`, one number a channel, are the normalisation that it was trained
    with, for images in [0, 1]. `interpolation`, "bilinear" or "bicubic", is how its images are resized, and
    `options` are arguments of the library's function that `arch` names.
    `accuracy` is measured on images that its training held out, in [0, 1], or None where it is not known.

    Raises ValueError where one of these has a value that cannot be.

    >>> module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    >>> model = PretrainedModel(
    ...     module, class_names=["cat", "dog"], mean=[0.5] * 3, std=[0.25] * 3, image_size=8
    ... )
    >>> model(torch.rand(4, 3, 32, 32)).shape  # images of any size in [0, 1]
    torch.Size([4, 2])
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
        interpolation: str = "bilinear",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        about = {"class_names": class_names, "mean": mean, "std": std, "image_size": image_size}
        self.options = dict(options or {})
        more = {"accuracy": accuracy, "interpolation": interpolation, "options": self.options}
        check_metadata(name, about | more)
        self.module = getattr(module, "_orig_mod", module).eval()
        for parameter in self.module.parameters():
            parameter.requires_grad = False  # by this way TorchScript, and lazy layers, allow it
        self.class_names = tuple(map(str, class_names))
        self.name, self.arch, self.domain = name, arch, domain
        self.accuracy = None if accuracy is None else float(accuracy)
        self.transform = t = ImageTransform(mean, std, int(image_size), interpolation)
        self.mean, self.std, self.image_size = t.mean, t.std, t.image_size

    @property
    def n_way(self) -> int:
        """The number of its classes."""
        return len(self.class_names)

    @property
    def classes(self) -> tuple[tuple[str, str], ...]:
        """Its classes as (domain, class name): what two models may share."""
        return tuple((self.domain, name) for name in self.class_names)

    @property
    def device(self) -> torch.device:
        """Where its weights are; the CPU for a model without weights."""
        held = chain(self.module.parameters(), self.module.buffers())
        return next((tensor.device for tensor in held), torch.device("cpu"))

    @property
    def is_own(self) -> bool:
        """Whether its network is someone's own and none of freelib's, whatever `arch` says."""
        return not isinstance(self.module, Backbone)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits `(n, n_way)` of images `(n, C, H, W)` in [0, 1]; differentiable by the images.

        They are float32 at least. Raises TypeError where the module gives none.
        """
        logits = first_tensor(self.module(self._inputs(images)))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _inputs(self, images: Tensor) -> Tensor:
        inputs = self.transform(images)
        types = (p.dtype for p in self.module.parameters() if p.is_floating_point())
        return inputs.to(next(types, inputs.dtype))

    def features(self, images: Tensor) -> Tensor:
        """Features `(n, d)` of images `(n, C, H, W)` in [0, 1]: the input of the last linear layer that runs.

        Raises TypeError where the module has no `features` method and no linear layer runs.
        """
        inputs = self._inputs(images)
        own = getattr(self.module, "features", None)
        if callable(own) and not isinstance(own, nn.Module):
            return first_tensor(own(inputs)).flatten(1)
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

    def black_images(self) -> Tensor:
        """Two black images `(2, C, image_size, image_size)` on its device, to try it with."""
        return torch.zeros(2, len(self.mean), self.image_size, self.image_size, device=self.device)

    def tensors(self) -> dict[str, Tensor]:
        """Its weights and buffers, without what a module may keep beside tensors."""
        return tensors_of(self.module)

    def describe(self) -> dict[str, Any]:
        """The metadata that is stored beside the weights."""
        about = {name: plain(getattr(self, name)) for name in ("name", *_FIELDS, "accuracy")}
        about |= {"width": self.module.width if isinstance(self.module, Backbone) else None}
        changed = {"options": plain(self.options), "interpolation": self.transform.interpolation}
        return about | {name: value for name, value in changed.items() if value not in ({}, "bilinear")}


def first_tensor(answer: Any) -> Tensor:
    """What counts of a network's answer: itself, its `logits`, the first of a tuple, the only one of a dict.

    Raises TypeError where that is no tensor.
    """
    found = getattr(answer, "logits", answer)
    if isinstance(found, Mapping):
        tensors = [value for value in found.values() if isinstance(value, Tensor)]
        found = found.get("logits", tensors[0] if len(tensors) == 1 else None)
    elif isinstance(found, tuple | list) and found:
        found = found[0]
    if not isinstance(found, Tensor):
        keys = f" with {', '.join(map(str, answer))}" if isinstance(answer, Mapping) else ""
        raise TypeError(f"a {type(answer).__name__}{keys} is no tensor: wrap the network so that it gives logits.")
    return found


def check_finite_tensors(owner: object, tensors: dict[str, Tensor]) -> None:
    """Raises ValueError, naming the owner, where a tensor has a value that is not finite."""
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{owner}: {name} is not finite.")


def check_answers(model: PretrainedModel) -> None:
    """Raises ValueError where a model has no logits `(n, n_way)` that are finite, its own, and always the same.

    Its parameters have to be finite, and are looked at first; a buffer may not be, such as a mask. Then it is
    tried with a black image and one of noise, twice.
    """
    parameters = dict(model.module.named_parameters())
    for name, parameter in parameters.items():
        if is_lazy(parameter) or parameter.is_meta:
            raise ValueError(f"{model.name}: {name} has no values yet: load its weights, or call it once, before.")
    check_finite_tensors(model.name, parameters)
    images, rng = model.black_images(), torch.Generator().manual_seed(0)
    images[1] = torch.rand(images[1].shape, generator=rng).to(images)
    try:
        with torch.no_grad():
            answer, again = model(images), model(images)
        shape = tuple(answer.shape)
    except Exception as error:  # someone's own code: it may raise anything
        raise ValueError(f"{model.name} can't answer images {tuple(images.shape)}: {error}") from error
    if shape != (2, model.n_way):
        raise ValueError(f"{model.name}: two images give {shape}, expected logits {(2, model.n_way)}.")
    for kind, logits in zip(("black", "noise"), answer, strict=True):
        if not logits.isfinite().all():
            raise ValueError(f"{model.name}: the logits of a {kind} image are not finite: {logits.tolist()}.")
    scale = float(answer.abs().max())
    if float((answer - again).abs().max()) > 1e-3 * scale:
        raise ValueError(f"{model.name} answers the same images differently each time: switch its dropout off.")
    if float((answer[0] - answer[1]).abs().max()) <= 1e-6 * scale:
        with torch.no_grad():
            others = model(torch.rand(8, len(model.mean), 4, 4, generator=rng).to(images))
        if float((others - answer[0]).abs().max()) <= 1e-6 * scale:
            raise ValueError(f"{model.name} gives every image the same logits: was its last layer loaded?")


def save_member(model: PretrainedModel, folder: Path, **more: Any) -> None:
    """Writes `<name>.safetensors` with the weights, then `<name>.json` with the metadata and `more`.

    What has its JSON file is therefore whole. An ONNX file is copied. Raises ValueError for a network that is
    neither freelib's nor a library's (a file of tensors cannot hold its code), and for a name that is none of
    a file.
    """
    check_file_name(model.name)
    if model.arch not in ARCHITECTURES if not model.is_own else not _of_library(model.arch):
        known = ", ".join((*ARCHITECTURES, *LIBRARIES))
        raise ValueError(f"{model.name} is a custom module; a pool on disk holds only {known}.")
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model.module, OnnxNetwork):
        model.module.copy_to(folder / f"{model.name}.onnx")
        digest = tensors_digest(model.tensors())
    else:
        digest = save_tensors(folder / f"{model.name}.safetensors", model.tensors())
    description = {**model.describe(), "weights_digest": digest, **more}
    write_atomically(folder / f"{model.name}.json", json.dumps(description, indent=1).encode())


def _of_library(arch: str) -> bool:
    return arch.partition("/")[0] in LIBRARIES


def read_description(file: Path) -> dict[str, Any]:
    """The metadata of a stored model. Raises ValueError where the file is damaged or does not fit."""
    description = read_metadata(file, ("name", *_FIELDS, "width"))
    check_metadata(file, description)
    if description["name"] != file.stem:  # the name says which file of weights is read
        raise ValueError(f"{file} describes {description['name']!r}: file and model must share a name.")
    if description["arch"] not in ARCHITECTURES and not _of_library(description["arch"]):
        raise ValueError(
            f"{file}: arch is {description['arch']!r}, expected one of {', '.join(ARCHITECTURES)} "
            "(a folder of your own models is read by read_pool)."
        )
    if not all(isinstance(name, str) for name in description["class_names"]):
        raise ValueError(f"{file}: class_names must be strings, got {description['class_names']}.")
    return description | ({"own": True} if _of_library(description["arch"]) else {})


def load_member(folder: Path, description: dict[str, Any]) -> PretrainedModel:
    """The stored model that a description stands for.

    Raises FileNotFoundError or ValueError where its weights are missing, damaged, not finite, of another
    shape or not those that were described.
    """
    arch, n_way, channels = description["arch"], len(description["class_names"]), len(description["mean"])
    file = folder / f"{description['name']}.{'onnx' if arch == 'onnx' else 'safetensors'}"
    if arch in ARCHITECTURES:
        weights = load_tensors(file)
        check_finite_tensors(file, weights)
        size, width = description["image_size"], description["width"]
        module: nn.Module
        with torch.device("meta"):  # takes no memory, whatever the width
            module = build_backbone(arch, n_way=n_way, image_size=size, channels=channels, width=width)
        try:
            module.load_state_dict(weights, assign=True)
        except RuntimeError as error:
            raise ValueError(f"{file} does not hold the weights of a {arch}: {error}") from error
        module.float().to(memory_format=torch.channels_last)
    else:
        module = read_network(folder / f"{description['name']}.json", description, file)
        check_finite_tensors(file, dict(module.named_parameters()))
        weights = tensors_of(module)
    if description.get("weights_digest", digest := tensors_digest(weights)) != digest:
        raise ValueError(f"{file} holds other weights than its .json describes: delete both, and make it again.")
    about = {key: description[key] for key in (*_FIELDS, *_OPTIONAL) if key in description}
    return PretrainedModel(module, name=description["name"], **about)

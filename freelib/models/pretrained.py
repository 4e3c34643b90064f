"""A pre-trained classifier: in memory, with what is known about it, and as two files in a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from freelib.models.backbones import ARCHITECTURES, Backbone, build_backbone
from freelib.models.metadata import check_metadata, read_metadata
from freelib.models.transform import ImageTransform
from freelib.storage import check_file_name, load_tensors, plain, save_tensors, tensors_digest, write_atomically

_FIELDS = ("arch", "domain", "class_names", "mean", "std", "image_size")


class PretrainedModel:
    """One member of the pool: a frozen classifier with what is known about it.

    `module` is any torch classifier. It takes normalised images `(n, C, image_size, image_size)` and gives
    logits `(n, n_way)`; it is put into eval mode, and its parameters are frozen. `class_names` are the
    classes of its outputs, in their order, and `domain` is the data set that they belong to, if known. `mean`
    and `std`, one number a channel, are the normalisation that it was trained with, for images in [0, 1].
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
        """The number of its classes."""
        return len(self.class_names)

    @property
    def classes(self) -> tuple[tuple[str, str], ...]:
        """Its classes as (domain, class name): what two models may share."""
        return tuple((self.domain, name) for name in self.class_names)

    @property
    def device(self) -> torch.device:
        """Where its weights are; the CPU for a model without weights."""
        return next((p.device for p in self.module.parameters()), torch.device("cpu"))

    @property
    def is_own(self) -> bool:
        """Whether its network is someone's own and none of freelib's, whatever `arch` says."""
        return not isinstance(self.module, Backbone)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits `(n, n_way)` of images `(n, C, H, W)` in [0, 1]; differentiable by the images."""
        return self.module(self.transform(images))

    def features(self, images: Tensor) -> Tensor:
        """Features `(n, d)` of images `(n, C, H, W)` in [0, 1]: the input of the last linear layer that runs.

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

    def black_images(self, n: int = 2) -> Tensor:
        """Black images `(n, C, image_size, image_size)` on its device, to try it with."""
        return torch.zeros(n, len(self.mean), self.image_size, self.image_size, device=self.device)

    def tensors(self) -> dict[str, Tensor]:
        """Its weights and buffers, without what a module may keep beside tensors."""
        state = self.module.state_dict()
        return {name: value for name, value in state.items() if isinstance(value, Tensor)}

    def describe(self) -> dict[str, Any]:
        """The metadata that is stored beside the weights."""
        about = {name: plain(getattr(self, name)) for name in ("name", *_FIELDS, "accuracy")}
        return about | {"width": getattr(self.module, "width", None)}


def check_finite_tensors(owner: object, tensors: dict[str, Tensor]) -> None:
    """Raises ValueError, naming the owner, where a tensor has a value that is not finite."""
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{owner}: {name} is not finite.")


def check_answers(model: PretrainedModel) -> None:
    """Raises ValueError where a model has no finite logits `(n, n_way)` for black images."""
    images = model.black_images()
    try:
        with torch.no_grad():
            answer = model(images)
        shape, finite = tuple(answer.shape), bool(answer.isfinite().all())
    except Exception as error:  # someone's own code: it may raise anything
        raise ValueError(f"{model.name} can't answer images {tuple(images.shape)}: {error}") from error
    if shape != (2, model.n_way):
        raise ValueError(f"{model.name}: two images give {shape}, expected logits {(2, model.n_way)}.")
    if not finite:
        raise ValueError(f"{model.name}: the logits of a black image are not finite: {answer[0].tolist()}.")


def save_member(model: PretrainedModel, folder: Path, **more: Any) -> None:
    """Writes `<name>.safetensors` with the weights, then `<name>.json` with the metadata and `more`.

    What has its JSON file is therefore whole. Raises ValueError for a network that is none of freelib's (a
    file of tensors cannot hold its code), and for a name that is none of a file.
    """
    check_file_name(model.name)
    if model.arch not in ARCHITECTURES or model.is_own:
        raise ValueError(f"{model.name} is a custom module; a pool on disk holds only {', '.join(ARCHITECTURES)}.")
    folder.mkdir(parents=True, exist_ok=True)
    digest = save_tensors(folder / f"{model.name}.safetensors", model.module.state_dict())
    description = {**model.describe(), "weights_digest": digest, **more}
    write_atomically(folder / f"{model.name}.json", json.dumps(description, indent=1).encode())


def read_description(file: Path) -> dict[str, Any]:
    """The metadata of a stored model. Raises ValueError where the file is damaged or does not fit."""
    description = read_metadata(file, ("name", *_FIELDS, "width"))
    check_metadata(file, description)
    if description["name"] != file.stem:  # the name says which file of weights is read
        raise ValueError(f"{file} describes {description['name']!r}: file and model must share a name.")
    if description["arch"] not in ARCHITECTURES:
        raise ValueError(
            f"{file}: arch is {description['arch']!r}, expected one of {', '.join(ARCHITECTURES)} "
            "(a folder of your own models is read by read_own_models)."
        )
    if not all(isinstance(name, str) for name in description["class_names"]):
        raise ValueError(f"{file}: class_names must be strings, got {description['class_names']}.")
    return description


def load_member(folder: Path, description: dict[str, Any]) -> PretrainedModel:
    """The stored model that a description stands for.

    Raises FileNotFoundError or ValueError where its weights are missing, damaged, not finite, of another
    shape or not those that were described.
    """
    file = folder / f"{description['name']}.safetensors"
    weights = load_tensors(file)
    check_finite_tensors(file, weights)
    if description.get("weights_digest", digest := tensors_digest(weights)) != digest:
        raise ValueError(f"{file} holds other weights than its .json describes: delete both, and it is trained again.")
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

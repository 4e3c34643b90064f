"""What models and pools have to be, said before any work starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from freelib.models.backbones import ARCHITECTURES, Backbone

if TYPE_CHECKING:
    from freelib.models.pool import ModelPool, PretrainedModel

NUMBER = int | float
_MODEL = {"class_names": [str], "width": int | None, "seconds": NUMBER | None, "training": dict | None}


def _names(value: Any) -> bool:
    return _listed(value) and len({str(name) for name in value} - {""}) == len(value) > 1


def _numbers(value: Any, low: float, high: float) -> bool:
    return _listed(value) and all(hasattr(x, "__float__") and low <= float(x) <= high for x in value)


def _listed(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, str | Mapping) and len(value) > 0


_FITS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "arch": (lambda v: isinstance(v, str), "arch is a name"),
    "class_names": (_names, "class_names is a list of at least two names, no two alike"),
    "mean": (lambda v: _numbers(v, 0, 1), "mean is a list of numbers in [0, 1], of images in [0, 1]"),
    "std": (lambda v: _numbers(v, 1e-6, 1e6), "std is a list of numbers above 0, of images in [0, 1]"),
    "image_size": (lambda v: isinstance(v, Integral) and int(v) > 0, "image_size is a whole number > 0"),
    "domain": (lambda v: isinstance(v, str), "domain is a name"),
    "accuracy": (lambda v: v is None or _numbers([v], 0, 1), "accuracy is a number in [0, 1]"),
}
"""What the words on a model have to be, and how a message says so."""


def check_metadata(owner: object, about: Mapping[str, Any]) -> None:
    """Raises ValueError, naming the owner, where what is said of a model (see `_FITS`) can't be meant."""
    wrong = [
        f"{words}, got {about[name]!r}"
        for name, (fits, words) in _FITS.items()
        if name in about and not fits(about[name])
    ]
    if not wrong and len(about["mean"]) != len(about["std"]):
        wrong = ["mean and std have a number for each channel"]
    if wrong:
        raise ValueError(f"{owner}: {'; '.join(wrong)}.")


def misfits(found: Mapping[str, Any], kinds: Mapping[str, Any]) -> list[str]:
    """Names under which there is nothing, or a value of another kind; the kind [T] is a list of T."""

    def fits(value: Any, kind: Any) -> bool:
        if isinstance(kind, list):
            return isinstance(value, list) and all(fits(item, kind[0]) for item in value)
        return isinstance(value, kind) and not isinstance(value, bool)

    return [name for name, kind in kinds.items() if not fits(found.get(name), kind)]


def check_description(file: Path, found: dict[str, Any]) -> dict[str, Any]:
    """The same. Raises ValueError, naming the file, where what it says of a model can't be meant."""
    check_metadata(file, found)
    wrong = misfits(found, _MODEL) or (["width"] if found["width"] is not None and found["width"] < 1 else [])
    wrong += ["arch"] if found["arch"] not in ARCHITECTURES else []
    if wrong:
        raise ValueError(f"{file}: {wrong[0]} is {found.get(wrong[0])!r}: delete it to train it again.")
    return found


def check_descriptions(descriptions: Sequence[Mapping[str, Any]]) -> None:
    """Raises ValueError for a pool without models, of two with one name, or of gray and colour images."""
    if not descriptions:
        raise ValueError("A pool needs at least one model, got none.")
    if len({description["name"] for description in descriptions}) < len(descriptions):
        raise ValueError("Every model of a pool needs a name of its own.")
    channels = {len(description["mean"]): description["name"] for description in descriptions}
    if len(channels) > 1:
        words = " and ".join(f"{name} of {n}" for n, name in sorted(channels.items()))
        raise ValueError(f"A pool's models take images of one number of channels, not {words}.")


def check_members(models: Sequence[PretrainedModel]) -> None:
    """Raises ValueError, naming the model, for weights that are not finite and answers that don't fit.

    Two models' classes of one name are one class: without a domain that is taken for an oversight. A network
    is shown a black image; one without weights is not, since calls may cost money.
    """
    owners: dict[str, str] = {}
    for model in models:
        for name in () if model.domain else model.class_names:
            if (other := owners.setdefault(name, model.name)) != model.name:
                raise ValueError(
                    f"{other} and {model.name} both have a class {name!r}. Give each a domain: the same one "
                    "if it is the same class, different ones if not."
                )
        check_state(model.name, tensors_of(model.module))
        if next(model.module.parameters(), None) is not None:
            _check_answers(model)


def check_state(owner: object, tensors: Mapping[str, Tensor]) -> None:
    """Raises ValueError, naming the owner, where a tensor is not finite."""
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{owner}: {name} is not finite.")


def is_own(model: PretrainedModel) -> bool:
    """Whether a model's network is someone's own and none of freelib's, whatever its `arch` is called."""
    return not isinstance(model.module, Backbone)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """A module's state, without what is no tensor (a module may keep more)."""
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def _black(model: PretrainedModel) -> Tensor:
    return torch.zeros(2, len(model.mean), model.image_size, model.image_size, device=model.device)


def _check_answers(model: PretrainedModel) -> None:
    images = _black(model)
    try:
        with torch.no_grad():
            answer = model(images)
        shape, finite = tuple(answer.shape), bool(answer.isfinite().all())
    except Exception as error:  # someone's own code: it may raise anything
        raise ValueError(f"{model.name} can't answer images {tuple(images.shape)}: {error}") from error
    if shape != (2, model.n_way):
        raise ValueError(
            f"{model.name}: two images get an answer of shape {shape}, expected logits {(2, model.n_way)}."
        )
    if not finite:
        raise ValueError(f"{model.name}: the answer to a black image is not finite: {answer[0].tolist()}.")


def check_features(models: Sequence[PretrainedModel]) -> None:
    """Raises TypeError where a network that is none of freelib's gives no features `(n, d)`."""
    for model in models:
        if is_own(model):
            with torch.no_grad():
                model.features(_black(model))


def check_batchnorm(pool: ModelPool) -> None:
    """Raises ValueError where a model has no BatchNorm layer whose statistics λ_bn could be about."""
    for i, description in enumerate(pool.descriptions):
        if not description.get("own"):
            continue
        layers = [layer for layer in pool[i].module.modules() if isinstance(layer, nn.BatchNorm2d)]
        if all(layer.running_mean is None for layer in layers):
            raise ValueError(
                f"lambda_bn is above 0, but {description['name']} has no BatchNorm2d layer with running "
                "statistics: set lambda_bn=0."
            )


def check_replay(pool: ModelPool, config: Any) -> None:
    """Raises ValueError where what the memory will hold can never fill an episode.

    config: with the fields of `ReplayConfig` and `MethodConfig`, and images_per_class
    """
    if config.replay_scope == "none":
        return
    widest = max(len(description["class_names"]) for description in pool.descriptions)
    there = widest if config.replay_scope == "within" else len(pool.classes)
    if there < config.n_way:
        where = "the pool's widest model" if config.replay_scope == "within" else "the pool"
        raise ValueError(
            f"{config.n_way}-way episodes are to be replayed, but {where} has {there} classes: set "
            f"n_way={there}, or replay_scope=none."
        )
    held, wanted = config.memory_batches * config.images_per_class, config.n_shot + config.n_query
    if held < wanted:
        raise ValueError(
            f"An episode takes n_shot + n_query = {wanted} images of a class, but the memory keeps only "
            f"memory_batches × images_per_class = {held}."
        )

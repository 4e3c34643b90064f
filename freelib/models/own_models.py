"""A folder of someone's own torch classifiers as a pool: weights as data, metadata as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from freelib.models.metadata import check_metadata, read_metadata
from freelib.models.pool import ModelPool
from freelib.models.pretrained import PretrainedModel
from freelib.storage import load_state_file

WEIGHTS = (".safetensors", ".pt", ".pth")
NEEDED = ("arch", "class_names", "mean", "std", "image_size")
OPTIONAL = ("domain", "accuracy")

Architecture = Callable[[int], nn.Module]


def read_own_models(
    folder: str | Path, architectures: Mapping[str, Architecture], *, device: torch.device | str = "cpu"
) -> ModelPool:
    """The pool of all models in a folder, in the order of their names.

    A model is two files: `<name>.safetensors`, `.pt` or `.pth` with its state dictionary, and `<name>.json`
    with `arch` (a key of `architectures`), `class_names` in the order of the outputs, `mean` and `std` of the
    normalisation for images in [0, 1], and `image_size`. `accuracy` on held-out images, in [0, 1], may be
    left out, and so may `domain`, whose classes these are, where no other model has a class of the same name:
    two models' classes are one class where name and domain are the same.

    `architectures` has, by name, a function from the number of classes to an untrained module, whose input
    is normalised images `(n, C, image_size, image_size)` and whose output is logits `(n, n_classes)`.

    Methods with a generator (FREE, BiDf-MKD, pool distillation) need a multiple of 4 as the largest
    image_size of a pool. Instead of 299 write 300, and let a module that resizes images stand around a
    network that takes 299 pixels only.

    Raises FileNotFoundError where the folder has no such model, ValueError for files that do not fit
    together, naming them. Only tensors are read from files of weights; no code in them is run.

    >>> import json, tempfile
    >>> def linear(n):
    ...     return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, n))
    >>> folder = Path(tempfile.mkdtemp())
    >>> torch.save(linear(2).state_dict(), folder / "mine.pt")
    >>> card = {"arch": "linear", "class_names": ["cat", "dog"], "image_size": 8}
    >>> card |= {"mean": [0.5] * 3, "std": [0.25] * 3}
    >>> _ = (folder / "mine.json").write_text(json.dumps(card))
    >>> read_own_models(folder, {"linear": linear})[0].class_names
    ('cat', 'dog')
    """
    folder = Path(folder)
    cards = sorted(folder.glob("*.json"))
    if not cards:
        raise FileNotFoundError(f"{folder} has no model: each is <name>.json beside its <name>{WEIGHTS[0]}.")
    for file in sorted(folder.iterdir()):
        if file.suffix in WEIGHTS and not file.with_suffix(".json").is_file():
            raise ValueError(f"{file} has no {file.stem}.json beside it.")
    models = [_read(card, architectures).to(device) for card in cards]
    try:
        return ModelPool.from_models(models)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def _read(card: Path, architectures: Mapping[str, Architecture]) -> PretrainedModel:
    read = read_metadata(card, NEEDED)
    about = {name: read[name] for name in (*NEEDED, *OPTIONAL) if name in read}
    check_metadata(card, about)
    if about["arch"] not in architectures:
        raise ValueError(f"{card}: arch is {about['arch']!r}, expected one of {', '.join(architectures)}.")
    found = [card.with_suffix(kind) for kind in WEIGHTS if card.with_suffix(kind).is_file()]
    if len(found) != 1:
        raise ValueError(f"{card} has {len(found)} files of weights beside it, expected one ({WEIGHTS}).")
    weights = load_state_file(found[0])
    try:
        module = architectures[about["arch"]](len(about["class_names"]))
        module.load_state_dict(weights)
    except Exception as error:  # the architecture is someone's own code: it may raise anything
        raise ValueError(f"{found[0]} does not fit the architecture {about['arch']}: {error}") from error
    return PretrainedModel(module, name=card.stem, **about)

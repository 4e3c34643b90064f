"""Folders of other people's classifiers as a pool: weights as data, what is known of them as JSON."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from freelib.models.libraries import Architecture, read_network
from freelib.models.metadata import check_metadata, read_metadata
from freelib.models.pool import ModelPool
from freelib.models.pretrained import PretrainedModel, load_member, read_description, save_member

WEIGHTS = (".safetensors", ".pt", ".pth", ".onnx")
NEEDED = ("arch", "class_names", "mean", "std", "image_size")
OPTIONAL = ("domain", "accuracy", "interpolation", "options")


def read_pool(
    folder: str | Path, architectures: Mapping[str, Architecture] | None = None, *, device: torch.device | str = "cpu"
) -> ModelPool:
    """The pool of all models in a folder, in the order of their names. Nothing is downloaded, no code is run.

    A model is one of these, and a folder may have all kinds of them, or itself be one of the latter two:

    - what freelib has stored;
    - `<name>.safetensors`, `.pt` or `.pth` with weights, and a card `<name>.json` with `arch`, `class_names` in
      the order of the outputs, `mean` and `std` of the normalisation for images in [0, 1], and `image_size`.
      `arch` is a name in `architectures`, a builder of torchvision's such as "resnet18", or "timm/NAME". The
      card may have `options`, further arguments of the builder, and `interpolation`, "bilinear" or "bicubic";
    - `<name>.onnx` with such a card, where `arch` may be left out: it can be called, and no more;
    - a folder of timm's: `config.json` and `model.safetensors` or `pytorch_model.bin`;
    - an image classifier's folder of transformers': the same, and `preprocessor_config.json`.

    A card, or `config.json`, may have `accuracy` on held-out images, in [0, 1], and `domain`, whose classes
    these are: two models' classes are one class where name and domain are the same.

    `architectures` has, by name, a function from the number of classes to an untrained module, whose input
    is normalised images `(n, C, image_size, image_size)` and whose output is logits `(n, n_classes)`.

    Methods with a generator (FREE, BiDf-MKD, pool distillation) need a multiple of 4 as the largest
    image_size of a pool. Instead of 299 write 300, and let a module that resizes images stand around a
    network that takes 299 pixels only.

    Raises FileNotFoundError where the folder has no such model, ValueError for files that do not fit
    together, naming them, and for a library that is not installed.

    >>> import json, tempfile
    >>> def linear(n):
    ...     return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, n))
    >>> folder = Path(tempfile.mkdtemp())
    >>> torch.save(linear(2).state_dict(), folder / "mine.pt")
    >>> card = {"arch": "linear", "class_names": ["cat", "dog"], "image_size": 8}
    >>> card |= {"mean": [0.5] * 3, "std": [0.25] * 3}
    >>> _ = (folder / "mine.json").write_text(json.dumps(card))
    >>> read_pool(folder, {"linear": linear})[0].class_names
    ('cat', 'dog')
    """
    folder = Path(folder)
    there = sorted(path for path in folder.glob("*") if not path.name.startswith("."))
    members = [path for path in there if path.suffix == ".json" or _is_whole_model(path)]
    if _is_whole_model(folder):
        members = there = [folder]
    if not members:
        known = f"<name>.json beside its <name>{' or '.join(WEIGHTS)}, or a folder of timm's or transformers'"
        raise FileNotFoundError(f"{folder} has no model: each is {known}.")
    for file in there:
        if file.suffix in WEIGHTS and not file.with_suffix(".json").exists():
            raise ValueError(f"{file} has no {file.stem}.json beside it.")
    models = [_read(member, architectures or {}).to(device) for member in members]
    try:
        return ModelPool.from_models(models)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error


def import_pool(folder: str | Path, out: str | Path) -> ModelPool:
    """Copies what `read_pool` finds in a folder to a new one, a pool that every command takes.

    Raises ValueError where `out` is there already, and for a model whose network is someone's own code.
    """
    out = Path(out)
    if out.exists():
        raise ValueError(f"{out} is there already: choose another folder.")
    pool = read_pool(folder)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as made:
        for model in pool:
            save_member(model, Path(made) / "pool")
        shutil.move(Path(made) / "pool", out)
    return ModelPool.load(out)


def _is_whole_model(path: Path) -> bool:
    """Whether a folder is one model, as timm or transformers saves it."""
    file = path / "config.json"
    return file.exists() and bool({"architecture", "architectures", "model_type"} & read_metadata(file).keys())


def _read(member: Path, architectures: Mapping[str, Architecture]) -> PretrainedModel:
    if member.is_dir():
        return _read_whole_model(member)
    about = read_metadata(member)
    if "width" in about:
        return load_member(member.parent, read_description(member))
    found = [file for kind in WEIGHTS if (file := member.with_suffix(kind)).exists()]
    if is_onnx := [file.suffix for file in found] == [".onnx"]:
        about["arch"] = "onnx"
    if missing := [name for name in NEEDED if name not in about]:
        raise ValueError(f"{member} does not describe a model: it lacks {', '.join(missing)}.")
    about = {name: about[name] for name in (*NEEDED, *OPTIONAL) if name in about}
    check_metadata(member, about)
    if len(found) != 1:
        raise ValueError(f"{member} has {len(found)} files of weights beside it, expected one ({WEIGHTS}).")
    module = read_network(member, about, found[0], architectures)
    if not is_onnx and about["arch"] not in architectures and "/" not in about["arch"]:
        about["arch"] = f"torchvision/{about['arch']}"
    return PretrainedModel(module, name=member.stem, **about)


def _read_whole_model(folder: Path) -> PretrainedModel:
    file, name = folder / "config.json", folder.resolve().name
    config = read_metadata(file)
    found = [part for kind in ("model.safetensors", "pytorch_model.bin") if (part := folder / kind).exists()]
    if not found:
        raise ValueError(f"{folder} has neither model.safetensors nor pytorch_model.bin.")
    try:
        about = _timm_card(config) if "architecture" in config else _transformers_card(folder, config)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{file} describes no image classifier: {type(error).__name__} {error}.") from error
    about |= {key: config[key] for key in ("domain", "accuracy") if key in config}
    check_metadata(file, about)
    if all(label.removeprefix("LABEL_").isdigit() for label in about["class_names"]):
        about.setdefault("domain", name)  # numbered classes are no one else's
    return PretrainedModel(read_network(file, about, found[0]), name=name, **about)


def _timm_card(config: dict[str, Any]) -> dict[str, Any]:
    """What timm's `config.json` says of a model."""
    given = config.get("pretrained_cfg", config)
    names = config.get("label_names") or given.get("label_names") or range(config["num_classes"])
    channels, height, width = given["input_size"]
    if height != width or channels != len(given["mean"]):
        raise ValueError(f"images of {given['input_size']}, expected square ones")
    return {
        "arch": f"timm/{config['architecture']}",
        "class_names": [str(label) for label in (names.values() if isinstance(names, dict) else names)],
        "mean": given["mean"],
        "std": given["std"],
        "image_size": height,
        "interpolation": "bicubic" if given.get("interpolation") == "bicubic" else "bilinear",
        "options": config.get("model_args", {}),
    }


def _transformers_card(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """What transformers' `config.json` and `preprocessor_config.json` say of a model."""
    if not all("ForImageClassification" in name for name in config["architectures"]):
        raise ValueError(f"a {config['architectures'][0]}, expected …ForImageClassification")
    seen = read_metadata(folder / "preprocessor_config.json")
    size = seen.get("crop_size") if seen.get("do_center_crop", "crop_size" in seen) else seen.get("size")
    if isinstance(size, dict):
        size = size.get("height", size.get("shortest_edge"))
    if not seen.get("do_normalize", True):
        channels = config.get("num_channels", 3)
        seen |= {"image_mean": [0.0] * channels, "image_std": [1.0] * channels}
    labels = config.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
    return {
        "arch": f"transformers/{config['model_type']}",
        "class_names": [str(labels[key]) for key in sorted(labels, key=int)],
        "mean": seen["image_mean"],
        "std": seen["image_std"],
        "image_size": size if size is not None else config["image_size"],
        "interpolation": "bicubic" if seen.get("resample") == 3 else "bilinear",
        "options": config,
    }

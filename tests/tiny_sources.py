"""A tiny data set in every form that the loader reads; its images are made of their class and number."""

import hashlib
import io
import json
import pickle
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torchvision.datasets import CIFAR100

CLASSES = {"train": ("ant", "bee"), "validation": ("cow",), "test": ("doe",)}
COUNT = 6


def picture(class_name: str, i: int, size: int = 32) -> Image.Image:
    """An image that only this class and number have."""
    rng = np.random.default_rng([*class_name.encode(), i])
    return Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def rows() -> list[dict[str, Any]]:
    """The tiny data set as rows of the Parquet form, not sorted by class."""
    found = [
        {"image": {"bytes": png(picture(c, i)), "path": f"{c}/{i}.png"}, "label": c, "split": split}
        for split, names in CLASSES.items()
        for c in names
        for i in range(COUNT)
    ]
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))]


def write_parquet(path: Path, content: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(content), path)


def write_images(folder: Path, place: str) -> None:
    """The tiny data set's images as PNG, each at a place such as "{split}/{c}/{i}.png"."""
    for split, names in CLASSES.items():
        for c, i in product(names, range(COUNT)):
            file = folder / place.format(split=split, c=c, i=i, part="test" if i > 3 else "train")
            file.parent.mkdir(parents=True, exist_ok=True)
            picture(c, i).save(file, "PNG")


def write_hub(folder: Path, name: str) -> None:
    """The tiny data set as Hugging Face writes it: two shards, with numbers for classes named in the schema."""
    names = sorted(c for split in CLASSES.values() for c in split)
    info = {"info": {"features": {"fine_label": {"_type": "ClassLabel", "names": names}}}}
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(2):
        content = [{"img": row["image"], "fine_label": names.index(row["label"])} for row in rows()[k::2]]
        table = pa.Table.from_pylist(content).replace_schema_metadata({"huggingface": json.dumps(info)})
        pq.write_table(table, folder / f"{name}-0000{k}-of-00002.parquet")


def write_lists(folder: Path) -> None:
    """The tiny data set as lists of images, in mini-ImageNet's usual form."""
    write_images(folder, "images/{c}{i}.jpg")
    for split, names in CLASSES.items():
        lines = [f"{c}{i}.jpg,{c}" for c, i in product(names, range(COUNT))]
        (folder / f"{split.replace('idation', '')}.csv").write_text("\n".join(["filename,label", *lines]))


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny data set as CIFAR-100's three pickles, with their checksums made known to torchvision."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    names = sorted(c for split in CLASSES.values() for c in split)
    parts = {"train": range(COUNT - 1), "test": range(COUNT - 1, COUNT)}
    for part, numbers in parts.items():
        pairs = [(c, i) for i in numbers for c in names]
        pixels = np.stack([np.asarray(picture(c, i)).transpose(2, 0, 1).ravel() for c, i in pairs])
        labels = [names.index(c) for c, _ in pairs]
        (folder / part).write_bytes(pickle.dumps({"data": pixels, "fine_labels": labels}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    md5 = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in ("train", "test", "meta")}
    monkeypatch.setattr(CIFAR100, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": md5["meta"]})


def litter(folder: Path) -> None:
    """An archive's folders, with what macOS and CUB's authors put beside the images."""
    for place in ("A_2011/images/{c}/{i}.png", "A_2011/segmentations/{c}/{i}.png", "__MACOSX/{c}/{i}.png"):
        write_images(folder, place)
    for name in ("README", "images/bee/._1.png", "images/bee/.DS_Store", "images/bee/Thumbs.db", "images/bee/a.json"):
        (folder / "A_2011" / name).write_bytes(b"no image")


def changed(root: Path, name: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    write_parquet(root / f"{name}.parquet", [row | change(row) for row in rows()])


FORMS: dict[str, Callable[[Path, str], None]] = {
    "parquet": lambda root, name: changed(root, name, dict),
    "plain bytes": lambda root, name: changed(root, name, lambda row: {"image": row["image"]["bytes"]}),
    "lists of one": lambda root, name: changed(root, name, lambda row: {"image": [row["image"]]}),
    "split val": lambda root, name: changed(root, name, lambda row: {"split": row["split"].replace("idation", "")}),
    "shards in a repository": lambda root, name: write_hub(root / name / "data", "train"),
    "shards in a folder": lambda root, name: write_hub(root / f"{name}.parquet", "train"),
    "shards beside": lambda root, name: write_hub(root, f"{name}-train"),
    "tree": lambda root, name: write_images(root / name, "{c}/{i}.png"),
    "split tree": lambda root, name: write_images(root / name, "{split}/{c}/{i}.png"),
    "meta tree": lambda root, name: write_images(root / name, "meta_{split:.3}/{c}/{i}.png"),
    "split by image": lambda root, name: write_images(root / name, "{part}/{c}/{i}.png"),
    "litter": lambda root, name: litter(root / name),
    "lists": lambda root, name: write_lists(root / name),
}

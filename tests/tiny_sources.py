"""A tiny data set in every form that the loader reads; its images are made of their class and number."""

from __future__ import annotations

import hashlib
import io
import pickle
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


def write_tree(folder: Path, by_split: bool = False) -> None:
    for split, names in CLASSES.items():
        for c in names:
            place = folder / split / c if by_split else folder / c
            place.mkdir(parents=True)
            for i in range(COUNT):
                picture(c, i).save(place / f"{i}.png")
            (place / "Thumbs.db").write_bytes(b"no image")


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

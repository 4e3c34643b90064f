"""Decoded data sets in the user's cache folder: a file of raw uint8, and a JSON beside it that describes it.

The JSON says which data file is valid, and each is replaced in one step. A data file is trusted if its size
and its modification time are those noted when its digests were last computed; otherwise they are computed
again, and a file that fails is decoded afresh.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray

from freelib.datasets.few_shot import SPLITS, FewShotDataset, digest_of, finish_digest
from freelib.datasets.sources import Source
from freelib.folders import cache_folder
from freelib.storage import replacement, write_atomically

FORMAT = 1  # raise when the layout or the decoding changes: older files are then decoded again


def one_at_a_time(work: str, cache: str | os.PathLike[str] | None = None) -> FileLock:
    """A lock on some work, by its name: whoever else wants to do it on this machine waits meanwhile.

    The system releases it when its holder dies, however it dies.
    """
    lock = cache_folder(cache) / "locks" / f"{work}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(lock)


def load_cached(source: Source, split: str, size: int, folder: Path) -> FewShotDataset:
    """One split of a source at a size, decoded at the first call and memory-mapped at every call."""
    description = folder / f"{source.name}-{size}-{_short(source.location)}.json"
    fingerprint = source.fingerprint()
    meta = _read_valid(description, fingerprint, source)
    if meta is None:
        with one_at_a_time(description.stem, folder):  # another process may have decoded it meanwhile
            meta = _read_valid(description, fingerprint, source)
            meta = meta or _decode(source, size, description, fingerprint)
    return _map(folder / meta["file"], meta, split)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _map(path: Path, meta: dict[str, Any], split: str) -> FewShotDataset:
    part = meta["splits"][split]
    channels, height, width = meta["shape"]
    # Copy-on-write: torch accepts the array without a warning, and nobody writes into the cache through it.
    pixels = np.memmap(
        path,
        dtype=np.uint8,
        mode="c",
        offset=part["start"] * channels * height * width,
        shape=(part["offsets"][-1], channels, height, width),
    )
    return FewShotDataset(
        name=meta["name"],
        split=split,
        images=torch.from_numpy(pixels),
        offsets=tuple(part["offsets"]),
        class_names=tuple(part["class_names"]),
        mean=tuple(meta["mean"]),
        std=tuple(meta["std"]),
        digest=part["digest"],
    )


def _read_valid(description: Path, fingerprint: str, source: Source) -> dict[str, Any] | None:
    """The description, or None if it or its data file is missing, damaged or older than the source."""
    try:
        meta: dict[str, Any] = json.loads(description.read_text(encoding="utf-8"))
        if meta["format"] != FORMAT or meta["source"] != fingerprint:
            return None
        if any(tuple(meta["splits"][split]["class_names"]) != source.classes[split] for split in SPLITS):
            return None
        path = description.parent / meta["file"]
        stat = path.stat()
        if stat.st_size != meta["bytes"]:
            return None
        if stat.st_mtime_ns != meta["file_mtime_ns"]:
            if not _digests_hold(path, meta):
                return None
            meta["file_mtime_ns"] = stat.st_mtime_ns
            with contextlib.suppress(OSError):  # a cache that may only be read is verified at every start
                _write(description, meta)
        return meta
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None


def _digests_hold(path: Path, meta: dict[str, Any]) -> bool:
    parts = (_map(path, meta, split) for split in SPLITS)
    return all(digest_of(part.images, part.class_names, part.offsets) == part.digest for part in parts)


def _write(description: Path, meta: dict[str, Any]) -> None:
    write_atomically(description, json.dumps(meta, indent=1, ensure_ascii=False).encode())


def _decode(source: Source, size: int, description: Path, fingerprint: str) -> dict[str, Any]:
    """Decodes all splits into one file, then writes the description that makes it valid."""
    splits: dict[str, dict[str, Any]] = {}
    histogram = np.zeros((3, 256), dtype=np.int64)
    # A name for each state of the source: Windows does not replace a file that another process has mapped.
    path = description.with_suffix(f".{_short(repr((fingerprint, source.classes)))}.u8")
    with replacement(path) as temporary, temporary.open("wb") as file:
        start = 0
        for split in SPLITS:
            sha, offsets = hashlib.sha256(), [0]
            for class_name in source.classes[split]:
                pixels = source.read_class(class_name, size)
                file.write(pixels.data)
                sha.update(pixels.data)
                offsets.append(offsets[-1] + len(pixels))
                if split == "train":
                    histogram += [np.bincount(pixels[:, c].ravel(), minlength=256) for c in range(3)]
            names = list(source.classes[split])
            digest = finish_digest(sha, names, offsets)
            splits[split] = {"class_names": names, "offsets": offsets, "start": start, "digest": digest}
            start += offsets[-1]
    mean, std = _moments(histogram)
    meta = {
        "format": FORMAT,
        "name": source.name,
        "location": source.location,
        "source": fingerprint,
        "shape": [3, size, size],
        "mean": mean,
        "std": std,
        "file": path.name,
        "bytes": path.stat().st_size,
        "file_mtime_ns": path.stat().st_mtime_ns,
        "splits": splits,
    }
    _write(description, meta)
    for old in set(description.parent.glob(f"{description.stem}[-.]*.u8")) - {path}:
        with contextlib.suppress(OSError):  # Windows keeps a file that another process has mapped
            old.unlink()
    return meta


def _moments(histogram: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel in [0, 1] from its counts of the 256 values, exact to rounding."""
    values = np.arange(256) / 255
    weights = histogram / histogram.sum(axis=1, keepdims=True)
    mean = weights @ values
    std = np.sqrt(weights @ values**2 - mean**2)
    return mean.tolist(), std.tolist()

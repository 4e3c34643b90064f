"""Decoded data sets, kept in the user's cache folder: one file of raw uint8 and one JSON beside it.

The data file's name holds the digest of its content, so a data file is never changed, only made or removed;
the JSON says which one is valid and is replaced in one step. Two processes that decode at once write the same
bytes under the same name. A file is trusted if its size and its modification time are those noted when its
digest was last computed; otherwise the digest is computed again, and a file that fails is decoded afresh.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray

from freelib.datasets.few_shot import SPLITS, FewShotDataset, finish_digest
from freelib.datasets.sources import Source

FORMAT = 1  # raise when the layout or the decoding changes: older files are then decoded again


def cache_folder(cache: str | os.PathLike[str] | None = None) -> Path:
    """The given folder, else $FREELIB_CACHE, else the platform's place for a user's caches."""
    given = cache or os.environ.get("FREELIB_CACHE")
    if given:
        return Path(given).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "freelib"


def one_at_a_time(work: str, cache: str | os.PathLike[str] | None = None) -> FileLock:
    """A lock on some work, by its digest: whoever else wants to do it on this machine waits meanwhile.

    The system releases it when its holder dies, however it dies.
    """
    lock = cache_folder(cache) / "locks" / f"{work}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(lock)


def load_cached(source: Source, split: str, size: int, folder: Path) -> FewShotDataset:
    """One split of a source at a size, decoded at the first call and memory-mapped at every call."""
    key = hashlib.sha256(source.location.encode()).hexdigest()[:8]
    sidecar = folder / f"{source.name}-{size}-{key}.json"
    fingerprint = source.fingerprint()
    meta = _read_valid(sidecar, fingerprint, source)
    if meta is None:
        folder.mkdir(parents=True, exist_ok=True)
        meta = _build(source, size, sidecar, fingerprint)
    return _map(folder / meta["file"], meta, split)


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


def _read_valid(sidecar: Path, fingerprint: str, source: Source) -> dict[str, Any] | None:
    """The sidecar's content, or None if it or its data file is missing, damaged or older than the source."""
    try:
        meta: dict[str, Any] = json.loads(sidecar.read_text(encoding="utf-8"))
        if meta["format"] != FORMAT or meta["source"] != fingerprint:
            return None
        if any(tuple(meta["splits"][split]["class_names"]) != source.classes[split] for split in SPLITS):
            return None
        path = sidecar.parent / meta["file"]
        stat = path.stat()
        if stat.st_size != meta["bytes"]:
            return None
        if stat.st_mtime_ns != meta["file_mtime_ns"]:
            if not _digests_hold(path, meta):
                return None
            meta["file_mtime_ns"] = stat.st_mtime_ns
            with contextlib.suppress(OSError):  # a cache that may only be read is verified at every start
                _write_sidecar(sidecar, meta)
        return meta
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError):
        return None


def _digests_hold(path: Path, meta: dict[str, Any]) -> bool:
    image_bytes = int(np.prod(meta["shape"]))
    with path.open("rb") as file:
        for part in meta["splits"].values():
            sha = hashlib.sha256()
            file.seek(part["start"] * image_bytes)
            left = part["offsets"][-1] * image_bytes
            while left > 0 and (chunk := file.read(min(left, 1 << 24))):
                sha.update(chunk)
                left -= len(chunk)
            if finish_digest(sha, part["class_names"], part["offsets"]) != part["digest"]:
                return False
    return True


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[IO[bytes]]:
    """A file in the folder under a name of its own; gone afterwards unless `_finish` renamed it."""
    path = folder / f"{os.getpid()}-{secrets.token_hex(4)}.part"
    try:
        with path.open("xb") as file:
            yield file
    finally:
        path.unlink(missing_ok=True)


def _finish(file: IO[bytes], path: Path) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()  # Windows renames closed files only
    Path(file.name).replace(path)


def _write_sidecar(sidecar: Path, meta: dict[str, Any]) -> None:
    with _temporary(sidecar.parent) as file:
        file.write(json.dumps(meta, indent=1, ensure_ascii=False).encode())
        _finish(file, sidecar)


def _build(source: Source, size: int, sidecar: Path, fingerprint: str) -> dict[str, Any]:
    """Decode all splits into one file, then write the sidecar that makes it valid."""
    splits: dict[str, dict[str, Any]] = {}
    histogram = np.zeros((3, 256), dtype=np.int64)
    with _temporary(sidecar.parent) as file:
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
        name = f"{sidecar.stem}-{'-'.join(part['digest'][:6] for part in splits.values())}.u8"
        path = sidecar.parent / name
        written = file.tell()
        if not path.exists() or path.stat().st_size != written or not _holds(path, splits, size):
            _finish(file, path)
    mean, std = _moments(histogram)
    meta = {
        "format": FORMAT,
        "name": source.name,
        "location": source.location,
        "source": fingerprint,
        "shape": [3, size, size],
        "mean": mean,
        "std": std,
        "file": name,
        "bytes": written,
        "file_mtime_ns": path.stat().st_mtime_ns,
        "splits": splits,
    }
    _write_sidecar(sidecar, meta)
    for old in sidecar.parent.glob(f"{sidecar.stem}-*.u8"):
        if old.name != name:
            with contextlib.suppress(OSError):  # Windows keeps a file that another process has mapped
                old.unlink()
    return meta


def _holds(path: Path, splits: dict[str, dict[str, Any]], size: int) -> bool:
    return _digests_hold(path, {"shape": [3, size, size], "splits": splits})


def _moments(histogram: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel in [0, 1] from its counts of the 256 values, exact to rounding."""
    values = np.arange(256) / 255
    weights = histogram / histogram.sum(axis=1, keepdims=True)
    mean = weights @ values
    std = np.sqrt(weights @ values**2 - mean**2)
    return mean.tolist(), std.tolist()

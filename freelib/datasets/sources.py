"""Where images come from: Parquet, a folder tree, torchvision's CIFAR-100. Each decodes one class at a time.

Images become RGB and are then resized to a square by Pillow's bilinear filter, which widens its support when
it shrinks an image (antialiasing); an image that is not square is squeezed, not cropped.

Within a class, images are ordered by the hash of their decoded pixels: the same images give the same tensor
and the same digest whichever way they came, and neighbours in a photo series do not end up side by side.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from freelib.datasets.class_lists import ClassLists

Pixels = NDArray[np.uint8]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm"})


class Source(Protocol):
    """One place to read a data set from."""

    name: str
    classes: ClassLists
    location: str

    def fingerprint(self) -> str:
        """A short text that changes when the source's files do."""
        ...

    def read_class(self, class_name: str, size: int) -> Pixels:
        """All images of a class: uint8 (n, 3, size, size)."""
        ...


def decode(data: bytes | Path, where: str) -> Image.Image:
    """An encoded image as RGB. Raises ValueError that names `where` if it cannot be read."""
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"{where} is not a readable image ({error}); replace it with a whole copy") from error


def stack(images: Iterable[Image.Image], size: int) -> Pixels:
    """Images ordered by the hash of their pixels and resized: uint8 (n, 3, size, size)."""
    keyed = []
    for image in images:
        key = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
        small = image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BILINEAR)
        keyed.append((key, np.asarray(small)))
    keyed.sort(key=lambda pair: pair[0])
    return np.ascontiguousarray(np.stack([pixels for _, pixels in keyed]).transpose(0, 3, 1, 2))


def _size_and_time(file: Path) -> str:
    stat = file.stat()
    return f"{stat.st_size} bytes, {stat.st_mtime_ns} ns"


def _require_classes(name: str, found: Collection[str], classes: ClassLists, location: str) -> None:
    for split, names in classes.items():
        missing = [c for c in names if c not in found]
        if missing:
            shown = ", ".join(repr(c) for c in missing[:5]) + (", …" if len(missing) > 5 else "")
            raise ValueError(
                f"{location} lacks {len(missing)} of the {len(names)} {split} classes of {name}: {shown}; "
                "expected every class of the published split, under the published class names"
            )


class ParquetSource:
    """One row an image: `image` = struct(bytes, path), `label` = class name, and, if present, `split`.

    Raises ValueError if columns or classes are missing, or if `split` contradicts the published class lists.
    """

    def __init__(self, name: str, path: Path, classes: ClassLists) -> None:
        self.name, self.path, self.classes = name, path, classes
        self.location = str(path.resolve())

    def fingerprint(self) -> str:
        """Size and modification time of the file."""
        return _size_and_time(self.path)

    @cached_property
    def _table(self) -> Any:
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(self.path)
        except (OSError, ValueError) as error:  # pyarrow's own errors derive from these two
            raise ValueError(f"{self.path} is not a readable Parquet file ({error}); get a whole copy") from error
        if not {"image", "label"} <= set(table.column_names):
            raise ValueError(
                f"{self.path} has columns {table.column_names}; expected image (struct of bytes and path) and label"
            )
        return table

    @cached_property
    def _rows(self) -> dict[str, list[int]]:
        rows: dict[str, list[int]] = {}
        for row, label in enumerate(self._table["label"].to_pylist()):
            rows.setdefault(label, []).append(row)
        _require_classes(self.name, rows, self.classes, self.location)
        if "split" in self._table.column_names:
            splits = self._table["split"].to_pylist()
            for split, names in self.classes.items():
                for class_name in names:
                    found = {splits[row] for row in rows[class_name]}
                    if found != {split}:
                        raise ValueError(
                            f"{self.path} puts class {class_name!r} into {sorted(map(str, found))}; the "
                            f"published split of {self.name} has it in {split!r}: "
                            "correct the file's split column or leave it out"
                        )
        return rows

    def read_class(self, class_name: str, size: int) -> Pixels:
        """All images of a class: uint8 (n, 3, size, size)."""
        return stack(self._images(class_name), size)

    def _images(self, class_name: str) -> Iterator[Image.Image]:
        for row in self._rows[class_name]:
            cell = self._table["image"][row].as_py() or {}
            where = f"{self.path}, row {row} ({cell.get('path') or 'no path'})"
            if not cell.get("bytes"):
                raise ValueError(f"{where} has no image bytes; expected an encoded image in image.bytes")
            yield decode(cell["bytes"], where)


class TreeSource:
    """A folder of `class/image` or of `split/class/image`; the published lists say which split a class is in.

    Raises ValueError if a class has no folder or no image.
    """

    def __init__(self, name: str, path: Path, classes: ClassLists) -> None:
        self.name, self.path, self.classes = name, path, classes
        self.location = str(path.resolve())

    @cached_property
    def _folders(self) -> dict[str, Path]:
        folders: dict[str, Path] = {}
        wanted = {c for names in self.classes.values() for c in names}
        for folder in sorted(self.path.glob("*/")):
            for path in [folder] if folder.name in wanted else folder.glob("*/"):
                if path.name in wanted and folders.setdefault(path.name, path) != path:
                    raise ValueError(f"class {path.name!r} is in {folders[path.name]} and in {path}; keep one")
        _require_classes(self.name, folders, self.classes, self.location)
        return folders

    def fingerprint(self) -> str:
        """A hash of the class folders' modification times."""
        # They change when an image is added, removed or renamed, but not when one is overwritten in place: to
        # see that, each of 60,000 files would have to be asked on every start.
        times = sorted((name, path.stat().st_mtime_ns) for name, path in self._folders.items())
        return hashlib.sha256(repr(times).encode()).hexdigest()[:16]

    def read_class(self, class_name: str, size: int) -> Pixels:
        """All images of a class: uint8 (n, 3, size, size)."""
        folder = self._folders[class_name]
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        if not paths:
            raise ValueError(f"{folder} holds no image; expected files such as *.jpg or *.png")
        return stack((decode(path, str(path)) for path in paths), size)


class TorchvisionCifar:
    """CIFAR-100 as torchvision downloads it (`cifar-100-python`): train and test merged, 600 a class."""

    def __init__(self, name: str, root: Path, classes: ClassLists, download: bool = False) -> None:
        self.name, self.root, self.classes, self.download = name, root, classes, download
        self.folder = root / "cifar-100-python"
        self.location = str(self.folder.resolve())

    def fingerprint(self) -> str:
        """Size and modification time of the two parts; downloads them first if that was asked for."""
        if self.download:
            self._read(train=True)
        missing = [part for part in ("train", "test", "meta") if not (self.folder / part).is_file()]
        if missing:
            raise ValueError(f"{self.location} lacks {', '.join(missing)}; expected a whole copy of CIFAR-100")
        return "; ".join(_size_and_time(self.folder / part) for part in ("train", "test"))

    def _read(self, train: bool) -> Any:
        from torchvision.datasets import CIFAR100

        try:
            return CIFAR100(self.root, train=train, download=self.download)
        except RuntimeError as error:  # a file is missing or has another checksum
            raise ValueError(
                f"{self.location} is not a whole copy of CIFAR-100 ({error}); remove it and download it again"
            ) from error

    @cached_property
    def _images(self) -> dict[str, Pixels]:
        parts = [self._read(train) for train in (True, False)]
        pixels = np.concatenate([part.data for part in parts])
        labels = np.array([part.classes[label] for part in parts for label in part.targets])
        images = {str(name): pixels[labels == name] for name in np.unique(labels)}
        _require_classes(self.name, images, self.classes, self.location)
        return images

    def read_class(self, class_name: str, size: int) -> Pixels:
        """All images of a class: uint8 (n, 3, size, size)."""
        return stack((Image.fromarray(image) for image in self._images[class_name]), size)

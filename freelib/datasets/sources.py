"""Where images come from: Parquet, a folder tree, torchvision's CIFAR-100. Each decodes one class at a time.

Images become RGB and are then resized to a square by Pillow's bilinear filter, which widens its support when
it shrinks an image (antialiasing); an image that is not square is squeezed, not cropped.

Within a class, images are ordered by the hash of their decoded pixels: the same images give the same tensor
and the same digest whichever way they came, and neighbours in a photo series do not end up side by side.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator
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
        raise ValueError(
            f"{where} is not a readable image ({error}); replace it with a whole copy"
        ) from error


def stack(images: Iterable[Image.Image], size: int) -> Pixels:
    """Images ordered by the hash of their pixels and resized: uint8 (n, 3, size, size)."""
    keyed = []
    for image in images:
        key = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
        small = image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BILINEAR)
        keyed.append((key, np.asarray(small)))
    keyed.sort(key=lambda pair: pair[0])
    return np.ascontiguousarray(np.stack([pixels for _, pixels in keyed]).transpose(0, 3, 1, 2))


def _require_classes(name: str, found: Iterable[str], classes: ClassLists, location: str) -> None:
    present = set(found)
    for split, names in classes.items():
        missing = [c for c in names if c not in present]
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
        self._table: Any = None
        self._rows: dict[str, NDArray[np.int64]] = {}

    def fingerprint(self) -> str:
        """Size and modification time of the file."""
        stat = self.path.stat()
        return f"{stat.st_size} bytes, {stat.st_mtime_ns} ns"

    def _open(self) -> None:
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(self.path)
        except (OSError, ValueError) as error:  # pyarrow's own errors derive from these two
            raise ValueError(
                f"{self.path} is not a readable Parquet file ({error}); get a whole copy"
            ) from error
        fields = {"image", "label"} - set(table.column_names)
        if fields:
            raise ValueError(
                f"{self.path} has columns {table.column_names}; "
                "expected image (struct of bytes and path) and label"
            )
        labels = np.asarray(table["label"].to_pylist(), dtype=object)
        _require_classes(self.name, set(labels), self.classes, self.location)
        order = np.argsort(labels.astype(str), kind="stable")
        names, starts = np.unique(labels.astype(str)[order], return_index=True)
        self._rows = dict(zip(names.tolist(), np.split(order, starts[1:]), strict=True))
        if "split" in table.column_names:
            self._check_splits(np.asarray(table["split"].to_pylist(), dtype=object))
        self._table = table["image"].combine_chunks()

    def _check_splits(self, splits: NDArray[np.object_]) -> None:
        for split, names in self.classes.items():
            for class_name in names:
                told = set(splits[self._rows[class_name]])
                if told != {split}:
                    raise ValueError(
                        f"{self.path} puts class {class_name!r} into {sorted(map(str, told))}; the "
                        f"published split of {self.name} has it in {split!r}: "
                        "correct the file's split column or leave it out"
                    )

    def read_class(self, class_name: str, size: int) -> Pixels:
        """All images of a class: uint8 (n, 3, size, size)."""
        if self._table is None:
            self._open()
        return stack(self._images(class_name), size)

    def _images(self, class_name: str) -> Iterator[Image.Image]:
        for row in self._rows[class_name].tolist():
            cell = self._table[row].as_py() or {}
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

    def _folders(self) -> dict[str, Path]:
        folders: dict[str, Path] = {}
        wanted = {c for names in self.classes.values() for c in names}
        for folder in sorted(path for path in self.path.iterdir() if path.is_dir()):
            inside = (
                [folder] if folder.name in wanted else [path for path in folder.iterdir() if path.is_dir()]
            )
            for path in inside:
                if path.name in wanted and folders.setdefault(path.name, path) != path:
                    raise ValueError(
                        f"class {path.name!r} is in {folders[path.name]} and in {path}; keep one"
                    )
        _require_classes(self.name, folders, self.classes, self.location)
        return folders

    def fingerprint(self) -> str:
        """A hash of the class folders' modification times."""
        # Folder times change when an image is added, removed or renamed. An image overwritten in place goes
        # unnoticed: to see it, each of 60,000 files would have to be looked at on every start.
        times = sorted((name, path.stat().st_mtime_ns) for name, path in self._folders().items())
        return hashlib.sha256(repr(times).encode()).hexdigest()[:16]

    def read_class(self, class_name: str, size: int) -> Pixels:
        """All images of a class: uint8 (n, 3, size, size)."""
        folder = self._folders()[class_name]
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        if not paths:
            raise ValueError(f"{folder} holds no image; expected files such as *.jpg or *.png")
        return stack((decode(path, str(path)) for path in paths), size)


class TorchvisionCifar:
    """CIFAR-100 as torchvision downloads it (`cifar-100-python`): train and test merged, 600 a class."""

    def __init__(self, name: str, root: Path, classes: ClassLists, download: bool = False) -> None:
        self.name, self.root, self.classes, self.download = name, root, classes, download
        self.location = str((root / "cifar-100-python").resolve())
        self._images: Pixels | None = None
        self._labels: NDArray[np.object_] | None = None

    def fingerprint(self) -> str:
        """Size and modification time of the two parts; downloads them first if that was asked for."""
        if self.download:
            self._open()
        missing = [part for part in ("train", "test", "meta") if not (Path(self.location) / part).is_file()]
        if missing:
            raise ValueError(
                f"{self.location} lacks {', '.join(missing)}; expected a whole copy of CIFAR-100"
            )
        stats = [(self.root / "cifar-100-python" / part).stat() for part in ("train", "test")]
        return "; ".join(f"{stat.st_size} bytes, {stat.st_mtime_ns} ns" for stat in stats)

    def _open(self) -> None:
        from torchvision.datasets import CIFAR100

        try:
            parts = [CIFAR100(self.root, train=train, download=self.download) for train in (True, False)]
        except RuntimeError as error:  # torchvision's word for a file that is missing or has another checksum
            raise ValueError(
                f"{self.location} is not a whole copy of CIFAR-100 ({error}); remove it and download it again"
            ) from error
        self._images = np.concatenate([part.data for part in parts])
        self._labels = np.asarray(
            [part.classes[label] for part in parts for label in part.targets], dtype=object
        )
        _require_classes(self.name, set(self._labels), self.classes, self.location)

    def read_class(self, class_name: str, size: int) -> Pixels:
        """All images of a class: uint8 (n, 3, size, size)."""
        if self._images is None or self._labels is None:
            self._open()
        assert self._images is not None
        assert self._labels is not None
        return stack((Image.fromarray(image) for image in self._images[self._labels == class_name]), size)

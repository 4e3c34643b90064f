"""Where images come from: Parquet, a folder, torchvision's CIFAR-100. Each decodes one class at a time.

Images become RGB and are then resized to a square by Pillow's bilinear filter, which widens its support when
it shrinks an image (antialiasing); an image that is not square is squeezed, not cropped. An image is turned
as its EXIF orientation says, what is transparent is laid over white, and of several frames the first is
taken. 16 bits a pixel are scaled to 8; floats are in [0, 1], or in [0, 255] where one is above 1.

Within a class, images are ordered by the hash of their decoded pixels: the same images give the same tensor
and the same digest whichever way they came, and neighbours in a photo series do not end up side by side.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from freelib.datasets.class_lists import NATIVE_SIZE, ClassLists, split_of
from freelib.storage import read_limited

Pixels = NDArray[np.uint8]

MOST_PIXELS = 89_478_485
"""Of a picture: where Pillow begins to warn."""

IMAGES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
SIDE_FILES = (".txt", ".json", ".jsonl", ".csv", ".tsv", ".md", ".xml", ".yaml", ".yml", ".html", ".log", ".ini", ".db")
"""Suffixes of files that may lie beside the images of a class. Any other file there is read as an image."""


class Source(Protocol):
    """One place to read a data set from."""

    name: str
    classes: ClassLists
    location: str

    def fingerprint(self) -> str:
        """A short text that changes when the source's files do."""

    def read_class(self, class_name: str, size: int) -> Pixels:
        """All images of a class: uint8 (n, 3, size, size)."""


def decode(data: bytes | Path, where: str) -> Image.Image:
    """An encoded image as RGB. Raises ValueError that names `where` if it cannot be read."""
    try:
        if isinstance(data, Path) and not data.is_file():
            raise ValueError("no file")  # a pipe, which would be waited for
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{image.width} × {image.height} pixels, expected {MOST_PIXELS:,} at most")
            image.load()
            return upright_rgb(image)
    except Exception as error:  # Pillow raises many kinds
        raise ValueError(f"{where} is not a readable image ({error}); replace it, or move it away") from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """A picture as RGB, turned as its EXIF data say. Raises ValueError for values that no picture has."""
    with contextlib.suppress(Exception):  # EXIF data that is damaged says nothing
        image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image, dtype=np.float64)
        top = 65535 if image.mode != "F" else 255 if values.max() > 1 else 1
        if not 0 <= values.min() <= values.max() <= top:
            raise ValueError(f"its values go from {values.min():g} to {values.max():g}, expected 0 to {top}")
        return Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8)).convert("RGB")
    if image.mode.upper().endswith("A") or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


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
                "expected every class of its splits, under the same class names"
            )


def source_at(name: str, path: Path, classes: ClassLists) -> ParquetSource | TreeSource:
    """The source for a Parquet file or a folder. With no classes it holds all that are there."""
    # Hugging Face's shards lie in `data`, or anywhere in a folder that is itself called .parquet
    patterns = ["**/*.parquet"] if path.suffix == ".parquet" else ["*.parquet", "data/*.parquet"]
    files = [path] if path.is_file() else sorted(f for p in patterns for f in path.glob(p) if f.name[0] != ".")
    return ParquetSource(name, path, classes, files) if files else TreeSource(name, path, classes)


class ParquetSource:
    """One row an image, in one file or in shards as Hugging Face writes them.

    `image` (or `img`) is encoded: bytes, a struct with `bytes`, or a list of one of these. `label` (or
    `fine_label`) is a class name, or a number whose name is in the schema (ClassLabel). `split` may be there.

    Raises ValueError if shards, columns or classes are missing, if a column is of another type, and if the
    `split` of a published data set contradicts its class lists.
    """

    def __init__(self, name: str, path: Path, classes: ClassLists, files: list[Path]) -> None:
        self.name, self.path, self.classes, self.files = name, path, classes, files
        self.location = str(path.resolve())

    def fingerprint(self) -> str:
        """Size and modification time of the files."""
        return "; ".join(map(_size_and_time, self.files))

    @cached_property
    def _table(self) -> Any:
        """All files: image, label as class names, and split, or file where there is no such column."""
        import pyarrow as pa

        shards = [m for file in self.files if (m := re.match(r"(.*)\d{5}(-of-(\d{5}))", file.name))]
        for m in shards:
            if (count := sum(m.group(1, 2) == other.group(1, 2) for other in shards)) != int(m[3]):
                raise ValueError(f"{self.path} has {count} of {int(m[3])} shards {m[1]}*{m[2]}.parquet; get them all")
        return pa.concat_tables([_read_parquet(file) for file in self.files])

    @cached_property
    def _rows(self) -> dict[str, list[int]]:
        rows: dict[str, list[int]] = {}
        for row, label in enumerate(self._table["label"].to_pylist()):
            rows.setdefault(label, []).append(row)
        _require_classes(self.name, rows, self.classes, self.location)
        words = self._table[-1].to_pylist() if "split" in self._table.column_names and self.name in NATIVE_SIZE else ()
        for split, name in ((split, name) for split, names in self.classes.items() for name in names if words):
            if set(map(split_of, found := {words[row] for row in rows[name]})) != {split}:
                raise ValueError(
                    f"{self.path} puts class {name!r} into {sorted(found)}; the class lists of {self.name} have it in "
                    f"{split!r}: correct the file's split column or leave it out"
                )
        return rows

    @property
    def found(self) -> dict[str, set[str | None]]:
        """The classes, each with the splits that its rows, or the names of their files, put it into."""
        words = self._table[-1].to_pylist()
        return {name: {split_of(words[row]) for row in rows} for name, rows in self._rows.items()}

    def read_class(self, class_name: str, size: int) -> Pixels:
        return stack(self._images(class_name), size)

    def _images(self, class_name: str) -> Iterator[Image.Image]:
        for row in self._rows[class_name]:
            cell = self._table["image"][row].as_py()
            if isinstance(cell, list):
                cell = cell[0] if len(cell) == 1 else None
            cell = {"bytes": cell} if isinstance(cell, bytes) else cell or {}
            where = f"{self.path}, row {row} ({cell.get('path') or 'no path'})"
            if not cell.get("bytes"):
                raise ValueError(f"{where} has no image bytes; expected one encoded image")
            yield decode(cell["bytes"], where)


def _read_parquet(file: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as content:
            table = content.read()
    except (OSError, ValueError, MemoryError) as error:  # pyarrow's own errors derive from these
        raise ValueError(f"{file} is not a readable Parquet file ({error}); get a whole copy") from error
    names = table.column_names
    image, label = "img" if "img" in names else "image", "fine_label" if "fine_label" in names else "label"
    if not {image, label} <= set(names):
        raise ValueError(f"{file} has columns {names}; expected image (struct of bytes and path) and label")
    kind = table.schema.field(image).type
    inner = getattr(kind, "value_type", kind)  # of a list
    inner = {field.name: field.type for field in inner}.get("bytes") if pa.types.is_struct(inner) else inner
    if "binary" not in str(inner):
        raise ValueError(f"{file}: column {image} is {kind}; expected encoded images: bytes, or a struct with bytes")
    labels, kind = table[label].to_pylist(), table.schema.field(label).type
    if pa.types.is_integer(kind):
        try:
            about = json.loads((table.schema.metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
        except (KeyError, TypeError, ValueError, RecursionError):
            about = None
        class_names = dict(enumerate(about if isinstance(about, list) else ()))
        labels = [class_names.get(value) for value in labels]
    if not all(isinstance(value, str) for value in labels):
        raise ValueError(f"{file}: column {label} is {kind}; expected class names, or numbers named in the schema")
    word = next(filter(split_of, re.split(r"\W", file.stem)), "")
    key, words = ("split", table["split"].to_pylist()) if "split" in names else ("file", [word] * len(table))
    return pa.table({"image": table[image], "label": pa.array(labels, pa.string()), key: pa.array(map(str, words))})


def files_or_folders(folder: Path, *, folders: bool) -> list[Path]:
    """The folders in a folder, or its files but for SIDE_FILES; not what systems hide there."""
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.is_dir() == folders and e.name[0] != "." and e.name != "__MACOSX")
    return [folder / name for name in names if folders or Path(name).suffix.lower() not in SIDE_FILES]


def class_folders(folder: Path, wanted: Collection[str], depth: int = 4) -> Iterator[Path]:
    """The class folders below a folder. What a folder is shows in what it holds, not in its name alone.

    One with class folders in it is none itself. Any other is a class where its name is wanted, or, if no name
    is, where it holds images. Raises ValueError where a folder holds images and class folders.
    """
    for path in files_or_folders(folder, folders=True):
        below = list(class_folders(path, wanted, depth - 1)) if depth > 1 else []
        if below and any(file.suffix.lower() in IMAGES for file in files_or_folders(path, folders=False)):
            raise ValueError(f"{path} holds images, and folders of images such as {below[0].name}; move either away")
        yield from below or (
            [path] if (path.name in wanted if wanted else files_or_folders(path, folders=False)) else []
        )


class TreeSource:
    """A folder with class folders, such as `<class>/<image>` or `<split>/<class>/<image>`, or with lists.

    Where a class is in several folders, `images` counts, and splits such as `train` and `test` are merged. Lists
    are `train.csv`, `val.csv` and `test.csv` with columns filename and label, of files in `images`.

    Raises ValueError if a class has no folder or no image, or several folders otherwise.
    """

    def __init__(self, name: str, path: Path, classes: ClassLists) -> None:
        self.name, self.path, self.classes = name, path, classes
        self.location = str(path.resolve())
        self._lists = [file for file in sorted(path.glob("*.csv")) if split_of(file.stem)]

    @cached_property
    def _places(self) -> dict[str, dict[Path, str | None]]:
        """Of each class the folders, or the images on the lists, and the split that each is put into."""
        places: dict[str, dict[Path, str | None]] = {}
        wanted = {name for names in self.classes.values() for name in names}
        folders = ((p, p.name, p.relative_to(self.path).parent.name) for p in class_folders(self.path, wanted))
        for path, name, word in self._listed() if self._lists else folders:
            places.setdefault(name, {})[path] = split_of(word)
        for name, paths in places.items() if not self._lists else ():
            paths = {p: split for p, split in paths.items() if "images" in p.relative_to(self.path).parts} or paths
            if len(paths) > 1 and (None in paths.values() or len({path.parents[1] for path in paths}) > 1):
                raise ValueError(f"class {name!r} is in {' and in '.join(map(str, paths))}; keep one")
            places[name] = paths
        if not places and (pickles := sorted([*self.path.glob("*.pkl"), *self.path.glob("*.pickle")])):
            raise ValueError(
                f"{pickles[0]} is a pickle, and reading it would run code from it: save its images as "
                "<class>/<number>.png (mini-ImageNet's caches: image_data[i] for i in class_dict[class])"
            )
        _require_classes(self.name, places, self.classes, self.location)
        return places

    def _listed(self) -> Iterator[tuple[Path, str, str]]:
        for file in self._lists:
            rows = csv.DictReader(io.StringIO(read_limited(file, 2**27).decode("utf-8-sig", errors="replace")))
            if not {"filename", "label"} <= set(rows.fieldnames or ()):
                raise ValueError(f"{file} has no columns filename and label; mend the list or move it away")
            yield from ((self.path / "images" / str(row["filename"]), str(row["label"]), file.stem) for row in rows)

    @property
    def found(self) -> dict[str, set[str | None]]:
        """The classes, each with the splits that folders or lists put it into."""
        return {name: set(paths.values()) for name, paths in self._places.items()}

    def fingerprint(self) -> str:
        """A hash of the modification times of class folders or lists."""
        # They change when an image is added, removed or renamed, but not when one is overwritten in place: to
        # see that, each of 60,000 files would have to be asked on every start.
        folders = [(name, path) for name, paths in self._places.items() for path in paths]
        times = sorted((name, path.stat().st_mtime_ns) for name, path in [(f.name, f) for f in self._lists] or folders)
        return hashlib.sha256(repr(("upright", times)).encode()).hexdigest()[:16]

    def read_class(self, class_name: str, size: int) -> Pixels:
        files: list[Path] = []
        for path in self._places[class_name]:
            if not (here := [path] if self._lists else files_or_folders(path, folders=False)):
                raise ValueError(f"{path} holds no image; expected files such as *.jpg or *.png")
            files += here
        return stack((decode(path, str(path)) for path in files), size)


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
        except OSError as error:  # no connection
            way = f"try again, or unpack cifar-100-python.tar.gz (www.cs.toronto.edu/~kriz/cifar.html) in {self.root}"
            raise OSError(f"CIFAR-100 could not be fetched ({error}): {way}") from error
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
        return stack((Image.fromarray(image) for image in self._images[class_name]), size)

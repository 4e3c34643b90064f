"""Data sets of one's own: registered under a name, and from then on as good as those that ship with freelib."""

import re
from collections.abc import Collection
from pathlib import Path

import msgspec
import numpy as np

from freelib.datasets.cache import load_cached
from freelib.datasets.class_lists import DATASETS, NATIVE_SIZE, ClassLists, class_lists, split_of
from freelib.datasets.few_shot import SPLITS
from freelib.datasets.sources import source_at
from freelib.folders import cache_folder, check_writable, registrations_folder
from freelib.storage import read_json, read_limited, write_atomically


class About(msgspec.Struct):
    """Where a data set lies, its images' side in pixels, how its classes are split, and the classes by split."""

    path: str
    size: int
    how: str
    classes: ClassLists


def dataset_names() -> list[str]:
    """The names of the data sets that ship with freelib, and of those that are registered."""
    return [*DATASETS, *sorted(file.stem for file in registrations_folder().glob("*.json"))]


def about(name: str) -> About:
    """What is known of a data set without its images; the path of those that ship with freelib is empty.

    Raises ValueError for an unknown name, and for a registration that is damaged.
    """
    if name in NATIVE_SIZE:
        return About("", NATIVE_SIZE[name], "as published", class_lists(name))
    file = registration(name)
    try:
        return msgspec.convert(read_json(file), About)
    except (msgspec.ValidationError, ValueError) as error:
        raise ValueError(f"{file} is damaged ({error}): `freelib data remove {name}`, then add it again") from error


def registration(name: str) -> Path:
    """The file that registers a data set, without which it is forgotten. Raises ValueError where there is none."""
    file = registrations_folder() / f"{name}.json"
    if file not in registrations_folder().glob("*.json"):  # nor elsewhere, whatever the name says
        raise ValueError(f"no data set is called {name!r}; known are {', '.join(dataset_names())}")
    return file


def add_dataset(
    name: str, path: str | Path, *, size: int = 84, split_seed: int | None = None, splits: str | Path | None = None
) -> About:
    """Registers a folder, or a Parquet file, in one of the forms that `freelib.datasets.sources` reads.

    All images are decoded. The class splits are those of the file `splits`, else drawn with `split_seed`, else
    the data's own where each class is in one (a folder train, val or test), else drawn with seed 0.

    Raises FileNotFoundError or ValueError, and registers nothing, for a name that can't be used or is taken,
    an image that can't be read, and splits that are empty or name a class that is not there.
    """
    path = Path(path).expanduser().resolve()
    if not re.fullmatch(r"\w[\w.-]{0,63}", name) or name.lower() in NATIVE_SIZE:
        raise ValueError(f"{name!r} can't be a data set's name: letters, digits, '.', '-' and '_', no built-in name")
    if name in dataset_names():
        raise ValueError(f"{name} is registered already: `freelib data remove {name}` first")
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there")
    check_writable(registrations_folder())
    if splits and split_seed is not None:
        raise ValueError("class splits come from a file or from a seed, not from both")
    if not (found := source_at(name, path, {}).found):
        raise ValueError(f"{path} holds no class folders with images, no Parquet files and no lists of images")
    own = {c: split for c, found_in in found.items() if len(found_in) == 1 for split in found_in if split}
    if splits:
        chosen, how = read_splits(Path(splits), found), f"as {splits} says"
    elif split_seed is None and len(own) == len(found):
        chosen, how = own, "as the data says"
    else:
        chosen, how = draw_splits(found, split_seed or 0), f"drawn with seed {split_seed or 0}"
    classes = {split: tuple(sorted(c for c in chosen if chosen[c] == split)) for split in SPLITS}
    if empty := [split for split in SPLITS if not classes[split]]:
        raise ValueError(f"{path} has no {' and no '.join(empty)} classes: give a --splits file, or a --split-seed")
    load_cached(source_at(name, path, classes), "train", size, cache_folder())
    made = About(str(path), size, how, classes)
    write_atomically(registrations_folder() / f"{name}.json", msgspec.json.format(msgspec.json.encode(made), indent=1))
    return made


def draw_splits(classes: Collection[str], seed: int) -> dict[str, str]:
    """The split of each class, by a seed: 16 % validation, 20 % test, but 5 where there are 15; the rest train."""
    n, order = len(classes), np.random.default_rng(seed).permutation(sorted(classes)).tolist()
    validation, test = (max(min(5, n // 3), round(share * n)) for share in (0.16, 0.20))
    words = ["validation"] * validation + ["test"] * test + ["train"] * (n - validation - test)
    return dict(zip(order, words, strict=True))


def read_splits(file: Path, known: Collection[str]) -> dict[str, str]:
    """The splits of classes from lines `split<TAB>class` or `split,class`; the other classes are left out.

    Raises ValueError for another line, and for a class that is not known or is named twice.
    """
    splits: dict[str, str] = {}
    for line in read_limited(file).decode("utf-8-sig", errors="replace").splitlines():
        if not line or line.startswith(("#", "split\t", "split,")):  # a comment, or the names of the columns
            continue
        word, _, name = (part.strip(' "') for part in re.sub(r"[\t,]", "\n", line, count=1).partition("\n"))
        if not (split := split_of(word)) or name not in known or name in splits:
            raise ValueError(f"{file} has the line {line!r}; expected {', '.join(SPLITS)} and a class, each class once")
        splits[name] = split
    return splits

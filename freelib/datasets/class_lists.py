"""The class lists that ship with the package: which class belongs to which split."""

import unicodedata
from functools import cache
from importlib.resources import files

from freelib.datasets.few_shot import SPLITS

ClassLists = dict[str, tuple[str, ...]]
"""Class names by split, sorted."""
SCRIPTS = ("latin", "greek-cyrillic", "signs")
DATASETS = ("glyphs", "cifar-fs", "mini-imagenet", "cub")
GLYPH_DOMAINS = tuple(f"glyphs-{script}" for script in SCRIPTS)
"""`glyphs` split by script into three data sets, with the first 200 images of each class."""

NATIVE_SIZE = {"glyphs": 32, "cifar-fs": 32, "mini-imagenet": 84, "cub": 84}
NATIVE_SIZE |= dict(zip(GLYPH_DOMAINS, (32, 24, 28), strict=True))
IMAGES_PER_CLASS = {"glyphs": 600, "cifar-fs": 600, "mini-imagenet": 600, "cub": 59} | dict.fromkeys(GLYPH_DOMAINS, 200)


def split_of(word: str) -> str | None:
    """The one of SPLITS that people mean by a word such as "val" or "meta_test"; None where it means none."""
    word = word.lower().removeprefix("meta").lstrip("-_")
    word = "validation" if word in ("val", "valid", "dev") else word
    return word if word in SPLITS else None


def script_of(class_name: str) -> str:
    """The one of SCRIPTS that a character is of, by its Unicode name. Raises KeyError where it has none."""
    unicodedata.lookup(class_name)
    first = class_name.split()[0]
    return "latin" if first == "LATIN" else "greek-cyrillic" if first in ("GREEK", "CYRILLIC") else "signs"


@cache
def _lines(name: str) -> tuple[tuple[str, str], ...]:
    text = (files("freelib.datasets") / "splits" / f"{name}.txt").read_text(encoding="utf-8")
    pairs = (line.split("\t") for line in text.splitlines() if line and not line.startswith("#"))
    return tuple((split, class_name) for split, class_name in pairs)


def class_lists(name: str) -> ClassLists:
    """The class names of a data set by split; those of "glyphs-<script>" are the ones of that script."""
    if name.startswith("glyphs-"):
        script = name.removeprefix("glyphs-")
        whole = class_lists("glyphs").items()
        return {split: tuple(c for c in names if script_of(c) == script) for split, names in whole}
    return {split: tuple(sorted(c for s, c in _lines(name) if s == split)) for split in SPLITS}

"""The class lists that ship with the package: which class belongs to which split."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from freelib.datasets.few_shot import SPLITS
from freelib.datasets.glyph_masks import script_of

ClassLists = dict[str, tuple[str, ...]]


@cache
def _lines(name: str) -> tuple[tuple[str, str], ...]:
    text = (files("freelib.datasets") / "splits" / f"{name}.txt").read_text(encoding="utf-8")
    pairs = (line.split("\t") for line in text.splitlines() if line and not line.startswith("#"))
    return tuple((split, class_name) for split, class_name in pairs)


def class_lists(name: str) -> ClassLists:
    """The class names of a data set for each split, sorted: split -> (n_classes,) names.

    "glyphs-<script>" has the classes of `glyphs` that are of that script.
    """
    if name.startswith("glyphs-"):
        script = name.removeprefix("glyphs-")
        whole = class_lists("glyphs").items()
        return {split: tuple(c for c in names if script_of(c) == script) for split, names in whole}
    return {split: tuple(sorted(c for s, c in _lines(name) if s == split)) for split in SPLITS}

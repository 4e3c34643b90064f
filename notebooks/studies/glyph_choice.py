"""How the characters of `glyphs` were chosen: no two of them may look alike.

`python notebooks/studies/glyph_choice.py FILE` writes the class list that the package ships, in some minutes; the
tests measure it again. Two characters are as similar as their most similar renderings: over all pairs of fonts,
over all turns against each other that the poses of the images allow, over some stretch of the width, both
brought to the same size and place. The choice keeps every pair below LIMIT.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from freelib.datasets.class_lists import SCRIPTS, script_of
from freelib.datasets.glyphs import FONTS, character_mask, crop_and_fit, font_path

LIMIT = 0.91
UNFAMILIAR = 4  # as many rivals as a familiar character may have more
TURNS = tuple(map(float, range(-40, 41, 10)))  # degrees; images are turned by up to 20 each way
STRETCHES = (0.8, 1.0, 1.25)  # of the width: an X and a times sign differ in little else
COUNTS = {"train": (22, 21, 21), "validation": (6, 5, 5), "test": (6, 7, 7)}  # classes of each of SCRIPTS
GRID, INK, BLUR = 20, 16, 0.8  # pixels: the compared picture, the character in it, the blur over it


def shared_characters() -> list[str]:
    """The characters that every one of FONTS has, in the order of their code points."""
    from matplotlib.ft2font import FT2Font

    charmaps = (set(FT2Font(font_path(font)).get_charmap()) for font in FONTS)
    return sorted(map(chr, set.intersection(*charmaps)))


def renderings(character: str, font: str) -> NDArray[np.float32]:
    """The character at all TURNS and STRETCHES, of comparable size and place, each of mean 0 and norm 1.

    Shape (len(TURNS), len(STRETCHES), GRID * GRID).
    """
    pictures = []
    upright = character_mask(character, font, 2 * INK)
    for degrees in TURNS:
        turned = upright.rotate(degrees, Image.Resampling.BILINEAR, expand=True) if degrees else upright
        for stretch in STRETCHES:
            fitted = crop_and_fit(turned, INK, stretch)
            picture = Image.new("L", (GRID, GRID))
            picture.paste(fitted, ((GRID - fitted.width) // 2, (GRID - fitted.height) // 2))
            pictures.append(np.asarray(picture.filter(ImageFilter.GaussianBlur(BLUR))))
    flat = np.stack(pictures).astype(np.float32).reshape(len(TURNS), len(STRETCHES), -1)
    flat -= flat.mean(axis=-1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=-1, keepdims=True)
    return flat


def similarities(characters: Sequence[str]) -> NDArray[np.float32]:
    """The greatest correlation of any two renderings: (n, n) in [-1, 1], symmetric, 1 on the diagonal."""
    n, f = len(characters), len(FONTS)
    pictures = [renderings(character, font) for character in characters for font in FONTS]
    every = np.stack(pictures)  # (n * f, turns, stretches, d)
    upright = every[:, TURNS.index(0), STRETCHES.index(1)]
    worst = np.full((n, n), -1, dtype=np.float32)
    for turn, stretch in product(range(len(TURNS)), range(len(STRETCHES))):
        others = np.ascontiguousarray(every[:, turn, stretch].T)
        for i in range(0, n, 50):  # rows at a time, for the memory's sake
            rows = (upright[i * f : (i + 50) * f] @ others).reshape(-1, f, n * f)
            found = rows.max(axis=1).reshape(-1, n, f).max(axis=2)
            worst[i : i + 50] = np.maximum(worst[i : i + 50], found)
    worst = np.maximum(worst, worst.T)
    np.fill_diagonal(worst, 1)
    return worst


def candidates() -> list[str]:
    """The letters, digits, symbols and marks that all fonts have; no accented letters, no modifiers.

    Of the line-drawing characters only the single lines: two lines side by side become one at 32 pixels.
    Of < and > only one form each: a narrower one is the same sign to the eye, but thin lines that miss
    each other by a pixel correlate too little for `similarities` to see it.
    """
    kinds = ("Lu", "Ll", "Nd", "No", "So", "Sm", "Sc", "Po", "Ps", "Pe", "Pi", "Pf")
    return [
        c
        for c in shared_characters()
        if unicodedata.category(c) in kinds
        and unicodedata.normalize("NFKD", c) == c
        and not ("BOX DRAWINGS" in unicodedata.name(c) and "DOUBLE" in unicodedata.name(c))
        and c not in "‹›"
    ]


def choose(
    characters: Sequence[str], similarity: NDArray[np.float32], limit: float, rng: np.random.Generator
) -> list[str]:
    """Characters of which no two reach `limit`, as many of each script as COUNTS wants in all.

    Greedy: always the character that rules out the fewest of those left; letters of phonetic and line-drawing
    alphabets wait until the familiar ones are placed, and what is equal is drawn by lot. May return fewer.
    """
    scripts = np.array([script_of(unicodedata.name(c)) for c in characters])
    wanted = {script: sum(counts[k] for counts in COUNTS.values()) for k, script in enumerate(SCRIPTS)}
    clash = similarity >= limit
    waits = np.array([0x180 <= ord(c) < 0x2B0 or "BOX DRAWINGS" in unicodedata.name(c) for c in characters])
    cost = UNFAMILIAR * waits + rng.random(len(characters))
    left = np.ones(len(characters), dtype=bool)
    chosen: list[str] = []
    while True:
        full = [script for script, count in wanted.items() if count == 0]
        open_now = left & ~np.isin(scripts, full)
        if not open_now.any():
            return sorted(chosen)
        price = np.where(open_now, clash[:, left].sum(axis=1) + cost, np.inf)
        best = int(price.argmin())
        chosen.append(characters[best])
        wanted[str(scripts[best])] -= 1
        left &= ~clash[best]


def write_class_list(path: Path, seed: int = 0) -> None:
    """Chooses the characters and their splits by the seed and writes the list."""
    characters = candidates()
    similarity = similarities(characters)
    rng = np.random.default_rng(seed)
    while len(chosen := choose(characters, similarity, LIMIT, rng)) < sum(map(sum, COUNTS.values())):
        pass
    lines = ["# glyphs: characters of which no two look alike, written by notebooks/studies/glyph_choice.py."]
    lines.append("# One class a line: split, tab, the character's Unicode name.")
    for k, script in enumerate(SCRIPTS):
        names = sorted(n for n in map(unicodedata.name, chosen) if script_of(n) == script)
        drawn = iter(rng.permutation(names).tolist())
        lines += [f"{split}\t{next(drawn)}" for split, counts in COUNTS.items() for _ in range(counts[k])]
    order = {split: i for i, split in enumerate(COUNTS)}
    lines[2:] = sorted(lines[2:], key=lambda line: (order[line.split("\t")[0]], line))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_class_list(Path(sys.argv[1]))

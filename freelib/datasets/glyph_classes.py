"""How the characters of `glyphs` were chosen: no two of them may look alike.

`python -m freelib.datasets.glyph_classes` writes the class list that the package ships. Two characters are as
similar as their most similar renderings: over all pairs of fonts, over all turns against each other that the
poses of the images allow, over some stretch of the width, both brought to the same size and place. The choice
keeps every pair below LIMIT.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from freelib.datasets.glyph_masks import FONTS, SCRIPTS, fit, script_of, shared_characters, turned

LIMIT = 0.91
UNFAMILIAR = 4  # as many rivals as a familiar character may have more
TURNS = tuple(map(float, range(-40, 41, 10)))  # degrees; images are turned by up to 20 each way
STRETCHES = (0.8, 1.0, 1.25)  # of the width: an X and a times sign differ in little else
COUNTS = {"train": (22, 21, 21), "validation": (6, 5, 5), "test": (6, 7, 7)}  # classes of each of SCRIPTS
GRID, INK, BLUR = 20, 16, 0.8  # pixels: the compared picture, the character in it, the blur over it


def renderings(character: str, font: str) -> NDArray[np.float32]:
    """The character at all TURNS and STRETCHES, of comparable size and place, each of mean 0 and norm 1.

    Shape (len(TURNS), len(STRETCHES), GRID * GRID).
    """
    pictures = []
    for ink in turned(character, font, 2 * INK, TURNS):
        for stretch in STRETCHES:
            fitted = fit(ink, INK, stretch)
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
    every = np.stack(
        [renderings(c, font) for c in characters for font in FONTS]
    )  # (n * f, turns, stretches, d)
    upright = every[:, TURNS.index(0), STRETCHES.index(1)].reshape(n, f, -1)
    worst = np.full((n, n), -1, dtype=np.float32)
    for turn, stretch in product(range(len(TURNS)), range(len(STRETCHES))):
        others = np.ascontiguousarray(every[:, turn, stretch].T)
        for i in range(n):
            rows = upright[i] @ others  # (f, n * f)
            np.maximum(worst[i], rows.reshape(f, n, f).max(axis=(0, 2)), out=worst[i])
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
    """Choose the characters and their splits by the seed and write the list; a minute on one core.

    Raises RuntimeError if LIMIT is too low for so many classes.
    """
    characters = candidates()
    similarity = similarities(characters)
    rng = np.random.default_rng(seed)
    wanted = sum(map(sum, COUNTS.values()))
    for _ in range(200):
        chosen = choose(characters, similarity, LIMIT, rng)
        if len(chosen) == wanted:
            break
    else:
        raise RuntimeError(
            f"no {wanted} characters stay below a similarity of {LIMIT}; raise LIMIT or lower COUNTS"
        )
    lines = ["# glyphs: characters of which no two look alike, written by freelib.datasets.glyph_classes."]
    lines.append("# One class a line: split, tab, the character's Unicode name.")
    for k, script in enumerate(SCRIPTS):
        names = sorted(n for n in map(unicodedata.name, chosen) if script_of(n) == script)
        drawn = iter(rng.permutation(names).tolist())
        lines += [f"{split}\t{next(drawn)}" for split, counts in COUNTS.items() for _ in range(counts[k])]
    order = {split: i for i, split in enumerate(COUNTS)}
    lines[2:] = sorted(lines[2:], key=lambda line: (order[line.split("\t")[0]], line))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_class_list(Path(__file__).parent / "splits" / "glyphs.txt")

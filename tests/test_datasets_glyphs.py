"""The glyphs: which characters, that none looks like another, and how their images are drawn."""

from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import freelib.datasets.glyph_classes as glyph_classes
from freelib.datasets import GLYPH_DOMAINS, find_source, load_dataset, script_of
from freelib.datasets.cache import load_cached
from freelib.datasets.class_lists import class_lists
from freelib.datasets.glyph_classes import LIMIT, candidates, choose, similarities
from freelib.datasets.glyph_masks import FONTS, fit, shared_characters, turned
from freelib.datasets.glyphs import GlyphSource, draw

LISTS = class_lists("glyphs")
CHARACTERS = [unicodedata.lookup(name) for names in LISTS.values() for name in names]


def test_no_two_classes_look_alike() -> None:
    measured = similarities(CHARACTERS)
    np.fill_diagonal(measured, -1)
    worst = np.unravel_index(measured.argmax(), measured.shape)
    assert measured.max() < LIMIT, [CHARACTERS[i] for i in worst]


@pytest.mark.parametrize(
    "pair", ["AΑ", "AА", "3З", "cC", "oO", "o0", "O0", "sS", "xX", "X×", "l1", "8B", "Жж", "EF"]
)
def test_lookalikes_measure_above_the_limit(pair: str) -> None:
    assert similarities(pair)[0, 1] >= LIMIT


@pytest.mark.parametrize("pair", ["A&", "Ж=", "g%", "4>", "NZ", "25"])
def test_different_characters_measure_below_the_limit(pair: str) -> None:
    measured = similarities(pair)
    assert measured[0, 1] == measured[1, 0] < LIMIT
    assert measured[0, 0] == 1


def test_every_font_has_every_character_and_draws_it() -> None:
    assert len(shared_characters()) > 700
    assert set(CHARACTERS) <= set(candidates()) <= set(shared_characters())
    for font in FONTS:
        for character in CHARACTERS:
            ink = np.asarray(fit(turned(character, font, 48)[0], 24))
            assert max(ink.shape) == 24
            assert ink.max() > 128
    with pytest.raises(ValueError, match="draws nothing for ' '"):
        turned(" ", FONTS[0], 24)


def test_scripts_are_in_every_split() -> None:
    counts = {split: Counter(map(script_of, names)) for split, names in LISTS.items()}
    assert min(counts["train"].values()) >= 15
    assert min(counts["validation"].values()) >= 5
    assert min(counts["test"].values()) >= 5
    assert all(set(count) == {"latin", "greek-cyrillic", "signs"} for count in counts.values())


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("LATIN SMALL LETTER K", "latin"),
        ("GREEK SMALL LETTER PSI", "greek-cyrillic"),
        ("CYRILLIC SMALL LETTER YA", "greek-cyrillic"),
        ("AMPERSAND", "signs"),
        ("DIGIT FOUR", "signs"),
    ],
)
def test_script_of(name: str, script: str) -> None:
    assert script_of(name) == script


def test_script_of_an_unknown_character() -> None:
    with pytest.raises(KeyError):
        script_of("LATIN SMALL LETTER NOBODY KNOWS")


def test_same_seed_same_images_and_fewer_are_the_first_of_more() -> None:
    many = draw("K", 12, 32)
    assert many.shape == (12, 3, 32, 32)
    assert many.dtype == np.uint8
    assert np.array_equal(draw("K", 12, 32), many)
    assert np.array_equal(draw("K", 5, 32), many[:5])
    assert not np.array_equal(draw("k", 5, 32), many[:5])


def test_larger_images_show_the_same_pose() -> None:
    small, large = draw("K", 8, 32), draw("K", 8, 84)
    for little, big in zip(small, large, strict=True):
        shrunk = Image.fromarray(big.transpose(1, 2, 0)).resize((32, 32), Image.Resampling.BILINEAR)
        pair = np.asarray(shrunk, dtype=float).ravel(), little.transpose(1, 2, 0).astype(float).ravel()
        assert np.corrcoef(*pair)[0, 1] > 0.9


def test_images_of_a_class_vary_in_colour_and_background() -> None:
    images = draw("&", 64, 32).astype(float)
    assert images.mean(axis=(2, 3)).std(axis=0).min() > 25  # of 255, between images
    assert images.std(axis=(2, 3)).mean() > 20  # within an image
    assert abs(images.mean() - 127.5) < 20


def test_ink_can_be_told_from_its_background() -> None:
    # Backgrounds are alike everywhere: more edges in the middle than at the rim are the ink's.
    images = draw("=", 400, 32).astype(float)
    edges = np.abs(np.diff(images, axis=2)).mean(axis=(0, 1, 3))
    assert edges[10:22].mean() > 1.15 * edges[[0, 1, 2, 28, 29, 30]].mean()


def test_load_dataset_gives_glyphs_without_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FREELIB_DATA", raising=False)
    monkeypatch.setattr(GlyphSource, "__init__", _few)
    data = load_dataset("glyphs", "validation", cache=tmp_path)
    assert data.images.shape == (16 * 3, 3, 32, 32)
    assert data.class_names == LISTS["validation"]
    character = unicodedata.lookup(data.class_names[4])
    assert np.array_equal(data.class_images(4).numpy(), draw(character, 3, 32))


def _few(self: GlyphSource, classes: dict[str, tuple[str, ...]]) -> None:
    self.name, self.classes, self.images_per_class, self.location = "glyphs", classes, 3, "few"


def test_the_scripts_are_data_sets_of_their_own(tmp_path: Path) -> None:
    parts = [class_lists(name) for name in GLYPH_DOMAINS]
    for split, names in LISTS.items():
        assert sorted(c for part in parts for c in part[split]) == list(names)
        assert all(len(part[split]) >= 5 for part in parts)
    signs = {split: names[:1] for split, names in class_lists("glyphs-signs").items()}
    source = GlyphSource(signs, 3, "glyphs-signs")
    found = load_cached(source, "test", 28, tmp_path)
    assert (found.name, found.image_size, found.counts) == ("glyphs-signs", 28, (3,))
    assert find_source("glyphs-signs").name == "glyphs-signs"


def test_images_per_class(tmp_path: Path) -> None:
    data = load_cached(GlyphSource(LISTS, images_per_class=2), "test", 16, tmp_path)
    assert data.counts == (2,) * 20
    assert data.image_size == 16
    with pytest.raises(ValueError, match="images_per_class is 0"):
        GlyphSource(LISTS, images_per_class=0)


def test_choice_keeps_below_the_limit_and_within_the_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"train": (1, 1, 1), "validation": (1, 1, 0), "test": (0, 0, 1)}
    monkeypatch.setattr(glyph_classes, "COUNTS", counts)
    characters = list("AbgkАбжя&4%~")
    measured = similarities(characters)
    chosen = choose(characters, measured, LIMIT, np.random.default_rng(0))
    numbers = [characters.index(c) for c in chosen]
    among = measured[np.ix_(numbers, numbers)] - 2 * np.eye(len(numbers))
    assert among.max() < LIMIT
    assert Counter(script_of(unicodedata.name(c)) for c in chosen) == {
        "latin": 2,
        "greek-cyrillic": 2,
        "signs": 2,
    }


def test_class_list_is_written_as_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"train": (1, 1, 1), "validation": (1, 0, 0), "test": (0, 1, 0)}
    monkeypatch.setattr(glyph_classes, "COUNTS", counts)
    monkeypatch.setattr(glyph_classes, "candidates", lambda: list("gkбж&"))
    glyph_classes.write_class_list(tmp_path / "a.txt")
    glyph_classes.write_class_list(tmp_path / "b.txt")
    text = (tmp_path / "a.txt").read_text(encoding="utf-8")
    assert text == (tmp_path / "b.txt").read_text(encoding="utf-8")
    lines = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    assert Counter(split for split, _ in lines) == {"train": 3, "validation": 1, "test": 1}
    assert {name for _, name in lines} == set(map(unicodedata.name, "gkбж&"))
    monkeypatch.setattr(glyph_classes, "LIMIT", 0.0)
    with pytest.raises(RuntimeError, match="no 5 characters stay below a similarity of 0"):
        glyph_classes.write_class_list(tmp_path / "c.txt")

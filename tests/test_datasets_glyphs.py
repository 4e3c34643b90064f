import hashlib
import json
import unicodedata
from collections import Counter
from functools import partial

import numpy as np
import pytest
from PIL import Image

from freelib.datasets import find_source, load_dataset
from freelib.datasets.cache import load_cached
from freelib.datasets.class_lists import GLYPH_DOMAINS, class_lists, script_of
from freelib.datasets.glyphs import FONTS, GlyphSource, character_mask, crop_and_fit, draw
from studies import glyph_choice
from studies.glyph_choice import LIMIT, candidates, shared_characters, similarities

LISTS = class_lists("glyphs")
CHARACTERS = [unicodedata.lookup(name) for names in LISTS.values() for name in names]


def test_no_two_classes_look_alike():
    measured = similarities(CHARACTERS)
    np.fill_diagonal(measured, -1)
    worst = np.unravel_index(measured.argmax(), measured.shape)
    assert measured.max() < LIMIT, [CHARACTERS[i] for i in worst]
    alike = np.eye(4)
    alike[0] = alike[:, 0] = 1
    assert glyph_choice.choose("ABCD", alike, LIMIT, np.random.default_rng(0)) == ["B", "C", "D"]


@pytest.mark.parametrize(
    ("pairs", "alike"), [("AΑ AА 3З cC oO o0 O0 sS xX X× l1 8B Жж EF", True), ("A& Ж= g% 4> NZ 25", False)]
)
def test_what_the_measure_takes_for_alike(pairs, alike):
    for pair in pairs.split():
        measured = similarities(pair)
        assert (measured[0, 1] >= LIMIT) == alike, pair
        assert measured[0, 0] == 1
        assert measured[0, 1] == measured[1, 0]


def test_the_list_has_the_wanted_number_of_each_script_in_each_split(tmp_path, monkeypatch):
    monkeypatch.setattr(glyph_choice, "COUNTS", {"train": (2, 1, 0), "validation": (0, 0, 1), "test": (1, 0, 0)})
    monkeypatch.setattr(glyph_choice, "candidates", lambda: list("KORTψя&4"))
    monkeypatch.setattr(glyph_choice, "similarities", lambda characters: np.eye(len(characters)))
    glyph_choice.write_class_list(tmp_path / "list.txt")
    pairs = [line.split("\t") for line in (tmp_path / "list.txt").read_text().splitlines()[2:]]
    assert [(split, script_of(name)) for split, name in pairs] == [
        *[("train", "greek-cyrillic"), ("train", "latin"), ("train", "latin")],
        *[("validation", "signs"), ("test", "latin")],
    ]
    examples = {"K": "latin", "ψ": "greek-cyrillic", "я": "greek-cyrillic", "&": "signs", "4": "signs"}
    assert {c: script_of(unicodedata.name(c)) for c in examples} == examples
    with pytest.raises(KeyError):
        script_of("LATIN SMALL LETTER NOBODY KNOWS")
    for split, least in {"train": 15, "validation": 5, "test": 5}.items():
        counts = Counter(map(script_of, LISTS[split]))
        assert set(counts) == {"latin", "greek-cyrillic", "signs"}
        assert min(counts.values()) >= least


def test_every_font_draws_every_character_as_it_always_was():
    assert len(shared_characters()) > 700
    assert set(CHARACTERS) <= set(candidates()) <= set(shared_characters())
    for font in FONTS:
        for character in CHARACTERS:
            ink = np.asarray(crop_and_fit(character_mask(character, font, 48), 24))
            assert max(ink.shape) == 24
            assert ink.max() > 128
    with pytest.raises(ValueError, match="has no ink"):
        crop_and_fit(character_mask(" ", FONTS[0], 24), 24)
    # records depend on the order of the classes and on their images
    assert hashlib.sha256(json.dumps(LISTS).encode()).hexdigest()[:16] == "50ba552dacc73726"
    images = draw("K", 3, 32).astype(float)
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), [164.545, 97.999, 128.596], atol=0.01)
    pixels = [[224, 162, 115], [192, 80, 195], [42, 56, 192]]
    np.testing.assert_allclose(images[:, :, 5, 7], pixels, atol=1)  # one off where a sine is another by a bit


def test_images_show_their_ink_in_the_same_pose_at_every_size():
    many = draw("K", 12, 32)
    assert (many.shape, many.dtype) == ((12, 3, 32, 32), np.uint8)
    assert np.array_equal(draw("K", 5, 32), many[:5])
    assert not np.array_equal(draw("k", 5, 32), many[:5])
    for little, big in zip(draw("K", 8, 32), draw("K", 8, 84), strict=True):
        shrunk = Image.fromarray(big.transpose(1, 2, 0)).resize((32, 32), Image.Resampling.BILINEAR)
        pair = np.asarray(shrunk, dtype=float).ravel(), little.transpose(1, 2, 0).astype(float).ravel()
        assert np.corrcoef(*pair)[0, 1] > 0.9
    images = draw("&", 64, 32).astype(float)
    assert images.mean(axis=(2, 3)).std(axis=0).min() > 25  # of 255, between images
    assert images.std(axis=(2, 3)).mean() > 20  # within an image
    assert abs(images.mean() - 127.5) < 20
    # Backgrounds are alike everywhere: more edges in the middle than at the rim are the ink's.
    edges = np.abs(np.diff(draw("=", 400, 32).astype(float), axis=2)).mean(axis=(0, 1, 3))
    assert edges[10:22].mean() > 1.15 * edges[[0, 1, 2, 28, 29, 30]].mean()


def test_glyphs_and_their_scripts_are_loaded_without_any_folder(tmp_path, monkeypatch):
    source = find_source("glyphs-signs")
    assert (source.name, source.images_per_class) == ("glyphs-signs", 200)
    monkeypatch.delenv("FREELIB_DATA", raising=False)
    monkeypatch.setattr("freelib.datasets.GlyphSource", partial(GlyphSource, images_per_class=3))
    data = load_dataset("glyphs", "validation", cache=tmp_path)
    assert data.images.shape == (16 * 3, 3, 32, 32)
    assert data.class_names == LISTS["validation"]
    character = unicodedata.lookup(data.class_names[4])
    assert np.array_equal(data.class_images(4).numpy(), draw(character, 3, 32))
    with pytest.raises(ValueError, match="images_per_class is 0"):
        GlyphSource(LISTS, images_per_class=0)
    parts = [class_lists(name) for name in GLYPH_DOMAINS]
    for split, names in LISTS.items():
        assert sorted(c for part in parts for c in part[split]) == list(names)
        assert all(len(part[split]) >= 5 for part in parts)
    signs = {split: names[:1] for split, names in class_lists("glyphs-signs").items()}
    found = load_cached(GlyphSource(signs, 3, "glyphs-signs"), "test", 28, tmp_path)
    assert (found.name, found.image_size, found.counts) == ("glyphs-signs", 28, (3,))

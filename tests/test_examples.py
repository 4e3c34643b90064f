import doctest
import importlib
from functools import partial
from pathlib import Path

import pytest

import freelib
from freelib.datasets.glyphs import GlyphSource

ROOT = Path(__file__).parents[1]
SHOWING = [path for path in sorted((ROOT / "freelib").rglob("*.py")) if ">>> " in path.read_text("utf-8")]


@pytest.mark.parametrize("path", SHOWING, ids=lambda path: path.stem)
def test_examples(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREELIB_CACHE", str(tmp_path))
    monkeypatch.setattr("freelib.datasets.GlyphSource", partial(GlyphSource, images_per_class=8))  # quicker
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize("name", freelib.__all__)
def test_each_name_of_the_public_face_has_an_example(name: str) -> None:
    assert ">>> " in getattr(freelib, name).__doc__
    assert len(freelib.__all__) == 20

"""README, results, CONTRIBUTING, guide, docstrings: code runs, numbers are the records', links lead somewhere."""

import doctest
import importlib
import pydoc
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_models import tiny_pool

import freelib
from freelib import PretrainedModel, get_method
from freelib.datasets.glyphs import GlyphSource
from freelib.models.backbones import build_backbone
from freelib.models.pretrained import save_member

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "guide"
MOST_WORDS = {"README.md": 1_100, "results/README.md": 2_600}
SHOWING = [path for path in sorted((ROOT / "freelib").rglob("*.py")) if ">>> " in path.read_text("utf-8")]


def python_of(page: str) -> list[str]:
    """The blocks of Python of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", sorted(GUIDE.glob("*.md")), ids=lambda page: page.stem)
def test_what_the_guide_names_is_there(page):
    named = re.findall(r"\]\(#(freelib[\w.]+)\)", page.read_text(encoding="utf-8"))
    assert [name for name in named if pydoc.locate(name) is None] == []


@pytest.mark.parametrize(
    ("page", "name", "settings"),
    [("docs/guide/add_a_method.md", "Mine", {"rounds": 2}), ("CONTRIBUTING.md", "Noise", {"rounds": 30, "images": 16})],
)
def test_a_method_as_printed_trains(monkeypatch, tmp_path, page, name, settings):
    (tmp_path / "printed_method.py").write_text(python_of(page)[0], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    method = get_method(f"printed_method:{name}")
    sys.modules.pop("printed_method")
    config = method.Config(**settings, width=8)
    learners = [method.meta_train(tiny_pool(), config, seed=0) for _ in range(2)]
    untrained = method.build(tiny_pool(), config, seed=0)
    first, second, start = (learner.params["encoder.0.conv.weight"] for learner in (*learners, untrained))
    assert torch.equal(first, second)
    assert not torch.equal(first, start)
    if name == "Noise":
        losses = learners[0].log.history["loss"]
        assert len(losses) == 30
        assert sum(losses[-10:]) < sum(losses[:10])


def test_the_guide_s_pictures_are_named(tmp_path, monkeypatch, capsys):
    code = python_of("docs/guide/pictures.md")[0]
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "dog", "what"):
        Image.new("RGB", (40, 30), "navy" if name == "cat" else "gold").save(f"{name}.jpg")
    monkeypatch.setattr("freelib.ModelPool.load", lambda _: tiny_pool())
    assert code.count("minutes=5") == 1
    small = "recovered=0, procedural=40, mixed=0, epochs=1, batch_size=16, embedding=8, width=8"
    exec(code.replace("minutes=5", small), scope := {})
    assert "['dog']" in capsys.readouterr().out
    again = scope["FewShotClassifier"].from_pretrained("cats-and-dogs")
    assert again.predict(["what.jpg"]).tolist() == ["dog"]


@pytest.mark.parametrize("page", ["docs/guide/own_models.md", "README.md"])
def test_own_models_are_learned_from_as_printed(monkeypatch, tmp_path, page):
    """On two tiny models with different numbers of classes, in a trice instead of five minutes."""
    (code,) = python_of(page)
    for number, n_way in enumerate((3, 5)):
        module = build_backbone("conv4", n_way=n_way, image_size=16, width=8)
        about = {"class_names": [str(c) for c in range(n_way)], "mean": [0.5] * 3, "std": [0.5] * 3}
        about |= {"image_size": 16, "name": f"model-{number}", "arch": "conv4", "domain": str(number)}
        save_member(PretrainedModel(module, **about), tmp_path / "my-models")
    monkeypatch.chdir(tmp_path)
    scope = {"pictures": torch.rand(6, 3, 32, 32), "names": list("aabbcc"), "other_pictures": torch.rand(4, 3, 32, 32)}
    assert code.count("minutes=5") == 1
    exec(code.replace("minutes=5", "minutes=0.02, width=8"), scope)
    assert set(scope["answers"]) <= set("abc")
    assert len(scope["answers"]) == 4


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


def test_the_numbers_are_those_of_the_records():
    command = [sys.executable, ROOT / "docs/render.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def prose(page: str) -> str:
    """A page without its tables, code and headings."""
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    return "\n".join(line for line in text.splitlines() if not line.startswith(("|", "    ", "#", "<!--")))


@pytest.mark.parametrize("page", MOST_WORDS)
def test_pages_stay_short(page):
    assert len((ROOT / page).read_text(encoding="utf-8").split()) <= MOST_WORDS[page]
    sentences = re.split(r"(?<=[.!?:;])\s+|\n\n|\n- ", prose(page))
    assert max(len(sentence.split()) for sentence in sentences) <= 40


@pytest.mark.parametrize("page", [*MOST_WORDS, "CONTRIBUTING.md"])
def test_links_lead_to_files(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text)]
    missing = [
        link for link in links if link and "://" not in link and not (ROOT / page).parent.joinpath(link).exists()
    ]
    assert missing == []

"""The code that README, CONTRIBUTING and the guide print runs, and the guide's links into the code lead somewhere."""

import pydoc
import re
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_models import tiny_pool

from freelib import get_method
from freelib.models.backbones import build_backbone

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "guide"
SUPPORT = {"support_images": torch.rand(5, 3, 32, 32), "support_labels": torch.arange(5)}


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


def test_the_guide_s_own_models_are_learned_from():
    code = python_of("docs/guide/own_models.md")[1]
    given = "rounds=100, warmup_rounds=10, align_sweeps=12"
    assert given in code
    smaller = "rounds=1, warmup_rounds=1, width=8, ngf=4, images_per_class=2, replay_batches=1"
    scope = {"pool": tiny_pool(), "query_images": torch.rand(4, 3, 32, 32), **SUPPORT}
    exec(code.replace(given, smaller), scope)
    assert scope["predictions"].shape == (4,)


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


def test_the_readme_s_code_runs_as_printed():
    """On a tiny pool of models with different numbers of classes."""
    (code,) = python_of("README.md")
    scope = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "query_images": torch.rand(6, 3, 32, 32), **SUPPORT}
    scope["my_classifiers"] = {
        str(n): (build_backbone("conv4", n_way=n, image_size=32, width=8), [f"class {i}" for i in range(n)])
        for n in (3, 5)
    }
    small = "recovered=0, procedural=40, mixed=0, epochs=1, batch_size=16, embedding=8, width=8"
    assert code.count("method.Config()") == 1
    exec(code.replace("method.Config()", f"method.Config({small})"), scope)
    assert scope["classes"].shape == (6,)

"""The code that README, CONTRIBUTING and the guide print runs, and the guide's links into the code lead somewhere."""

import pydoc
import re
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_models import tiny_pool

from freelib import PretrainedModel, get_method
from freelib.models.backbones import build_backbone
from freelib.models.pretrained import save_member

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "guide"


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

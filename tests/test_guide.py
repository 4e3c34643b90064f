"""The guide's links into the code lead somewhere, and its code runs."""

from __future__ import annotations

import pydoc
import re
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_pool

from freelib import get_method

GUIDE = Path(__file__).parents[1] / "docs" / "guide"


def python_of(page: str) -> list[str]:
    """The blocks of Python of a page."""
    return re.findall(r"```python\n(.*?)```", (GUIDE / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", sorted(GUIDE.glob("*.md")), ids=lambda page: page.stem)
def test_what_the_guide_names_is_there(page):
    named = re.findall(r"\]\(#(freelib[\w.]+)\)", page.read_text(encoding="utf-8"))
    assert [name for name in named if pydoc.locate(name) is None] == []


def test_the_method_of_the_guide_trains(monkeypatch, tmp_path):
    (code,) = python_of("add_a_method.md")
    (tmp_path / "guide_method.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    method = get_method("guide_method:Mine")
    config = method.Config(rounds=2, width=8)
    learners = [method.meta_train(tiny_pool(), config, seed=0) for _ in range(2)]
    untrained = method.build(tiny_pool(), config, seed=0)
    first, second, start = (learner.params["head.weight"] for learner in (*learners, untrained))
    assert torch.equal(first, second)
    assert not torch.equal(first, start)
    sys.modules.pop("guide_method")


def test_the_guide_s_own_models_are_learned_from():
    code = python_of("own_models.md")[1]
    given = "rounds=100, warmup_rounds=10, align_sweeps=12"
    assert given in code
    smaller = "rounds=1, warmup_rounds=1, width=8, ngf=4, images_per_class=2, replay_batches=1"
    scope = {"pool": tiny_pool(), "support_images": torch.rand(5, 3, 16, 16)}
    scope |= {"support_labels": torch.arange(5), "query_images": torch.rand(4, 3, 16, 16)}
    exec(code.replace(given, smaller), scope)
    assert scope["predictions"].shape == (4,)

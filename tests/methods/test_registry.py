"""The registry: every method is found and told, a user's own too."""

from __future__ import annotations

import sys

import pytest
import torch
from tiny_models import tiny_pool

from freelib.methods import METHODS, Method, describe_methods, get_method

OWN = """
from freelib.methods import Method, MethodConfig
from freelib.methods.base import build_student


class Mine(Method):
    name, title, citation, needs, cost = "mine", "Mine", "nobody", "nothing", "none"
    revision = 7

    def meta_train(self, pool, config, *, seed, monitor=None, checkpoint=None):
        return build_student(pool, config, seed=seed)


not_a_method = MethodConfig
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    nameless = "\n\nclass Nameless(Method):\n    pass\n"
    (tmp_path / "my_methods.py").write_text(OWN + nameless)
    (tmp_path / "broken_method.py").write_text("class Mine(:\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "my_methods"
    sys.modules.pop("my_methods", None)


@pytest.mark.parametrize("name", METHODS)
def test_a_precision_that_there_is_not_is_refused(name):
    with pytest.raises(ValueError, match="precision is one of float32, bfloat16, got 'bf16'"):
        get_method(name).Config(precision="bf16")


@pytest.mark.parametrize("name", METHODS)
def test_a_registered_method_tells_what_it_is(name):
    method = get_method(name)
    assert method.name == name
    assert method.needs in ("nothing", "weights", "gradients", "calls", "data (oracle)")
    assert method.oracle == (method.needs == "data (oracle)") == name.startswith("oracle_")
    assert method.title
    assert method.citation
    assert method.cost
    assert method.revision >= 1
    assert method.Config().n_way == 5


def test_the_description_holds_what_a_reader_chooses_by():
    table = {row["name"]: row for row in describe_methods()}
    assert list(table) == list(METHODS)
    assert table["ota"] == {
        "name": "ota",
        "title": "OTA",
        "citation": "Singh and Jaggi, Model Fusion via Optimal Transport, NeurIPS 2020",
        "needs": "weights",
        "same_architecture": True,
        "cost": "one optimal transport a layer and model",
        "models_at_test": 1,
        "oracle": False,
        "revision": 1,
    }
    assert {name for name, row in table.items() if row["same_architecture"]} == {"average", "ota", "dro"}
    assert {name for name, row in table.items() if row["models_at_test"] != 1} == {
        "pool_features",
        "pool_opinions",
    }


def test_a_method_of_ones_own_is_found_by_its_import_path(own_module):
    method = get_method("my_methods:Mine")
    assert isinstance(method, Method)
    (row,) = describe_methods(["my_methods:Mine"])
    assert (row["name"], row["citation"], row["revision"]) == ("my_methods:Mine", "nobody", 7)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nonsense", "Unknown method 'nonsense': known are random, average, ota"),
        ("my_methods:Yours", "can't be imported: .*Yours"),
        ("no_such_module:Mine", "can't be imported: No module named 'no_such_module'"),
        ("my_methods:not_a_method", "no freelib.methods.Method"),
        ("my_methods:Nameless", "my_methods:Nameless lacks title, citation, needs, name, meta_train"),
        ("broken_method:Mine", "can't be imported: .*syntax"),
        ("./my_methods.py:Mine", "can't be imported"),
        (".my_methods:Mine", "can't be imported"),
    ],
)
def test_what_is_no_method_is_refused(own_module, path, message):
    with pytest.raises(ValueError, match=message):
        get_method(path)


@pytest.mark.parametrize("name", [name for name in METHODS if not get_method(name).uses_seed])
def test_what_uses_no_seed_gives_the_same_learner_for_every_seed(name):
    pool = tiny_pool(3)
    images, labels = torch.rand(10, 3, pool.image_size, pool.image_size), torch.arange(5).repeat(2)
    method = get_method(name)
    config = method.Config(width=4)
    first, second = (method.meta_train(pool, config, seed=seed).adapt(images, labels) for seed in (0, 1))
    assert torch.equal(first.predict_proba(images), second.predict_proba(images))


@pytest.mark.parametrize(
    "config", ["dict", "type('C', (MethodConfig,), {})", "dataclass(type('C', (), {}))", "not_a_method()"]
)
def test_a_config_is_a_dataclass_that_extends_the_shared_one(tmp_path, monkeypatch, config):
    words = f"\nfrom dataclasses import dataclass\n\nMine.Config = {config}\n"
    (tmp_path / "my_config.py").write_text(OWN + words)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_config", raising=False)
    with pytest.raises(ValueError, match="my_config:Mine: its Config has to be a dataclass"):
        get_method("my_config:Mine")
    sys.modules.pop("my_config", None)

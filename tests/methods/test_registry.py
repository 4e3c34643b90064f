"""The registry: every method is found and described, a user's own too."""

from __future__ import annotations

import sys

import pytest

from freelib.methods import METHODS, Method, describe_methods, get_method

OWN = """
from dataclasses import dataclass

from freelib.methods import Method, MethodConfig


class Mine(Method):
    name, title, citation, needs, cost = "mine", "Mine", "nobody", "nothing", "none"
    revision = 7

    def train(self, run):
        return run.finish()


class Nameless(Method):
    pass


class Dict(Mine):
    Config = dict


class Inherited(Mine):
    Config = type("C", (MethodConfig,), {})


class Stranger(Mine):
    Config = dataclass(type("C", (), {}))


class Instance(Mine):
    Config = MethodConfig()


not_a_method = MethodConfig
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "my_methods.py").write_text(OWN)
    (tmp_path / "broken_method.py").write_text("class Mine(:\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("my_methods", None)


@pytest.mark.parametrize("name", METHODS)
def test_a_registered_method_tells_what_it_is(name):
    method = get_method(name)
    assert method.name == name
    assert method.needs in ("nothing", "weights", "gradients", "calls", "data (oracle)")
    assert method.oracle == (method.needs == "data (oracle)") == name.startswith("oracle_")
    assert all([method.title, method.citation, method.cost, method.revision >= 1])
    assert method.Config().n_way == 5
    with pytest.raises(ValueError, match="precision is one of float32, bfloat16, got 'bf16'"):
        method.Config(precision="bf16")


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
    many = {name for name, row in table.items() if row["models_at_test"] != 1}
    assert many == {"pool_features", "pool_opinions"}


def test_a_method_of_ones_own_is_found_by_its_import_path(own_module):
    assert isinstance(get_method("my_methods:Mine"), Method)
    (row,) = describe_methods(["my_methods:Mine"])
    assert (row["name"], row["citation"], row["revision"]) == ("my_methods:Mine", "nobody", 7)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nonsense", "Unknown method 'nonsense': known are random, average, ota"),
        ("my_methods:Yours", "can't be imported: .*Yours"),
        ("no_such_module:Mine", "can't be imported: No module named 'no_such_module'"),
        ("my_methods:not_a_method", "no freelib.methods.Method"),
        ("my_methods:Nameless", "my_methods:Nameless lacks title, citation, needs, name, train"),
        ("broken_method:Mine", "can't be imported: .*syntax"),
        ("./my_methods.py:Mine", "can't be imported"),
        (".my_methods:Mine", "can't be imported"),
        ("my_methods:Dict", "my_methods:Dict: its Config has to be a dataclass"),
        ("my_methods:Inherited", "its Config has to be a dataclass that extends MethodConfig"),
        ("my_methods:Stranger", "its Config has to be a dataclass that extends MethodConfig"),
        ("my_methods:Instance", "its Config has to be a dataclass"),
    ],
)
def test_what_is_no_method_is_refused(own_module, path, message):
    with pytest.raises(ValueError, match=message):
        get_method(path)

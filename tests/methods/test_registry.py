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


CONFIGS = {
    "Dict": dict,
    "Inherited": type("C", (MethodConfig,), {}),
    "Stranger": dataclass(type("C", (), {})),
    "Instance": MethodConfig(),
}
globals().update({name: type(name, (Mine,), {"Config": config}) for name, config in CONFIGS.items()})
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


RELEASES = {
    "free": {
        "warmup_rounds": 20, "rounds": 1000, "meta_batch": 4, "adapt_steps": 5, "images_per_class": 20,
        "lambda_ce": 1, "lambda_bn": 0, "lambda_adv": 1, "generator_lr": 1e-3, "z_lr": 1e-3, "meta_lr": 1e-3,
        "z_dim": 256, "ngf": 64, "augment_padding": 4, "augment_flip": True, "align_inner_lr": 1e-3,
        "align_lr": 1e-3, "align_optimizer": "adam", "memory_batches": 20, "replay_episodes": 10,
        "replay_lr": 1e-3, "replay_patience": 10, "second_order": True, "inner_steps": 5, "inner_lr": 0.01,
        "test_steps": 10, "n_way": 5, "n_query": 15,
    },
    "purer": {
        "lambda_ce": 1, "lambda_bn": 0.01, "lambda_tv": 1e-4, "lambda_l2": 1e-5, "pixel_lr": 0.01,
        "jitter": 2, "meta_batch": 13, "episodes": 4, "outer_lr": 1e-3, "inner_lr": 0.01, "inner_steps": 5,
        "test_steps": 10, "eci_start": 4000, "eci_patience": 6, "eci_weight": 10,
    },
    "bidf_mkd": {
        "adapt_steps": 200, "images_per_class": 30, "z_dim": 256, "ngf": 64, "generator_lr": 1e-3,
        "z_lr": 1e-3, "lambda_ce": 1, "lambda_bn": 0, "lambda_adv": 1, "adversarial_from": 4000,
        "distill_steps": 10, "distill_lr": 0.01, "replay_patience": 200, "directions": 100, "mu": 0.005,
        "black_box": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASES)
def test_the_defaults_are_the_public_releases(name):
    config = get_method(name).Config()
    assert {field: getattr(config, field) for field in RELEASES[name]} == RELEASES[name]


def test_the_description_holds_what_a_reader_chooses_by(own_module):
    table = {row["name"]: row for row in describe_methods()}
    assert list(table) == list(METHODS)
    assert table["ota"] == {
        "name": "ota", "title": "OTA", "citation": "Singh and Jaggi, Model Fusion via Optimal Transport, NeurIPS 2020",
        "needs": "weights", "same_architecture": True, "cost": "one optimal transport a layer and model",
        "models_at_test": 1, "oracle": False, "images": "none", "revision": 1,
    }  # fmt: skip
    assert {name for name, row in table.items() if row["same_architecture"]} == {"average", "ota", "dro"}
    many = {name for name, row in table.items() if row["models_at_test"] != 1}
    assert many == {"pool_features", "pool_opinions"}
    assert isinstance(get_method("my_methods:Mine"), Method)
    (row,) = describe_methods(["my_methods:Mine"])
    assert (row["name"], row["citation"], row["revision"]) == ("my_methods:Mine", "nobody", 7)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nonsense", "Unknown method 'nonsense': known are random, average, ota"),
        ("my_methods:Yours", "can't be imported: .*Yours"),
        ("my_methods:not_a_method", "no freelib.methods.Method"),
        ("my_methods:Nameless", "my_methods:Nameless lacks title, citation, needs, name, train"),
        ("broken_method:Mine", "can't be imported: .*syntax"),
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

"""Every method: what it tells of itself, its defaults, and the same bits where it was killed."""

import sys
from dataclasses import fields

import pytest
import torch
from small_methods import assert_same_run, trainer
from tiny_models import Killed, flat, kill_at, tiny_pool, weights
from torch.optim.optimizer import register_optimizer_step_pre_hook

from freelib.methods import METHODS, Method, describe_methods, get_method
from freelib.methods import pool_distillation as distillation
from freelib.storage import Checkpoint

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
    assert {name: table[name]["same_architecture"] for name in ("average", "free")} == {"average": True, "free": False}
    assert table["pool_opinions"]["models_at_test"] != 1
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


CASES = [
    ("free", 3, {}),
    ("free", 4, {"kd_heads": "per_model", "align_sweeps": 2, "recovery": "scratch", "checkpoint_every": 2}),
    ("purer", 8, {"rounds": 14, "checkpoint_every": 3, "monitor_every": 4, "eci_start": 4, "eci_patience": 2}),
    ("bidf_mkd", 4, {"rounds": 5, "adversarial_from": 6, "checkpoint_every": 2}),
    ("dro", 2, {"draws": 5}),
    ("tgr", 2, {"grouping_steps": 1, "groups": 2, "invert_every": 2}),
]
IN_ROUNDS = [name for name in METHODS if "checkpoint_every" in {f.name for f in fields(get_method(name).Config)}]
CASES += [(name, 2, {}) for name in IN_ROUNDS if name not in ("free", "purer", "bidf_mkd", "tgr")]


@pytest.mark.parametrize(("name", "kill", "settings"), CASES)
def test_a_killed_run_ends_with_the_same_bits(tiny_dataset, tmp_path, name, kill, settings):
    never, checkpoint = Checkpoint(tmp_path / "never.pt"), Checkpoint(tmp_path / "run.pt")
    own = {"dataset": tiny_dataset, "seed": 4}
    train = trainer(name, **own, **settings)
    with pytest.raises(Killed):
        train(monitor=kill_at(kill), checkpoint=checkpoint)
    every = settings.get("checkpoint_every", 1)
    assert checkpoint.load()["round"] == (kill - 1) // every * every
    straight = trainer(name, **own, **settings | {"checkpoint_every": 0})(monitor=kill_at(-1), checkpoint=never)
    assert never.load() is None  # no state where none is wanted
    for _ in range(2):  # a finished run has nothing left to do
        assert_same_run(train(monitor=kill_at(-1), checkpoint=checkpoint), straight)
    assert torch.equal(weights(train()), flat(straight.last_params.values()))  # unwatched
    scores = straight.log.history["monitor_score"]
    assert straight.selected_round == straight.log.history["monitor_round"][scores.index(max(scores))]


@pytest.mark.parametrize(("stage", "lives"), [("ensemble_embeddings", 0), ("distil_epoch", 1)])
def test_pool_distillation_goes_on_after_the_last_stage_or_epoch(tmp_path, monkeypatch, stage, lives):
    checkpoint, train = Checkpoint(tmp_path / "run.pt"), trainer("pool_distillation")
    real, calls = getattr(distillation, stage), []

    def dies(*arguments, **settings):
        calls.append(arguments)
        return real(*arguments, **settings) if len(calls) <= lives else 1 / 0

    with monkeypatch.context() as patch:
        patch.setattr(distillation, stage, dies)
        with pytest.raises(ZeroDivisionError):
            train(checkpoint=checkpoint)
    images, straight = torch.rand(8, 3, 16, 16), train()
    for _ in range(2):
        again = train(checkpoint=checkpoint)
        assert torch.equal(again.embed(images), straight.embed(images))
        assert again.log.history == straight.log.history


@pytest.mark.parametrize("name", [name for name in METHODS if name != "pool_distillation"])
def test_two_runs_with_one_seed_are_the_same_bits(tiny_dataset, name):
    def gradients_lie_as_weights_do(optimizer, *_):  # a fused Adam takes it for granted
        for p in (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
            strides = zip(p.shape, p.stride(), p.grad.stride(), strict=True)
            assert all(own == grads for n, own, grads in strides if n > 1), p.shape

    images, labels = torch.rand(10, 3, 16, 16), torch.arange(5).repeat(2)
    method = get_method(name)
    hook = register_optimizer_step_pre_hook(gradients_lie_as_weights_do)
    try:
        probabilities = [
            trainer(name, tiny_pool(3), seed=seed, dataset=tiny_dataset)().adapt(images, labels).predict_proba(images)
            for seed in (0, 0, 1)
        ]
    finally:
        hook.remove()
    assert torch.equal(probabilities[0], probabilities[1])
    assert torch.equal(probabilities[0], probabilities[2]) == (not method.uses_seed)

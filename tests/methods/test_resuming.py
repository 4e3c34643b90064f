"""Every method that trains goes on where it was killed, with the same bits."""

from dataclasses import fields

import pytest
import torch
from small_methods import assert_same_run, trainer
from tiny_models import Killed, flat, kill_at, tiny_pool, weights

from freelib.methods import METHODS, get_method
from freelib.methods import pool_distillation as distillation
from freelib.storage import Checkpoint

CASES = [
    ("free", 3, {}),
    ("free", 4, {"kd_heads": "per_model", "align_sweeps": 2, "recovery": "scratch", "checkpoint_every": 2}),
    ("purer", 8, {"rounds": 14, "checkpoint_every": 3, "monitor_every": 4, "eci_start": 4, "eci_patience": 2}),
    ("bidf_mkd", 4, {"rounds": 5, "adversarial_from": 6, "checkpoint_every": 2}),
    ("tgr", 2, {"grouping_steps": 1, "groups": 2, "invert_every": 2}),
    ("dro", 2, {}),
    ("dro", 2, {"draws": 5}),
    ("ldfml", 2, {}),
    ("oracle_maml", 2, {}),
    ("oracle_protonet", 2, {}),
]


def test_the_cases_are_all_methods_that_train_in_rounds():
    in_rounds = {n for n in METHODS if "checkpoint_every" in {f.name for f in fields(get_method(n).Config)}}
    assert {name for name, _, _ in CASES} == in_rounds


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
    assert straight.selected_round == {"free": 2, "purer": 4}.get(name, 1)


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
    images, labels = torch.rand(10, 3, 16, 16), torch.arange(5).repeat(2)
    method = get_method(name)
    probabilities = [
        trainer(name, tiny_pool(3), seed=seed, dataset=tiny_dataset)().adapt(images, labels).predict_proba(images)
        for seed in (0, 0, 1)
    ]
    assert torch.equal(probabilities[0], probabilities[1])
    assert torch.equal(probabilities[0], probabilities[2]) == (not method.uses_seed)

"""Sizes that fill a budget, by value; one call from a pool to a learner."""

import time

import pytest
import torch
from tiny_models import flat, tiny_pool

from freelib import meta_train
from freelib.methods import get_method
from freelib.progress import Progress
from freelib.run import budget
from freelib.run.budget import TimeLeft, chosen_sizes, measured_rates, seconds_of_phases
from freelib.run.units import make_config

# as measured for 40 teachers on one core (issue and records of CIFAR-FS): seconds an image
RATES = {"recovery": 7e-3, "warmup": 6.0, "images": 4e-4, "answers": 4e-3, "distillation": 3e-4}
SMALL = {"width": 4, "embedding": 8, "batch_size": 16}


def test_rates_are_those_of_a_trial_and_seconds_of_the_phases():
    sizes = {"recovered": 100, "procedural": 300, "mixed": 600, "epochs": 10}
    assert seconds_of_phases(RATES, sizes) == pytest.approx([6.7, 0.4, 4.0, 3.0])
    assert seconds_of_phases(RATES, sizes | {"recovered": 0})[0] == 0
    config = make_config("pool_distillation", SMALL | {"adapt_steps": 1, "images_per_class": 4, "ngf": 4})
    began = time.perf_counter()
    rates = measured_rates(tiny_pool(2), config, seed=0, inversion=True)
    spent = time.perf_counter() - began
    trial = seconds_of_phases(rates, {"recovered": 1, "procedural": 160, "mixed": 160, "epochs": 1})
    assert 0 < sum(trial) - rates["warmup"] < spent
    assert rates["warmup"] == pytest.approx(config.warmup_rounds * rates["recovery"] * 4 * 2 * 5)  # of two models
    assert measured_rates(tiny_pool(2), config, seed=0, inversion=False)["recovery"] == 1e9


@pytest.mark.parametrize("seconds", [0.1, 9, 27, 60, 146, 300, 930, 3600])
@pytest.mark.parametrize("answers", [0.8e-3, 4e-3])  # of 10 teachers, of 40
def test_a_budget_is_filled_and_not_passed(seconds, answers):
    rates = RATES | {"answers": answers}
    sizes = chosen_sizes(rates, seconds)
    taken, n = sum(seconds_of_phases(rates, sizes)), sum(sizes[kind] for kind in budget.KINDS)
    assert taken <= max(seconds, 5)  # there is a smallest
    assert taken >= 0.95 * seconds or (n > 110_000 and sizes["epochs"] == 40)
    assert (sizes["recovered"] > 0) == (seconds > (146 if answers == 4e-3 else 300))
    assert 10 <= sizes["epochs"] <= 40
    assert n * sizes["epochs"] / sizes["batch_size"] >= 1500 or sizes["batch_size"] == 32
    assert chosen_sizes(rates | {"recovery": 1e9}, seconds)["recovered"] == 0


def test_from_a_pool_to_a_learner(tiny_dataset, monkeypatch, capsys):
    monkeypatch.setattr(budget, "chosen_sizes", lambda rates, seconds, given: asked.append(seconds) or sizes)
    monkeypatch.delenv("FREELIB_PROGRESS", raising=False)
    asked, sizes = [], {"recovered": 0, "procedural": 40, "mixed": 0, "epochs": 2}
    learner = meta_train(tiny_pool(), 0.5, validation=tiny_dataset, **SMALL)
    assert 0.9 * 30 - 10 < asked[0] < 0.9 * 30
    assert {name: getattr(learner.config, name) for name in sizes} == sizes
    said = capsys.readouterr().err
    assert (
        "0 synthesised, 40 procedural, 0 mixed images, shown to 4 teachers and 2 times to the student, batches of 16"
        in said
    )
    assert "% on 100 episodes of tiny" in said
    method = get_method("pool_distillation")
    again = method.meta_train(tiny_pool(), learner.config, seed=0)
    assert torch.equal(flat(again.params.values()), flat(learner.params.values()))
    assert meta_train(tiny_pool(), method="random", width=4).config == make_config("random", {"width": 4})


def test_the_time_left_follows_the_pace_so_far(monkeypatch):
    now = iter([100.0, 110.0, 112.0])
    monkeypatch.setattr(budget.time, "perf_counter", lambda: next(now))
    shown, progress = [], Progress("x")
    monkeypatch.setattr(progress, "note", shown.append)
    left = TimeLeft(progress, [0.0, 1.0, 4.0, 10.0], epochs=5)
    left.save({"recovered": 0})
    left.save({"targets": 0})  # 5 of 15 in 10
    left.save({"targets": 0, "epochs": 1})  # 7 of 15 in 12
    assert shown == ["15 s left", "20 s left", "14 s left"]
    assert left.load() is None

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from fake_methods import TINY
from tiny_models import rng, tiny_model, tiny_pool

from freelib.generator import Generator, MetaGenerator, synthesise_round
from freelib.methods.base import stream_seed
from freelib.methods.free import FreeConfig
from freelib.run.runner import Run
from freelib.run.units import Unit
from studies.inversion_cost import (
    CostConfig,
    MetaTrainingConfig,
    cost_at_equal_quality,
    cost_record,
    cost_rows,
    measure_cost,
    measure_meta_training,
    meta_training_record,
    pixels,
    split_off,
    weights_before_norm,
)

QUICK = FreeConfig(ngf=4, z_dim=8, images_per_class=2, adapt_steps=3, augment_padding=1)
COST = CostConfig(rounds=2, held_out=1, steps=4)
OWN = MetaTrainingConfig(rounds=2, every=1, held_out=1, rates=(1.0, 0.1), steps=4)


def test_three_ways_of_models_that_were_held_out():
    found, again, other = (measure_cost(tiny_pool(), QUICK, COST, seed) for seed in (0, 0, 1))
    assert [task["way"] for task in found["tasks"]] == ["five", "scratch", "pixels"]
    assert [len(task["loss"]) for task in found["tasks"]] == [3, 4, 4]
    assert len({task["model"] for task in found["tasks"]}) == 1
    assert found["before"]["passes"] == 2 * 3 * 3  # rounds, the models that are not held out, iterations
    assert found["passes"] == 18 + 3 + 4 + 4
    losses = [[task["loss"] for task in each["tasks"]] for each in (found, again, other)]
    assert losses[0] == losses[1] != losses[2]
    losses, accuracies = pixels(tiny_model(), QUICK, rng(), steps=30)
    assert losses.shape == accuracies.shape == (30,)
    assert losses[-5:].mean() < losses[:5].mean()
    assert torch.all((accuracies >= 0) & (accuracies <= 1))


def rows_of(accuracies, seconds, seed=0):
    """One task's rows by hand: teacher accuracy (a share) at every iteration of every way."""
    tasks = [
        {"way": way, "model": "m", "seconds": seconds[way], "loss": [1.0] * len(a), "agreement": a}
        for way, a in accuracies.items()
    ]
    return cost_rows([{"dataset": "glyphs", "seed": seed, "extra": {"tasks": tasks}}])


def test_the_cost_at_equal_quality_by_hand():
    curves = {"five": [0.5, 0.8], "scratch": [0.2, 0.4, 0.6, 0.8, 0.9, 1.0], "pixels": [0.1] * 6}
    rows = rows_of(curves, {"five": 4.0, "scratch": 12.0, "pixels": 6.0})
    (found,) = cost_at_equal_quality(rows, "scratch").to_dict("records")
    ratios = {"iterations_ratio": 2.0, "seconds_ratio": 2.0}  # 8 s of 12, against 4 s
    assert found == {"dataset": "glyphs", "tasks": 1, "reached": 1.0, "iterations": 4.0, **ratios}
    (never,) = cost_at_equal_quality(rows, "pixels").to_dict("records")
    assert (never["reached"], never["iterations_ratio"]) == (0, math.inf)
    falling = rows.assign(loss=100 - rows["accuracy"])
    falling.loc[falling["way"] == "five", "loss"] = 40.0  # 60 % is a loss of 40: three iterations
    assert cost_at_equal_quality(falling, "scratch", "loss")["iterations_ratio"].tolist() == [1.5]
    seconds = {"five": 1.0, "scratch": 3.0}
    tasks = [[0.9, 1.0, 1.0], [0.1, 0.9, 1.0], [0.1, 0.2, 0.3]]  # reached after 1, after 2, never
    rows = pd.concat([rows_of({"five": [0.8], "scratch": task}, seconds, seed) for seed, task in enumerate(tasks)])
    (found,) = cost_at_equal_quality(rows, "scratch").to_dict("records")
    assert (found["tasks"], found["reached"], found["iterations"]) == (3, pytest.approx(2 / 3), 2)


def test_both_are_records_that_are_made_once(tiny_world, tmp_path):
    free = {"ngf": 4, "z_dim": 8, "images_per_class": 2, "adapt_steps": 2, "augment_padding": 1, "width": 4}
    sizes = {
        "recovery_cost": {"rounds": 1, "held_out": 1, "steps": 3},
        "meta_training": {"rounds": 1, "every": 1, "held_out": 1, "rates": [1.0], "steps": 2},
    }
    profile = replace(TINY, overrides={"free": free}, measurements=sizes)
    run = Run(Unit("figure1", "free", "cifar-fs", 1, 0), profile)
    cost, training = cost_record(run, tmp_path), meta_training_record(run, tmp_path)
    assert (cost["method"], training["method"]) == ("recovery_cost", "meta_training")
    assert cost["config"]["adapt_steps"] == 2
    assert len(cost_rows([cost])) == 2 + 3 + 3
    assert [each["round"] for each in training["extra"]["looks"]] == [0, 1]
    assert (cost_record(run, tmp_path), meta_training_record(run, tmp_path)) == (cost, training)


def test_measurements_leave_no_trace_and_are_alike():
    found = measure_meta_training(tiny_pool(), QUICK, OWN, 0)
    each = found["looks"]
    rates = [1e-3] * 3 + [pytest.approx(1e-4)] * 3
    assert [(m["meta_lr"], m["round"]) for m in each] == [*zip(rates, [0, 1, 2] * 2, strict=True)]
    assert each[0]["loss"] == each[3]["loss"]  # the same weights, the same codes
    assert each[1]["loss"] != each[4]["loss"]
    rarely = measure_meta_training(tiny_pool(), QUICK, replace(OWN, every=2), 0)
    assert rarely["looks"] == [each[i] for i in (0, 2, 3, 5)]
    assert [len(curve["loss"]) for curve in found["scratch"]] == [4]
    assert found["passes"] == 2 * (2 * 3 * 3 + 3 * 3) + 4  # rounds of three others, measurements; from scratch
    pool = tiny_pool()
    found = measure_meta_training(pool, QUICK, OWN, 0)["looks"][2]
    met, (held,), _ = split_off(pool, 1, 0)
    draws, same = (torch.Generator().manual_seed(stream_seed(0, name)) for name in ("meta_training", "looks"))
    generator = MetaGenerator(QUICK, image_size=pool.image_size, seed=stream_seed(0, "generator"))
    for _ in range(2):
        synthesise_round(generator, met.sample(QUICK.meta_batch, draws), draws)
    assert found["norm"] == weights_before_norm(generator.generator)
    task = generator.adapt(held, None, same)
    assert found["loss"] == [pytest.approx(task.losses[-1].item(), rel=1e-4)]


def test_batchnorm_cancels_these_weights_scale():
    generator = Generator(8, z_dim=8, ngf=4)
    z = torch.randn(6, 8)
    images, norm = generator(z), weights_before_norm(generator)
    with torch.no_grad():
        for layer in (generator.project, generator.conv1, generator.conv2):
            for parameter in layer.parameters():
                parameter.mul_(3)
    assert weights_before_norm(generator) == pytest.approx(3 * norm)
    torch.testing.assert_close(generator(z), images, rtol=0, atol=1e-3)

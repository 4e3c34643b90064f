import pytest
import torch
from fake_methods import TINY
from tiny_models import tiny_pool

from freelib.experiments import meta_training
from freelib.experiments.meta_training import MetaTrainingConfig, measure, rows, weights_before_norm
from freelib.generator import Generator, MetaGenerator, synthesise_round
from freelib.methods.base import stream_seed
from freelib.methods.free import FreeConfig
from freelib.studies.recovery_cost import split_off

QUICK = FreeConfig(ngf=4, z_dim=8, images_per_class=2, adapt_steps=3, augment_padding=1)
OWN = MetaTrainingConfig(rounds=2, every=1, held_out=1, rates=(1.0, 0.1), steps=4)


def test_looks_leave_no_trace_and_are_alike():
    found = measure(tiny_pool(), QUICK, OWN, 0)
    assert [(look["meta_lr"], look["round"]) for look in found["looks"]] == [
        (rate, number) for rate in (1e-3, pytest.approx(1e-4)) for number in range(3)
    ]
    starts = [look for look in found["looks"] if look["round"] == 0]
    assert starts[0]["loss"] == starts[1]["loss"]  # the same weights, the same codes
    assert found["looks"][1]["loss"] != found["looks"][4]["loss"]
    rarely = measure(tiny_pool(), QUICK, MetaTrainingConfig(**{**vars(OWN), "every": 2}), 0)
    assert rarely["looks"] == [found["looks"][i] for i in (0, 2, 3, 5)]
    assert [len(curve["loss"]) for curve in found["scratch"]] == [4]
    assert found["passes"] == 2 * (2 * 3 * 3 + 3 * 3) + 4  # rounds of the three others, looks; from scratch


def test_a_look_is_the_meta_generators_adaptation():
    pool = tiny_pool()
    found = measure(pool, QUICK, OWN, 0)
    met, (held,), _ = split_off(pool, 1, 0)
    rng, same = (torch.Generator().manual_seed(stream_seed(0, name)) for name in ("meta_training", "looks"))
    generator = MetaGenerator(QUICK, image_size=pool.image_size, seed=stream_seed(0, "generator"))
    for _ in range(2):
        synthesise_round(generator, met.sample(QUICK.meta_batch, rng), rng)
    look = found["looks"][2]
    assert look["norm"] == weights_before_norm(generator.generator)
    task = generator.adapt(held, None, same)
    assert look["loss"] == [pytest.approx(task.losses[-1].item(), rel=1e-4)]
    assert look["agreement"] == [pytest.approx(task.teacher_accuracies[-1].item(), rel=1e-4)]


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


def by_hand(agreements, scratch, seed=0):
    looks = [
        {"meta_lr": rate, "round": 5 * i, "norm": 2.0 + i, "loss": [1.0, 3.0], "agreement": [share, share]}
        for rate, shares in agreements.items()
        for i, share in enumerate(shares)
    ]
    extra = {"models": ["a", "b"], "looks": looks}
    extra["scratch"] = [{"loss": [2.0] * len(scratch), "agreement": scratch}] * 2
    return {"dataset": "cifar-fs", "seed": seed, "config": {"adapt_steps": 2}, "extra": extra}


def test_the_conclusion_and_the_figure_by_hand():
    made = by_hand({1e-3: [0.5, 0.8, 0.6], 1e-4: [0.5, 0.6, 0.7]}, [0.1, 0.4, 0.7, 0.9])
    assert meta_training.conclusion(made) == (
        "On CIFAR-FS, seed 0, mean over 2 models that the meta-generator never met: 2 steps reach an "
        "agreement of 50 % (loss 2.0) before any meta-training; at a meta-learning rate of 0.001 at best "
        "80 % (after 5 rounds, loss 2.0) and 60 % after 10 (loss 2.0), when its weights' norm is 2.00 times "
        "what it was; at a meta-learning rate of 0.0001 at best 70 % (after 10 rounds, loss 2.0) and 70 % "
        "after 10 (loss 2.0), when its weights' norm is 2.00 times what it was; a generator from "
        "scratch reaches 40 % (loss 2.0) in as many passes, the best agreement of these, 80 %, after 4 and "
        "the lowest loss, 2.0, after 1."
    )
    weak = by_hand({1e-3: [0.5, 0.95]}, [0.1, 0.4, 0.7, 0.9])
    assert "the best agreement of these, 95 %, not in 4 and" in meta_training.conclusion(weak)
    other = by_hand({1e-3: [0.3, 0.4, 0.2]}, [0.1, 0.2], seed=1)
    figure = meta_training.meta_training_figure([made, other])
    panels = [[line for line in axis.lines if line.get_linewidth() == 1.3] for axis in figure.axes]
    first, second, third, _ = panels
    assert third[0].get_ydata().tolist() == pytest.approx([30, 40, 20])
    assert [axis.get_title("left") for axis in figure.axes] == ["seed 0", "", "seed 1", ""]
    assert [line.get_ydata().tolist() for line in first] == [
        pytest.approx([50, 80, 60]),
        pytest.approx([50, 60, 70]),
    ]
    assert [line.get_ydata().tolist() for line in second] == [[2, 2, 2]] * 2
    dotted = [axis.lines[-1].get_ydata()[0] for axis in figure.axes]
    assert dotted == pytest.approx([40, 2, 20, 2])
    assert figure.get_suptitle() == "CIFAR-FS: the mean of 2 models, and each of them (thin)"
    assert len(meta_training.meta_training_figure([made]).axes) == 2


def test_the_measurement_is_a_record_of_the_first_data_set_and_seed(tiny_world, tmp_path):
    fields = {"ngf": 4, "z_dim": 8, "images_per_class": 2, "adapt_steps": 2, "augment_padding": 1, "width": 4}
    own = {"rounds": 1, "every": 1, "held_out": 1, "rates": (1.0,), "steps": 3}
    profile = type(TINY)(**{**vars(TINY), "overrides": {"free": fields, meta_training.NAME: own}})
    (record,) = meta_training.run(profile, experiment="figure1", results=tmp_path)
    assert (record["method"], record["seed"]) == (meta_training.NAME, 0)
    assert record["config"]["rates"] == [1.0]
    assert meta_training.run(profile, experiment="figure1", results=tmp_path) == [record]
    (second,) = meta_training.run(profile, experiment="figure1", results=tmp_path, seeds=(1,))
    assert second["seed"] == 1
    assert meta_training.run(profile, experiment="figure1", results=tmp_path) == [record, second]
    longer = {**own, "rounds": 2}
    other = type(TINY)(**{**vars(profile), "overrides": {"free": fields, meta_training.NAME: longer}})
    (alone,) = meta_training.run(other, experiment="figure1", results=tmp_path)  # not measured alike
    assert alone["config"]["rounds"] == 2
    assert rows(record)["norm"].iloc[0] == 1
    wrong = type(TINY)(**{**vars(TINY), "overrides": {meta_training.NAME: {"turns": 1}}})
    with pytest.raises(ValueError, match="meta_training has no field turns"):
        meta_training.run(wrong, experiment="figure1", results=tmp_path)

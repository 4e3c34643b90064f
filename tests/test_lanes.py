"""Lanes give the bits of one episode after the other, whatever their number."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from tiny_models import rng, tiny_model

from freelib.alignment import DistillationHeads
from freelib.datasets.episodes import Episode
from freelib.environment import environment, set_lanes
from freelib.fast import threads as lanes
from freelib.generator import MetaGenerator, synthesise_round
from freelib.inversion import InversionConfig
from freelib.meta_learner import MetaLearner
from freelib.methods.calibration import CalibratedLearner, CalibrationConfig
from freelib.models.backbones import build_backbone
from freelib.replay import maml_step

RULE = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "image_size": 16, "inner_lr": 0.1}


@pytest.fixture(autouse=True)
def _one_lane_afterwards() -> Iterator[None]:
    yield
    set_lanes(1)


def learner(head: str = "maml", arch: str = "conv4") -> MetaLearner:
    return MetaLearner(
        build_backbone(arch, width=8, image_size=16, batch_stats=True, seed=1), head=head, **RULE
    )


def episodes(n: int) -> list[Episode]:
    draw, y = rng(2), torch.arange(5)
    images = [torch.rand(2, 10, 3, 16, 16, generator=draw) for _ in range(n)]
    return [Episode(x[0], y.repeat(2), x[1], y.repeat(2)) for x in images]


@pytest.mark.parametrize(("head", "arch"), [("maml", "conv4"), ("anil", "conv4"), ("maml", "resnet10")])
@pytest.mark.parametrize("second_order", [True, False])
def test_training_has_the_same_bits(head, arch, second_order):
    found = []
    for n in (1, 3):
        set_lanes(n)
        student = learner(head, arch)
        optimizer = torch.optim.Adam(student.params.values(), lr=0.01)
        results = [
            maml_step(student, episodes(7), optimizer, steps=2, second_order=second_order) for _ in range(2)
        ]
        found.append([*torch.tensor(results), *student.params.values()])
    for one, several in zip(*found, strict=True):
        assert torch.equal(one, several)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kd_heads", ["shared", "per_model"])
def test_recovery_has_the_same_bits(precision, kd_heads):
    models = [tiny_model(i) for i in range(3)]
    found = []
    for n in (1, 2):
        set_lanes(n)
        config = InversionConfig(ngf=2, z_dim=4, images_per_class=2, adapt_steps=3, lambda_bn=0.05)
        generator = MetaGenerator(config, image_size=16, precision=precision)
        n_ways = {m.name: m.n_way for m in models} if kd_heads == "per_model" else None
        heads, draw = DistillationHeads(learner(), n_ways), rng(3)
        generator.adapt(models[0], None, draw)  # a gradient that is there already stays in the sum
        students = [partial(heads.logits, model=model) for model in models]
        tasks = [task for _ in range(2) for task in synthesise_round(generator, models, draw, students)]
        assert [task.model for task in tasks] == models * 2
        assert generator.passes == 21
        rows = [part for t in tasks for part in (t.images, t.teacher_logits, t.losses, t.agreements)]
        found.append([*rows, draw.get_state(), *generator.generator.parameters()])
    for one, several in zip(*found, strict=True):
        assert torch.equal(one, several)


@pytest.mark.parametrize(("numbers", "parties"), [((0, 1), 2), ((0, 0), 1), ((0, 2), 1)])
def test_models_are_inverted_at_once_unless_they_share_layers(monkeypatch, numbers, parties):
    set_lanes(2)
    barrier, adapt = threading.Barrier(parties, timeout=20), MetaGenerator.adapt

    def met(self, *arguments):
        barrier.wait()
        return adapt(self, *arguments)

    monkeypatch.setattr(MetaGenerator, "adapt", met)
    config = InversionConfig(ngf=2, z_dim=4, images_per_class=2, adapt_steps=1)
    models = [tiny_model(i) for i in range(3)]
    models[2].module.encoder = models[0].module.encoder
    synthesise_round(MetaGenerator(config, image_size=16), [models[i] for i in numbers], rng())


def predictions(student: MetaLearner) -> torch.Tensor:
    def predict(own: MetaLearner, task: Episode) -> torch.Tensor:
        return own.adapt(task.support, task.support_labels).logits(task.query)

    return torch.stack(list(lanes.in_lanes(student, predict, episodes(9))))


def test_predictions_have_the_same_bits_and_come_in_order(monkeypatch):
    monkeypatch.setattr(lanes, "AHEAD", 2)  # three rounds of four, of nine episodes
    alone = predictions(learner())
    set_lanes(2)
    assert torch.equal(predictions(learner()), alone)
    assert len({tuple(logits.flatten().tolist()) for logits in alone}) == 9


def meeting(parties: int):
    """Work that ends only when so many threads are at it at once."""
    barrier = threading.Barrier(parties, timeout=20)

    def work(own: MetaLearner, _: int) -> tuple[int, bool]:
        barrier.wait()
        return id(own.backbone), torch.is_grad_enabled()

    return work


def test_lanes_work_at_once_each_in_a_module_of_its_own_and_as_the_caller_has_set_gradients():
    set_lanes(2)
    student = learner()
    with torch.no_grad():
        found = list(lanes.in_lanes(student, meeting(2), range(2)))
    assert len({module for module, _ in found} | {id(student.backbone)}) == 3
    assert [gradients for _, gradients in found] == [False, False]


def test_twins_share_their_weights():
    student = learner()
    own = lanes.twin(student)
    assert own.backbone is not student.backbone
    assert all(a is b for a, b in zip(own.params.values(), student.params.values(), strict=True))


def test_an_error_in_a_lane_is_the_callers():
    set_lanes(2)

    def work(_: MetaLearner, item: int) -> int:
        if item == 3:
            raise ValueError("three")
        return item

    with pytest.raises(ValueError, match="three"):
        list(lanes.in_lanes(learner(), work, range(5)))


def test_what_may_hold_more_than_weights_has_one_lane():
    set_lanes(2)
    calibrated = CalibratedLearner(learner(), InversionConfig(), CalibrationConfig())
    modules = {module for module, _ in lanes.in_lanes(calibrated, meeting(1), range(3))}
    assert modules == {id(calibrated.backbone)}


def test_a_record_counts_the_threads_of_all_lanes():
    alone = environment()["threads"]
    set_lanes(2)
    assert environment()["threads"] == 2 * alone
    with pytest.raises(ValueError, match="at least 1 lane"):
        set_lanes(0)

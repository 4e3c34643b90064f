"""Episodes side by side give what the loop over them gives: losses, gradients, predictions."""

from __future__ import annotations

import pytest
import torch
from tiny_models import flat, rng

from freelib import side_by_side
from freelib.backbones import build_backbone
from freelib.calibration import CalibratedLearner, CalibrationConfig
from freelib.episodes import Episode, EpisodeSampler
from freelib.evaluation import evaluate
from freelib.inversion import InversionConfig
from freelib.meta_learner import MetaLearner
from freelib.replay import maml_step

BOTH = pytest.mark.parametrize(("head", "arch"), [("maml", "conv4"), ("anil", "conv4"), ("maml", "resnet10")])


def learner(head: str = "maml", arch: str = "conv4", **settings) -> MetaLearner:
    backbone = build_backbone(arch, width=8, image_size=16, batch_stats=True, seed=1).double()
    rule = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "image_size": 16, "inner_lr": 0.1, **settings}
    return MetaLearner(backbone, head=head, **rule)


def episodes(n: int = 3) -> list[Episode]:
    draw, y = rng(2), torch.arange(5)
    images = [torch.rand(2, 20, 3, 16, 16, generator=draw, dtype=torch.float64) for _ in range(n)]
    return [Episode(x[0][:10], y.repeat(2), x[1], y.repeat(4)) for x in images]


@BOTH
@pytest.mark.parametrize("second_order", [True, False])
def test_losses_and_their_gradients(head, arch, second_order):
    student, tasks = learner(head, arch), episodes()
    settings = {"steps": 2, "second_order": second_order}
    losses, accuracies = side_by_side.query_losses(student, tasks, **settings)
    expected = [student.query_loss(task, **settings) for task in tasks]
    torch.testing.assert_close(losses, torch.stack([loss for loss, _ in expected]))
    torch.testing.assert_close(accuracies, torch.stack([accuracy for _, accuracy in expected]))
    parameters = list(student.params.values())
    ours = torch.autograd.grad(losses.mean(), parameters)
    theirs = torch.autograd.grad(sum(loss for loss, _ in expected) / len(tasks), parameters)
    # the biases before a BatchNorm have no gradient but noise
    torch.testing.assert_close(flat(ours), flat(theirs), atol=1e-9, rtol=1e-6)


@BOTH
def test_a_step_of_maml_is_the_same_either_way(head, arch, monkeypatch):
    students = [learner(head, arch) for _ in range(2)]
    found = []
    for student, pays in zip(students, (False, True), strict=True):
        monkeypatch.setattr(side_by_side, "pays", lambda _, pays=pays: pays)
        optimizer = torch.optim.SGD(student.params.values(), lr=0.1)
        found.append(maml_step(student, episodes(), optimizer, steps=2))
    torch.testing.assert_close(found[0], found[1], check_dtype=False)
    torch.testing.assert_close(*(flat(student.params.values()) for student in students), atol=1e-9, rtol=1e-6)


@BOTH
def test_a_test_has_the_same_accuracies_either_way(head, arch, tiny_dataset, monkeypatch):
    student = learner(head, arch, inner_steps=3)
    student.backbone.float()
    sampler, calls = EpisodeSampler(tiny_dataset, n_shot=1, n_query=5), []
    alone = evaluate(student, sampler, 7)
    monkeypatch.setattr(side_by_side, "pays", lambda _: True)
    monkeypatch.setattr(side_by_side, "AT_ONCE", 3)
    together = evaluate(student, sampler, 7, lambda *done: calls.append(done))
    torch.testing.assert_close(together.accuracies, alone.accuracies)
    assert calls == [(3, 7), (6, 7), (7, 7)]


def test_on_a_cpu_and_for_prototypes_the_loop_stays():
    assert not side_by_side.pays(learner())
    backbone = build_backbone("conv4", width=4, image_size=16, batch_stats=True).to("meta")
    rule = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "image_size": 16}
    assert side_by_side.pays(MetaLearner(backbone, **rule))
    assert not side_by_side.pays(MetaLearner(backbone, head="prototypes", **rule))


def test_a_learner_with_its_own_way_to_adapt_keeps_it(tiny_dataset, monkeypatch):
    student = learner(inner_steps=1)
    student.backbone.float()
    own = CalibratedLearner(student, InversionConfig(), CalibrationConfig(icfil_steps=3))
    sampler = EpisodeSampler(tiny_dataset, n_shot=1, n_query=5)
    alone = evaluate(own, sampler, 2)
    monkeypatch.setattr(side_by_side, "pays", lambda _: True)
    assert torch.equal(evaluate(own, sampler, 2).accuracies, alone.accuracies)

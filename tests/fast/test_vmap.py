"""Many episodes in one call, and derivatives by formulas, give what the plain loop gives."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from tiny_models import conv_learner, flat, random_episode, rng
from torch import nn

from freelib import MetaLearner, evaluate
from freelib.datasets.episodes import Episode, EpisodeSampler
from freelib.fast import maml, maml_step, vmap
from freelib.fast.conv4_derivatives import query_loss, weight_names
from freelib.inversion import InversionConfig
from freelib.methods.calibration import CalibratedLearner, CalibrationConfig
from freelib.models.backbones import build_backbone

BOTH = pytest.mark.parametrize(("head", "arch"), [("maml", "conv4"), ("anil", "conv4"), ("maml", "resnet10")])


def learner(head: str = "maml", arch: str = "conv4", **settings) -> MetaLearner:
    made = conv_learner(head, arch, width=8, inner_lr=0.1, **settings)
    made.backbone.double()
    return made


def episodes(n: int = 3, size: int = 16) -> list[Episode]:
    return [random_episode(2, 4, seed=i, shape=(3, size, size), dtype=torch.float64) for i in range(n)]


@BOTH
@pytest.mark.parametrize("second_order", [True, False])
def test_losses_and_their_gradients(head, arch, second_order):
    student, tasks = learner(head, arch), episodes(size=24)  # which it shrinks to 16
    settings = {"steps": 2, "second_order": second_order}
    losses, accuracies = vmap.query_losses(student, tasks, **settings)
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
    monkeypatch.setattr(maml, "TRAINED_AT_ONCE", 2)  # of three
    found = []
    for batched in (False, True):
        monkeypatch.setattr(maml, "batches_episodes", lambda _, batched=batched: batched)
        student = learner(head, arch)
        optimizer = torch.optim.SGD(student.params.values(), lr=0.1)
        totals = torch.stack(maml_step(student, episodes(), optimizer, steps=2))
        found.append((totals, flat(student.params.values())))
    torch.testing.assert_close(found[0][0], found[1][0], check_dtype=False)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-9, rtol=1e-6)


@BOTH
def test_a_test_has_the_same_accuracies_either_way(head, arch, tiny_dataset, monkeypatch):
    student = learner(head, arch, inner_steps=3)
    student.backbone.float()
    sampler, calls = EpisodeSampler(tiny_dataset, n_shot=1, n_query=5), []
    alone = evaluate(student, sampler, 7)
    monkeypatch.setattr(vmap, "batches_episodes", lambda _: True)
    monkeypatch.setattr(vmap, "AT_ONCE", 3)
    together = evaluate(student, sampler, 7, lambda *done: calls.append(done))
    torch.testing.assert_close(together.accuracies, alone.accuracies)
    assert calls == [(i, 7) for i in range(1, 8)]


def test_where_the_loop_stays_plain():
    assert not vmap.batches_episodes(learner())
    for head in ("maml", "prototypes"):
        student = conv_learner(head)
        student.backbone.to("meta")
        assert vmap.batches_episodes(student) == (head == "maml")
    student = learner()
    own = vmap.VmapLearner(student)
    assert own.params.keys() == student.params.keys()
    assert all(own.params[name] is weight for name, weight in student.params.items())
    written_out = [any(isinstance(m, vmap.BatchNorm) for m in x.backbone.modules()) for x in (own, student)]
    assert written_out == [True, False]
    (task,) = episodes(1)
    task = replace(task, support_labels=task.support_labels + 1)
    with pytest.raises(ValueError, match="Labels must lie in 0…4, got 1…5"):
        vmap.predictions(learner(), [task], steps=1)
    assert weight_names(build_backbone("conv4", width=4)) is None
    assert weight_names(build_backbone("conv4", width=4, batch_stats=True, embeds=True)) is None
    assert weight_names(build_backbone("resnet10", width=4, batch_stats=True)) is None
    assert weight_names(nn.Linear(3, 5)) is None
    assert len(weight_names(build_backbone("conv4", width=4, batch_stats=True)) or []) == 14


class Normed(nn.Module):
    """A network of one's own around some BatchNorm layer."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), norm, nn.Linear(4, 5)
        self.n_way = 5

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize(
    ("norm", "training", "batched"),
    [
        (nn.BatchNorm2d(4, track_running_stats=False), False, True),
        (nn.BatchNorm2d(4), False, True),
        (nn.BatchNorm2d(4), True, False),
        (nn.BatchNorm2d(4, track_running_stats=False, affine=False), False, False),
        (nn.BatchNorm3d(4, track_running_stats=False), False, False),
    ],
)
def test_a_network_that_vmap_would_get_wrong_keeps_the_loop(norm, training, batched):
    rule = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "image_size": 16}
    network = Normed(norm).train(training)
    assert vmap.batches_episodes(MetaLearner(network.to("meta"), **rule)) is batched
    if batched:
        (task,), norm = episodes(1), type(norm)(4, track_running_stats=norm.track_running_stats)
        student = MetaLearner(Normed(norm), **rule)
        student.backbone.double().eval()
        losses, _ = vmap.query_losses(student, [task], steps=1)
        ours = torch.autograd.grad(losses.sum(), list(student.params.values()))
        theirs = torch.autograd.grad(student.query_loss(task, steps=1)[0], list(student.params.values()))
        torch.testing.assert_close(flat(ours), flat(theirs), atol=1e-9, rtol=1e-6)


def test_a_learner_with_its_own_way_to_adapt_keeps_it(tiny_dataset, monkeypatch):
    student = learner(inner_steps=1)
    student.backbone.float()
    own = CalibratedLearner(student, InversionConfig(), CalibrationConfig(icfil_steps=3))
    sampler = EpisodeSampler(tiny_dataset, n_shot=1, n_query=5)
    alone = evaluate(own, sampler, 2)
    monkeypatch.setattr(vmap, "batches_episodes", lambda _: True)
    assert torch.equal(evaluate(own, sampler, 2).accuracies, alone.accuracies)


episode = partial(random_episode, n_query=3, dtype=torch.float64)


def conv4_learner(size: int, **settings: object) -> MetaLearner:
    """A Conv4 in float64 with scales of both signs."""
    learner, draw = conv_learner(width=6, image_size=size, inner_lr=0.1, **settings), rng(2)
    for layer in learner.backbone.double().modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.data = torch.randn(layer.num_features, generator=draw).double()
            layer.bias.data = 0.3 * torch.randn(layer.num_features, generator=draw).double()
    return learner


@pytest.mark.parametrize(("size", "n_shot", "steps"), [(16, 1, 3), (32, 2, 2), (21, 1, 1), (16, 1, 0)])
def test_the_outer_gradient_is_autograds(size: int, n_shot: int, steps: int) -> None:
    learner, task = conv4_learner(size), episode(n_shot, shape=(3, size, size))
    loss, accuracy = query_loss(learner, task, steps=steps)
    expected, expected_accuracy = learner.query_loss(task, steps=steps)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert accuracy == expected_accuracy
    ours, theirs = (torch.autograd.grad(each, list(learner.params.values())) for each in (loss, expected))
    for name, a, b in zip(learner.params, ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("settings", [{"head": "anil"}, {"second_order": False}, {"learned": True}])
def test_all_else_goes_the_plain_way(settings: dict) -> None:
    learner, task = conv4_learner(16, head=settings.get("head", "maml")), episode(1)
    task.support.requires_grad_(settings.get("learned", False))
    order = {"steps": 2, "second_order": settings.get("second_order", True)}
    wanted = [*learner.params.values(), *([task.support] if task.support.requires_grad else [])]
    ours, theirs = (loss(task, **order)[0] for loss in (partial(query_loss, learner), learner.query_loss))
    for a, b in zip(*(torch.autograd.grad(each, wanted) for each in (ours, theirs)), strict=True):
        assert torch.equal(a, b)

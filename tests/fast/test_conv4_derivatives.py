"""The derivatives by formulas are those of the plain inner loop."""

from functools import partial

import pytest
import torch
from tiny_models import conv_learner, random_episode, rng
from torch import nn

from freelib.fast.conv4_derivatives import query_loss, weight_names
from freelib.meta_learner import MetaLearner
from freelib.models.backbones import build_backbone

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


def test_only_a_conv4_on_batch_statistics_is_written_out() -> None:
    assert weight_names(build_backbone("conv4", width=4)) is None
    assert weight_names(build_backbone("conv4", width=4, batch_stats=True, embeds=True)) is None
    assert weight_names(build_backbone("resnet10", width=4, batch_stats=True)) is None
    assert weight_names(nn.Linear(3, 5)) is None
    assert len(weight_names(build_backbone("conv4", width=4, batch_stats=True)) or []) == 14


@pytest.mark.parametrize("settings", [{"head": "anil"}, {"second_order": False}, {"learned": True}])
def test_all_else_goes_the_plain_way(settings: dict) -> None:
    learner, task = conv4_learner(16, head=settings.get("head", "maml")), episode(1)
    task.support.requires_grad_(settings.get("learned", False))
    order = {"steps": 2, "second_order": settings.get("second_order", True)}
    wanted = [*learner.params.values(), *([task.support] if task.support.requires_grad else [])]
    ours, theirs = (loss(task, **order)[0] for loss in (partial(query_loss, learner), learner.query_loss))
    for a, b in zip(*(torch.autograd.grad(each, wanted) for each in (ours, theirs)), strict=True):
        assert torch.equal(a, b)

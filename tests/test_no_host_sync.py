"""The loops never wait for the device: run on "meta", whose tensors have no values: to read one fails."""

import contextlib
from functools import partial

import pytest
import torch
from tiny_models import conv_learner, random_episode, tiny_round

from freelib import MetaLearner
from freelib.alignment import make_optimizer
from freelib.datasets.episodes import class_major_labels
from freelib.fast import maml_step
from freelib.replay import maml_step as plain_maml_step

DEVICE = "meta"


@pytest.fixture(autouse=True)
def _as_if_a_device(monkeypatch):
    """What a real accelerator has and "meta" lacks: autocast, and Adam in one kernel."""
    monkeypatch.setattr(torch, "autocast", lambda *_args, **_settings: contextlib.nullcontext())
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda params, fused, **settings: adam(params, **settings))


def learner(head: str = "maml", arch: str = "conv4") -> MetaLearner:
    made = conv_learner(head, arch)
    made.backbone.to(DEVICE)
    return made


EPISODE = random_episode(1, 3).to(DEVICE)


def test_a_value_on_this_device_cannot_be_read():
    x = torch.ones(3, device=DEVICE)
    for read in (x.sum().item, partial(bool, x.sum()), x.tolist, x.cpu, x.nonzero, lambda: x[x > 0]):
        with pytest.raises((RuntimeError, NotImplementedError)):
            read()


@pytest.mark.parametrize("kd_heads", ["shared", "per_model"])
@pytest.mark.parametrize("alignment", ["sequential", "summed"])
def test_synthesis_and_alignment_do_not_wait(kd_heads, alignment):
    found = tiny_round(DEVICE, "bfloat16", lambda_bn=0.0, alignment=alignment, kd_heads=kd_heads)
    assert found.device.type == DEVICE


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize(("head", "arch"), [("maml", "conv4"), ("maml", "resnet10"), ("anil", "conv4")])
def test_replay_does_not_wait(head, arch, second_order):
    student = learner(head, arch)
    optimizer = make_optimizer("adam", list(student.params.values()), 1e-3)
    for step in (maml_step, plain_maml_step):
        loss, accuracy = step(student, [EPISODE] * 2, optimizer, steps=2, second_order=second_order)
        assert loss.device.type == accuracy.device.type == DEVICE


@pytest.mark.parametrize("head", ["maml", "anil", "prototypes"])
def test_a_test_episode_does_not_wait(head):
    classifier = learner(head).adapt(EPISODE.support, class_major_labels(5, 1), steps=2)
    assert classifier.predict(EPISODE.query).device.type == DEVICE

"""The loops never wait for the device: run on "meta", whose tensors have no values: to read one fails."""

import contextlib
from functools import partial

import pytest
import torch
from tiny_models import conv_learner, random_episode, rng, tiny_model

from freelib import MetaGenerator, MetaLearner
from freelib.alignment import AlignmentConfig, DistillationHeads, align, distillation_batch, make_optimizer
from freelib.datasets.episodes import class_major_labels
from freelib.fast import maml_step
from freelib.inversion import InversionConfig
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
    models = [tiny_model(i).to(DEVICE) for i in range(2)]
    config = InversionConfig(ngf=2, z_dim=4, images_per_class=2, adapt_steps=2)
    meta_generator = MetaGenerator(config, image_size=16, device=DEVICE, precision="bfloat16")
    student, draw = learner(), rng()
    n_ways = {m.name: m.n_way for m in models} if kd_heads == "per_model" else None
    heads = DistillationHeads(student, n_ways)
    tasks = [meta_generator.adapt(m, partial(heads.logits, model=m), draw) for m in models]
    meta_generator.meta_step()
    assert {task.images.device.type for task in tasks} == {DEVICE}
    settings = AlignmentConfig(alignment=alignment, kd_heads=kd_heads)
    optimizer = make_optimizer("adam", [*student.params.values(), *heads.params.values()], 1e-3)
    loss = align(heads, [distillation_batch(task, draw) for task in tasks], settings, optimizer, draw)
    assert loss.device.type == DEVICE


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

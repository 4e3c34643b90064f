"""The generators and the meta-step, against plain autograd loops."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny_models import PlainAdam, conv_learner, flat, rng, tiny_model, trained_pool
from torch import nn

from freelib import fast
from freelib.generator import Generator, MetaGenerator, ScratchGenerator, UpsampleConv, some_classes, synthesise_round
from freelib.inversion import InversionConfig
from freelib.memory import TaskMemory
from freelib.models.transform import random_crop_flip

TINY = InversionConfig(ngf=2, z_dim=4, images_per_class=2, adapt_steps=3, generator_lr=0.02, z_lr=0.05, meta_lr=0.01)
SCRATCH = InversionConfig(images_per_class=4, z_dim=16, ngf=8, generator_lr=0.01, z_lr=0.01, augment_padding=1)


def meta_generator(config: InversionConfig = TINY, seed: int = 0) -> MetaGenerator:
    return MetaGenerator(config, image_size=16, seed=seed)


def scratch_generator(steps: int, image_size: int = 16) -> ScratchGenerator:
    return ScratchGenerator(SCRATCH, steps=steps, image_size=image_size)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_upsample_conv_is_interpolation_and_convolution(layout):
    layer = UpsampleConv(3, 2).double()
    x = torch.randn(2, 3, 5, 4, generator=rng(), dtype=torch.float64).contiguous(memory_format=layout)
    inputs = [x.requires_grad_(), layer.weight]
    out = layer(x)
    expected = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), layer.weight, padding=1)
    torch.testing.assert_close(out, expected)
    weights = torch.randn(out.shape, generator=rng(1), dtype=torch.float64)
    ours = torch.autograd.grad((out * weights).sum(), inputs)
    theirs = torch.autograd.grad((expected * weights).sum(), inputs)
    torch.testing.assert_close(ours, theirs)


def test_the_generator_is_the_releases_network(double):
    generator = Generator(8, 3, z_dim=5, ngf=2, seed=1)
    z = torch.randn(6, 5, generator=rng())

    def norm(x, layer):
        return F.batch_norm(x, None, None, layer.weight, layer.bias, training=True)

    x = norm(F.linear(z, generator.project.weight, generator.project.bias).view(6, 4, 2, 2), generator.norm0)
    for conv, layer in ((generator.conv1, generator.norm1), (generator.conv2, generator.norm2)):
        x = F.interpolate(x, scale_factor=2)
        x = F.leaky_relu(norm(F.conv2d(x, conv.weight, padding=1), layer), 0.2)
    x = torch.sigmoid(F.conv2d(x, generator.to_pixels.weight, generator.to_pixels.bias, padding=1))
    torch.testing.assert_close(generator(z), x)
    assert x.shape == (6, 3, 8, 8)
    before = torch.get_rng_state()
    a, b = (Generator(8, ngf=2, z_dim=3, seed=2) for _ in range(2))
    assert torch.equal(flat(a.parameters()), flat(b.parameters()))
    assert torch.equal(torch.get_rng_state(), before)


def by_hand(theta: nn.Module, model, student, draw: torch.Generator, config: InversionConfig):
    """The inner loop as the paper says it: the last step's images and gradient, and all losses."""
    copy_ = copy.deepcopy(theta)
    labels = torch.arange(5).repeat_interleave(config.images_per_class)
    z = torch.randn(len(labels), config.z_dim, generator=draw)
    adam = PlainAdam(config.generator_lr, (0.5, 0.999))
    adam_z = PlainAdam(config.z_lr, (0.5, 0.999))
    losses = []
    for step in range(config.adapt_steps):
        z.requires_grad_()
        parameters = list(copy_.parameters())
        images = copy_(z)
        seen = random_crop_flip(images, draw)
        logits = model.module((seen - torch.tensor(model.mean).view(3, 1, 1)) / torch.tensor(model.std).view(3, 1, 1))
        loss = -logits.log_softmax(1)[torch.arange(len(labels)), labels].mean()
        if student is not None:
            answers = student(seen)
            kl = F.kl_div(answers.log_softmax(1), logits.log_softmax(1), log_target=True, reduction="none").sum(1)
            loss = loss - (kl * (logits.argmax(1) == answers.argmax(1))).mean()
        *gradients, z_gradient = torch.autograd.grad(loss, [*parameters, z])
        losses.append(loss.detach())
        if step < config.adapt_steps - 1:
            for parameter, value in zip(parameters, adam.step(parameters, gradients), strict=True):
                parameter.data = value
            (z,) = adam_z.step([z], [z_gradient])
    return images.detach(), gradients, torch.stack(losses)


@pytest.mark.parametrize("with_student", [False, True])
def test_meta_step_is_first_order_maml_by_hand(double, with_student):
    models = [tiny_model(i) for i in range(3)]
    student = tiny_model(9) if with_student else None
    ours = meta_generator()
    theta = copy.deepcopy(ours.generator)
    start = [p.detach().clone() for p in theta.parameters()]
    draw, redraw = rng(3), rng(3)

    tasks = [ours.adapt(model, student, draw) for model in models]
    total = [torch.zeros_like(p) for p in start]
    for task, model in zip(tasks, models, strict=True):
        images, gradients, losses = by_hand(theta, model, student, redraw, TINY)
        torch.testing.assert_close(task.images, images)
        torch.testing.assert_close(task.losses, losses)
        total = [t + g for t, g in zip(total, gradients, strict=True)]
    torch.testing.assert_close([p.grad for p in ours.generator.parameters()], total)
    assert torch.equal(flat(ours.generator.parameters()), flat(start))  # adapting leaves θ_G alone

    ours.meta_step()
    torch.testing.assert_close(
        [p.detach() for p in ours.generator.parameters()], PlainAdam(TINY.meta_lr).step(start, total)
    )
    assert all(p.grad is None for p in ours.generator.parameters())


@pytest.mark.parametrize("with_students", [False, True])
def test_a_round_is_a_task_of_each_model_and_one_meta_step(with_students):
    models = [tiny_model(i) for i in range(3)]
    students = [tiny_model(9), None, tiny_model(8)] if with_students else None
    whole, parts = meta_generator(), meta_generator()
    draw, redraw = rng(3), rng(3)

    tasks = synthesise_round(whole, models, draw, students)

    expected = [
        parts.adapt(model, student, redraw) for model, student in zip(models, students or [None] * 3, strict=True)
    ]
    parts.meta_step()
    assert [task.model for task in tasks] == models
    assert all(torch.equal(a.images, b.images) for a, b in zip(tasks, expected, strict=True))
    assert torch.equal(flat(whole.generator.parameters()), flat(parts.generator.parameters()))
    assert all(p.grad is None for p in whole.generator.parameters())
    with pytest.raises(ValueError, match="zip"):
        synthesise_round(whole, models, draw, [None])


def test_a_synthesised_task():
    ours, model = meta_generator(), tiny_model()
    task = ours.adapt(model, None, rng())
    assert task.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert task.images.shape == (10, 3, 16, 16)
    assert 0 <= float(task.images.min()) < float(task.images.max()) <= 1
    assert not task.images.requires_grad
    assert task.model is model
    assert task.losses.shape == (3,)
    hits = (task.teacher_logits.argmax(1) == task.labels).sum()
    assert float(task.teacher_accuracy) == pytest.approx(int(hits) / 10)
    ours, model = meta_generator(), tiny_model()
    ours.adapt(model, None, rng())
    ours.adapt(model, None, rng(), steps=7)
    assert ours.iterations == ours.state_dict()["passes"] == 10
    scratch = scratch_generator(steps=2)
    scratch.adapt(model, None, rng())
    assert scratch.iterations == 2
    for one in (
        lambda: ours.adapt(model, None, rng(), steps=0),
        lambda: scratch_generator(0).adapt(model, None, rng()),
    ):
        with pytest.raises(ValueError, match="at least 1 step, got 0"):
            one()
    student, model = conv_learner(), tiny_model()

    def state():
        return flat([*model.module.state_dict().values(), *student.params.values()])

    before = state()
    meta_generator().adapt(model, student, rng())
    assert torch.equal(state(), before)
    assert all(p.grad is None for p in [*model.module.parameters(), *student.params.values()])


@pytest.mark.parametrize(
    ("classes", "size", "most"), [(5, 224, 5), (50, 32, 50), (51, 32, 50), (1000, 32, 50), (1000, 84, 7)]
)
def test_a_model_of_many_classes_takes_the_memory_of_one_of_fifty(classes, size, most):
    found = [some_classes(torch.arange(classes), 20, size, rng(i)).tolist() for i in (0, 0, 1)]
    assert found[0] == found[1] == sorted(set(found[0]))
    assert len(found[0]) == most
    assert (found[2] == found[0]) == (classes == most)


def test_what_a_task_takes_goes_by_the_size_that_is_generated():
    large = MetaGenerator(replace(TINY, images_per_class=20), image_size=64)
    assert len(large.labels(tiny_model(n_way=60, image_size=16), rng()).unique()) == 12


def test_of_many_classes_a_task_has_some_in_threads_too_and_the_memory_recalls_as_many(monkeypatch):
    monkeypatch.setattr("freelib.generator.PIXELS_AT_ONCE", 0)  # so 5 classes
    models, found = [tiny_model(i, n_way=9) for i in range(2)], []
    for threads in (1, 2):
        draw = rng(7)
        with fast.episode_threads(threads):
            found.append(synthesise_round(meta_generator(), models, draw, adapt_each=fast.adapt_each))
        found[-1].append(draw.get_state())
    one, other, _ = found[0]
    assert all(torch.equal(a.images, b.images) for a, b in zip(found[0][:2], found[1][:2], strict=True))
    assert torch.equal(found[0][2], found[1][2])
    assert one.images.shape == (10, 3, 16, 16)
    assert one.teacher_logits.shape == (10, 9)
    assert one.labels.tolist() != other.labels.tolist()
    memory = TaskMemory(image_size=16)
    assert memory.recall(models[0], rng()) is None
    memory.add([one])
    assert torch.equal(memory.recall(models[0], rng()).labels, one.labels)
    memory.add(synthesise_round(meta_generator(), models, rng(8)))
    assert len(memory.recall(models[0], rng()).labels) == 10


def test_adapting_lowers_the_loss_and_leaves_no_trace_where_gradients_are_discarded():
    config = InversionConfig(ngf=8, z_dim=16, images_per_class=4, adapt_steps=40, augment_padding=0, augment_flip=False)
    losses = meta_generator(config).adapt(tiny_model(), None, rng()).losses
    assert float(losses[-1]) < float(losses[10]) < float(losses[0]) - 0.1
    a, b = meta_generator(), meta_generator()
    a.adapt(tiny_model(5), None, rng(9))
    a.discard_gradients()
    for one in (a, b):
        one.adapt(tiny_model(), None, rng())
        one.meta_step()
    assert torch.equal(flat(a.generator.parameters()), flat(b.generator.parameters()))


def test_augmentation_precision_and_size():
    model = tiny_model()
    task = meta_generator(replace(TINY, augment_padding=0, augment_flip=False)).adapt(model, None, rng())
    torch.testing.assert_close(model(task.images), task.teacher_logits)
    full = meta_generator().adapt(tiny_model(), None, rng())
    half = MetaGenerator(TINY, image_size=16, precision="bfloat16").adapt(tiny_model(), None, rng())
    assert half.images.dtype == half.losses.dtype == torch.float32
    torch.testing.assert_close(half.losses, full.losses, atol=0.1, rtol=0.1)
    assert not torch.equal(half.images, full.images)
    large = MetaGenerator(TINY, image_size=32)
    for size in (16, 24, 32, 48):
        task = large.adapt(tiny_model(image_size=size), None, rng())
        assert task.images.shape[-1] == min(size, 32)
        assert torch.isfinite(task.losses).all()
    assert all(parameter.grad.abs().sum() > 0 for parameter in large.generator.parameters())
    model, sizes = tiny_model(image_size=18), (18, 20)  # no multiple of 4, and the next one
    task, expected = (MetaGenerator(TINY, image_size=size).adapt(model, None, rng()) for size in sizes)
    assert task.images.shape == (10, 3, 18, 18)
    assert torch.equal(task.images, expected.images)


def test_from_scratch_is_adaptation_from_weights_drawn_from_the_same_random_numbers():
    model, draw, scratch = tiny_model(), rng(3), scratch_generator(steps=3)
    task = scratch.adapt(model, None, rng(3))
    seed = int(torch.randint(2**31 - 1, (), generator=draw))
    by_hand = MetaGenerator(SCRATCH, image_size=16, seed=seed).adapt(model, None, draw, steps=3)
    assert torch.equal(task.images, by_hand.images)
    assert torch.equal(task.losses, by_hand.losses)
    draw, scratch = rng(0), scratch_generator(steps=1, image_size=8)
    first, second = (scratch.adapt(tiny_model(), None, draw) for _ in range(2))
    assert first.images.shape == second.images.shape == (20, 3, 8, 8)
    assert (first.images - second.images).abs().mean() > 0.01


def test_from_scratch_it_finds_images_of_the_wanted_classes_and_tells_of_every_step(tiny_dataset):
    task = scratch_generator(steps=60).adapt(trained_pool(tiny_dataset)[0], None, rng(0))
    assert task.losses.shape == task.teacher_accuracies.shape == (60,)
    assert task.losses[-1] < 0.5 * task.losses[0]
    assert task.teacher_accuracies[0] < 0.5
    assert task.teacher_accuracies[-1] == task.teacher_accuracy > 0.9
    assert task.labels.tolist() == [c for c in range(5) for _ in range(4)]

"""BelL and its divergence against hand-written loops; against Lemma 1 see `studies/test_lemma.py`."""

import math

import pytest
import torch
from tiny_models import PlainAdam, flat, random_batch, rng, smooth_learner, task_of, tiny_model

from freelib.alignment import (
    AlignmentConfig,
    DistillationHeads,
    align,
    aligned_displacement,
    distillation_batch,
    distillation_loss,
    gradient_agreement,
    make_optimizer,
    outer_optimizer,
    summed_gradient,
)
from freelib.distillation import at_least_float32, kl_divergence, release_divergence

SGD = {"align_optimizer": "sgd"}


def batches(n: int = 3):
    return [random_batch(seed) for seed in range(n)]


def loss_and_gradients(learner, batch):
    """L_KD(θ; task) and its gradients."""
    loss = distillation_loss(DistillationHeads(learner), learner.params, batch)
    return float(loss.detach()), torch.autograd.grad(loss, list(learner.params.values()))


def gradient(learner, batch) -> torch.Tensor:
    """∇L_KD(θ; task) as one vector."""
    return flat(loss_and_gradients(learner, batch)[1])


def displacement(learner, tasks, config):
    return aligned_displacement(DistillationHeads(learner), tasks, config)


def outer_step(learner, tasks, config, kind, rate, draw) -> None:
    optimizer = make_optimizer(kind, list(learner.params.values()), rate)
    align(DistillationHeads(learner), tasks, config, optimizer, draw)


def test_plain_steps_by_hand_in_a_drawn_order():
    learner, moving, tasks, losses = smooth_learner(), smooth_learner(), batches(), []
    for task in tasks:
        loss, steps = loss_and_gradients(moving, task)
        losses.append(loss)
        for parameter, step in zip(moving.params.values(), steps, strict=True):
            parameter.data -= 0.1 * step
    moved, loss = displacement(learner, tasks, AlignmentConfig(align_inner_lr=0.1, **SGD))
    torch.testing.assert_close(flat(moved.values()), flat(learner.params.values()) - flat(moving.params.values()))
    assert float(loss) == pytest.approx(sum(losses) / 3)
    learner, tasks = smooth_learner(), batches(1)
    config = AlignmentConfig(align_inner_lr=0.1, align_lr=1.0, **SGD)
    expected = flat(learner.params.values()) - 0.1 * gradient(learner, tasks[0])
    outer_step(learner, tasks, config, "sgd", 1.0, rng())
    torch.testing.assert_close(flat(learner.params.values()), expected)
    ends = set()
    for seed in range(30):
        learner = smooth_learner()
        outer_step(learner, batches(), AlignmentConfig(align_inner_lr=0.3, **SGD), "sgd", 1.0, rng(seed))
        ends.add(tuple(flat(learner.params.values()).tolist()))
    assert len(ends) == 6


def test_adam_inside_and_outside_by_hand():
    tasks = batches(2)
    learner, moving = smooth_learner(), smooth_learner()
    start = [p.detach().clone() for p in learner.params.values()]
    inner = PlainAdam(0.01)
    for task in tasks:
        parameters = list(moving.params.values())
        new = inner.step(parameters, loss_and_gradients(moving, task)[1])
        for parameter, value in zip(parameters, new, strict=True):
            parameter.data = value
    config = AlignmentConfig(align_inner_lr=0.01, align_lr=0.02)
    expected = [a - b.detach() for a, b in zip(start, moving.params.values(), strict=True)]
    torch.testing.assert_close(list(displacement(learner, tasks, config)[0].values()), expected)

    # the outer Adam takes θ − θ̃ as its gradient; find the order that `align` draws
    order = torch.randperm(2, generator=rng(1)).tolist()
    moved = displacement(learner, [tasks[i] for i in order], config)[0]
    outer_step(learner, tasks, config, "adam", 0.02, rng(1))
    torch.testing.assert_close(
        [p.detach() for p in learner.params.values()], PlainAdam(0.02).step(start, list(moved.values()))
    )
    assert all(p.grad is None for p in learner.params.values())
    learner, tasks = smooth_learner(), batches(2)
    config = AlignmentConfig(align_inner_lr=0.1, align_lr=0.02, align_optimizer="sgd_inside")
    plain = AlignmentConfig(align_inner_lr=0.1, align_lr=0.02, **SGD)
    moved, expected = (displacement(learner, tasks, each)[0] for each in (config, plain))
    torch.testing.assert_close(moved, expected, atol=0, rtol=0)
    outer = [outer_optimizer(each, list(learner.params.values())) for each in (config, plain)]
    assert [type(optimizer).__name__ for optimizer in outer] == ["Adam", "SGD"]
    assert [optimizer.param_groups[0]["lr"] for optimizer in outer] == [0.02, 0.02]


def test_joint_gradients_are_their_sum_and_agree_as_by_hand():
    learner, tasks = smooth_learner(), batches()
    a, b, c = (gradient(learner, task) for task in tasks)
    product, cosine = gradient_agreement(DistillationHeads(learner), tasks)
    assert float(product) == pytest.approx(float(a @ b + a @ c + b @ c) / 3)
    cosines = [float(x @ y / (x.norm() * y.norm())) for x, y in ((a, b), (a, c), (b, c))]
    assert float(cosine) == pytest.approx(sum(cosines) / 3)
    product, cosine = gradient_agreement(DistillationHeads(learner), [tasks[0], tasks[0]])
    assert float(product) == pytest.approx(float(a @ a))
    assert float(cosine) == pytest.approx(1)
    with pytest.raises(ValueError, match="at least two of them, got 1"):
        gradient_agreement(DistillationHeads(learner), tasks[:1])
    expected = sum(gradient(learner, task) for task in tasks)
    total, loss = summed_gradient(DistillationHeads(learner), tasks, AlignmentConfig())
    torch.testing.assert_close(flat(total.values()), expected)
    assert float(loss) == pytest.approx(sum(loss_and_gradients(learner, task)[0] for task in tasks) / 3)
    start = flat(learner.params.values())
    config = AlignmentConfig(alignment="summed", align_lr=0.05, **SGD)
    outer_step(learner, tasks, config, "sgd", 0.05, rng())
    torch.testing.assert_close(flat(learner.params.values()), start - 0.05 * expected)


def test_the_loss_is_kl_or_the_releases_form():
    learner, (task,) = smooth_learner(), batches(1)
    params = {name: p.detach() for name, p in learner.params.items()}
    p = task.teacher_logits.softmax(1)
    q = learner.forward(params, task.images).softmax(1)
    kl = (p * (p.log() - q.log())).sum(1).mean()
    assert float(distillation_loss(DistillationHeads(learner), params, task)) == pytest.approx(float(kl))
    release = (p * (p.log() - q)).sum(1).mean()
    found = distillation_loss(DistillationHeads(learner), params, task, AlignmentConfig(distillation="release"))
    assert float(found) == pytest.approx(float(release))
    p = torch.tensor([[0.25, 0.75]])
    expected = 0.25 * (math.log(0.25) - 0.25) + 0.75 * (math.log(0.75) - 0.75)
    assert float(release_divergence(p.log(), p.log())) == pytest.approx(expected, abs=1e-6)
    assert expected < -1
    teacher, student = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[0.5, 0.5]]).log()
    assert float(kl_divergence(teacher, student)) == pytest.approx(
        0.25 * math.log(0.5) + 0.75 * math.log(1.5), abs=1e-7
    )
    # the other way round it is another number: KL(student ‖ teacher)
    assert float(kl_divergence(student, teacher)) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-7)
    logits = torch.randn(50, 5, generator=rng(), dtype=torch.float64)
    assert kl_divergence(logits, logits + 3.0).abs().max() < 1e-12  # logits count up to a constant
    other = torch.randn(50, 5, generator=rng(1), dtype=torch.float64)
    assert kl_divergence(logits, other).min() > 1e-3
    sure = torch.tensor([[1000.0, -1000.0]])
    assert float(kl_divergence(sure, sure)) == 0
    assert float(kl_divergence(sure, -sure)) == pytest.approx(2000.0)
    kinds = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
    raised = [at_least_float32(torch.ones(1, dtype=kind)).dtype for kind in kinds]
    assert raised == [torch.float32, torch.float32, torch.float32, torch.float64]


def test_the_teacher_answers_for_the_images_as_the_student_sees_them():
    model = tiny_model()
    images = torch.rand(5, 3, 16, 16, generator=rng())
    task = task_of(model, images, torch.arange(5))
    plain = distillation_batch(task, rng(), padding=0, flip=False)
    assert torch.equal(plain.images, images)
    torch.testing.assert_close(plain.teacher_logits, model(images))
    cropped = distillation_batch(task, rng(), padding=4)
    assert not torch.equal(cropped.images, images)
    torch.testing.assert_close(cropped.teacher_logits, model(cropped.images))
    assert not cropped.teacher_logits.requires_grad

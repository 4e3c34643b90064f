"""Adaptation and its gradients, against plain autograd and finite differences."""

import pytest
import torch
import torch.nn.functional as F
from tiny_models import conv_learner, flat, random_episode, rng, smooth_learner
from torch.autograd import gradcheck

from freelib.datasets.episodes import Episode
from freelib.meta_learner import MetaLearner, prototype_logits

TASK = random_episode(2, 4, n_way=3, seed=3, shape=(1, 2, 2), dtype=torch.float64)
LABELS = torch.arange(5).repeat(2)


def images(n: int = 10, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, 16, 16, generator=rng(seed))


def outer_gradient(learner: MetaLearner, task: Episode, **settings) -> torch.Tensor:
    loss, _ = learner.query_loss(task, **settings)
    return flat(torch.autograd.grad(loss, list(learner.params.values())))


@pytest.mark.parametrize("head", ["maml", "anil"])
def test_second_order_outer_gradient_by_finite_differences(head):
    learner = smooth_learner(head, inner_lr=0.6)
    weights = list(learner.params.values())
    assert gradcheck(lambda *_: learner.query_loss(TASK, steps=3)[0], weights, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("head", ["maml", "anil"])
def test_first_order_outer_gradient_is_the_gradient_at_the_adapted_weights(head):
    learner, task = smooth_learner(head, inner_lr=0.6), TASK
    ours = outer_gradient(learner, task, steps=3, second_order=False)
    moved = smooth_learner(head)
    for _ in range(3):
        parameters = list((moved.backbone if head == "maml" else moved.backbone.head).parameters())
        loss = F.cross_entropy(moved.backbone(task.support), task.support_labels)
        for parameter, step in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.data -= 0.6 * step
    loss = F.cross_entropy(moved.backbone(task.query), task.query_labels)
    expected = flat(torch.autograd.grad(loss, list(moved.params.values())))
    torch.testing.assert_close(ours, expected)
    assert not torch.allclose(ours, outer_gradient(learner, task, steps=3, second_order=True))
    before = flat(learner.params.values())
    plain = learner.inner_loop(task.support, task.support_labels, steps=4)
    graph = learner.inner_loop(task.support, task.support_labels, steps=4, second_order=True)
    torch.testing.assert_close(flat(plain.values()), flat(graph.values()))
    assert torch.equal(flat(learner.params.values()), before)
    moved = {name for name in plain if not torch.equal(plain[name], learner.params[name])}
    assert moved == (set(learner.params) if head == "maml" else {"head.weight", "head.bias"})


def test_query_loss_gives_loss_and_accuracy_and_prototypes_learn_through_their_features():
    learner, task = smooth_learner(), TASK
    adapted = learner.inner_loop(task.support, task.support_labels, steps=2)
    logits = learner.forward(adapted, task.query)
    loss, accuracy = learner.query_loss(task, steps=2)
    torch.testing.assert_close(loss.detach(), F.cross_entropy(logits, task.query_labels).detach())
    assert float(accuracy) == pytest.approx(int((logits.argmax(1) == task.query_labels).sum()) / 12)
    learner, task = smooth_learner("prototypes"), TASK
    features = learner.backbone.features(torch.cat([task.support, task.query]))
    logits = prototype_logits(features[:6], task.support_labels, features[6:])
    expected = F.cross_entropy(logits, task.query_labels)
    loss, _ = learner.query_loss(task, steps=0)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert learner.backbone.encoder.weight.grad.abs().sum() > 0
    assert learner.backbone.head.weight.grad is None


@pytest.mark.parametrize("settings", [{}, {"precision": "bfloat16"}, {"centre": "episode"}])
def test_prototypes_are_trained_as_they_are_tested(settings):
    """Support and queries each with their own batch statistics, at the learner's precision."""
    learner, y = conv_learner("prototypes", **settings), torch.arange(5)
    task = Episode(images(5), y, images(20, seed=1), y.repeat(4))
    logits = learner.adapt(task.support, y).logits(task.query)
    loss, accuracy = learner.query_loss(task, steps=0)
    torch.testing.assert_close(loss.detach(), F.cross_entropy(logits, task.query_labels))
    assert float(accuracy) == pytest.approx(float((logits.argmax(1) == task.query_labels).float().mean()))


SUPPORT = torch.tensor([[3.0, 4.0], [0.0, 2.0], [5.0, 0.0]])
SUPPORT_LABELS = torch.tensor([0, 0, 1])


def test_prototypes_by_hand():
    # unit features (0.6, 0.8), (0, 1), (1, 0); class means (0.3, 0.9) and (1, 0), made unit again
    query = torch.tensor([[0.0, 7.0], [2.0, 0.0]])
    length = (0.3**2 + 0.9**2) ** 0.5
    expected = 10 * torch.tensor([[0.9 / length, 0.0], [0.3 / length, 1.0]])
    torch.testing.assert_close(prototype_logits(SUPPORT, SUPPORT_LABELS, query), expected)
    torch.testing.assert_close(prototype_logits(SUPPORT, SUPPORT_LABELS, query, scale=1), expected / 10)
    y = torch.arange(10)
    assert torch.equal(conv_learner("prototypes").adapt(images(), y).predict(images()), y)


@pytest.mark.parametrize("centre", ["support", "episode"])
def test_prototypes_with_the_mean_taken_off(centre):
    query = torch.tensor([[0.0, 7.0], [2.0, -1.0]])
    mean = SUPPORT.mean(0) if centre == "support" else (SUPPORT.sum(0) + query.sum(0)) / 5
    expected = prototype_logits(SUPPORT - mean, SUPPORT_LABELS, query - mean)
    torch.testing.assert_close(prototype_logits(SUPPORT, SUPPORT_LABELS, query, centre=centre), expected)
    assert not torch.allclose(expected, prototype_logits(SUPPORT, SUPPORT_LABELS, query))


@pytest.mark.parametrize("head", ["maml", "anil", "prototypes"])
def test_an_adapted_classifier_learns_its_support_set(head):
    learner = conv_learner(head, width=16, inner_lr=0.5, inner_steps=40)
    y, palette = LABELS, torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1]])
    x = 0.2 * images() + 0.8 * palette[y][:, :, None, None]
    before = flat(learner.params.values())
    classifier = learner.adapt(x, y)
    assert torch.equal(classifier.predict(x), y)
    torch.testing.assert_close(classifier.predict_proba(x), classifier.logits(x).softmax(1))
    assert not classifier.logits(x).requires_grad
    assert torch.equal(flat(learner.params.values()), before)
    assert all(p.grad is None for p in learner.params.values())


def test_adapt_is_gradient_descent_on_the_support_set():
    learner = conv_learner(inner_lr=0.1, inner_steps=2)
    x, y, query = images(), LABELS, images(6, seed=1)
    moved = learner.inner_loop((x - 0.5) / 0.25, y, steps=2)
    with torch.no_grad():
        torch.testing.assert_close(learner.adapt(x, y).logits(query), learner.forward(moved, (query - 0.5) / 0.25))
        torch.testing.assert_close(learner.adapt(x, y, steps=0).logits(query), learner(query))
    learner, x = conv_learner(), images(60)
    classifier = learner.adapt(x[:3], torch.arange(3))
    full = learner.forward(classifier.params, learner.prepare(x))
    assert torch.equal(classifier.logits(x), full[:, :3].detach())
    big = F.interpolate(images(), (32, 32))
    assert conv_learner().adapt(big, LABELS).logits(big).shape == (10, 5)
    learner = conv_learner()
    new = {name: torch.full_like(p, 0.5) for name, p in learner.params.items()}
    learner.load_params(new)
    assert (flat(learner.params.values()) == 0.5).all()
    assert all(p.requires_grad for p in learner.params.values())


@pytest.mark.parametrize("head", ["maml", "anil", "prototypes"])
def test_adapting_works_where_gradients_are_off_and_on_bytes(head):
    learner = conv_learner(head)
    pixels = (images() * 255).round().to(torch.uint8)
    a = learner.adapt(pixels, LABELS).logits(pixels)
    b = learner.adapt(pixels.float() / 255, LABELS).logits(pixels.double() / 255)
    torch.testing.assert_close(a, b)
    expected = learner.adapt(images(), LABELS).logits(images())
    with torch.no_grad():
        assert torch.equal(learner.adapt(images(), LABELS).logits(images()), expected)
    with torch.inference_mode():  # images and labels that are made here can't be saved for a gradient
        found = learner.adapt(images(), torch.arange(5).repeat(2)).logits(images())
        pixels = (images() * 255).round().to(torch.uint8)
        learner.adapt(pixels, torch.arange(5).repeat(2)).predict(pixels)
    assert torch.equal(found, expected)

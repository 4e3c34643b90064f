"""BiDf-MKD, and zero-order gradients from objects that can only be called."""

import pytest
import torch
import torch.nn.functional as F
from small_methods import Api, assert_same_run, boxed, small, trainer
from tiny_models import SmoothNet, random_batch, rng, smooth_learner, tiny_pool, trained_pool
from torch import Tensor, nn
from torch.autograd import gradcheck

from freelib.distillation import kl_divergence
from freelib.generator import ScratchGenerator
from freelib.methods.bidf_mkd import distilled_params, frozen_student
from freelib.methods.black_box import ZeroOrder, black_box_model

SUPPORT, QUERY = random_batch(0), random_batch(1)


def query_loss(learner, params, query) -> Tensor:
    return kl_divergence(query.teacher_logits, learner.forward(params, query.images)).mean()


def test_an_inner_step_goes_down_the_divergence_from_the_teacher():
    learner = smooth_learner()
    adapted = distilled_params(learner, SUPPORT, small("bidf_mkd", distill_steps=1, distill_lr=0.1))
    slopes = torch.autograd.grad(query_loss(learner, learner.params, SUPPORT), list(learner.params.values()))
    for (name, parameter), slope in zip(learner.params.items(), slopes, strict=True):
        assert torch.allclose(adapted[name], parameter - 0.1 * slope, atol=1e-8)
    adapted = distilled_params(learner, SUPPORT, small("bidf_mkd"))
    images = SUPPORT.images.clone().requires_grad_()
    logits = frozen_student(learner, adapted)(images)
    assert torch.equal(logits, learner.forward(adapted, images))
    logits.sum().backward()
    assert images.grad.abs().sum() > 0
    assert all(p.grad is None for p in learner.params.values())


def test_the_outer_gradient_goes_through_the_inner_steps():
    learner, config = smooth_learner(), small("bidf_mkd", distill_steps=3, distill_lr=0.5)
    weights = list(learner.params.values())
    assert gradcheck(lambda *_: query_loss(learner, distilled_params(learner, SUPPORT, config), QUERY), weights)
    learner = smooth_learner()
    config = small("bidf_mkd", distill_steps=3, distill_lr=0.5, second_order=False)
    adapted = distilled_params(learner, SUPPORT, config)
    query_loss(learner, adapted, QUERY).backward()
    leaves = {name: p.detach().requires_grad_() for name, p in adapted.items()}
    expected = torch.autograd.grad(query_loss(learner, leaves, QUERY), list(leaves.values()))
    for parameter, gradient in zip(learner.params.values(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient)


def test_queries_seek_the_boundary_from_the_batch_on_that_is_set(monkeypatch):
    adapt, seen = ScratchGenerator.adapt, []

    def watch(self, model, student, draw):
        seen.append(student is not None)
        return adapt(self, model, student, draw)

    monkeypatch.setattr(ScratchGenerator, "adapt", watch)
    # batches: 1 of distillation and 2 of replay in the first round
    log = trainer("bidf_mkd", replay_patience=0, adversarial_from=3)().log
    assert seen == [False, False] + 2 * [False, True]
    assert log.iterations == 3 * 2 * 2
    assert log.history["replay_batches"] == [2, 2, 2]
    assert set(log.seconds) == {"recovery", "distillation", "replay"}


def test_from_one_model_it_learns_to_be_distilled_in_few_steps(tiny_dataset):
    settings = {"width": 8, "ngf": 8, "z_dim": 16, "adapt_steps": 4, "distill_steps": 2, "images_per_class": 5}
    settings |= {"rounds": 12, "outer_lr": 0.01, "distill_lr": 0.1, "replay_scope": "none"}
    history = trainer("bidf_mkd", trained_pool(tiny_dataset)[:1], **settings)().log.history
    loss = torch.tensor(history["distillation_loss"])
    assert loss[-4:].mean() < 0.7 * loss[:2].mean()
    assert "replay_batches" not in history


def test_with_black_boxes_it_learns_from_objects_that_can_only_be_called(tiny_dataset):
    pool, apis = boxed(tiny_pool(4))
    train = trainer("bidf_mkd", pool, rounds=2, black_box=True, directions=6)
    first = train()
    # a set takes 2 steps of 1 + 6 calls and one call for the student's targets; a round makes two sets
    assert sum(api.calls for api in apis) == 2 * 2 * (2 * (1 + 6) + 1)
    assert first.log.history["images_asked"] == [2 * 20 * (2 * (1 + 6) + 1)] * 2
    assert_same_run(train(), first)
    settings = {"rounds": 1, "adapt_steps": 40, "ngf": 8, "z_dim": 16, "images_per_class": 5}
    settings |= {"black_box": True, "directions": 20, "replay_scope": "none"}
    history = trainer("bidf_mkd", trained_pool(tiny_dataset), **settings)().log.history
    assert history["teacher_agreement"][0] > 0.5  # 0.2 is chance


IMAGES = torch.rand(5, 1, 2, 2, generator=rng(1))


def called(module: nn.Module, *, image_size: int = 2, channels: int = 1, **settings: float):
    about = {"class_names": ["a", "b", "c"], "image_size": image_size, "channels": channels}
    return black_box_model(Api(module), rng=rng(0), **about, **settings)


def gradient(model, images: Tensor) -> Tensor:
    """Of a cross-entropy with respect to the images."""
    images, labels = images.clone().requires_grad_(), torch.arange(len(images)) % 3
    return torch.autograd.grad(F.cross_entropy(model(images), labels), images)[0]


def test_with_many_directions_the_estimate_points_along_the_gradient_and_is_as_long():
    module, images = SmoothNet(pixels=48, hidden=16), torch.rand(6, 3, 4, 4, generator=rng(1))
    true = gradient(module, images)
    estimate = gradient(called(module, image_size=4, channels=3, directions=2000), images)
    cosines = F.cosine_similarity(true.flatten(1), estimate.flatten(1))
    assert cosines.min() > 0.9  # (q / (q + d))^½ = 0.99 is what 2,000 directions in 48 dimensions promise
    assert (estimate.norm() / true.norm()).item() == pytest.approx(1, abs=0.1)


def test_on_a_linear_answer_the_estimate_is_unbiased():
    weight = torch.randn(4, 3, generator=rng(2), dtype=torch.float64)
    images = torch.rand(1, 1, 2, 2, generator=rng(3), dtype=torch.float64).requires_grad_()
    wanted = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)

    def estimate(directions: int, seed: int) -> Tensor:
        answer = ZeroOrder.apply(images, lambda x: x.flatten(1) @ weight, directions, 0.005, rng(seed))
        return torch.autograd.grad(answer, images, wanted)[0].flatten()

    single = torch.stack([estimate(1, seed) for seed in range(4000)])
    error = single.std(0) / len(single) ** 0.5
    assert ((single.mean(0) - weight @ wanted[0]).abs() < 4 * error).all()
    # and more directions take the spread down as 1/√q
    many = torch.stack([estimate(16, seed) for seed in range(200)])
    assert (many.std(0) / single.std(0)).mean().item() == pytest.approx(1 / 4, rel=0.15)


def test_the_answers_are_the_models_own_and_every_image_asked_is_counted():
    module, images = SmoothNet(), IMAGES.clone().requires_grad_()
    model = called(module, directions=7)
    logits = model(images)
    assert torch.equal(logits, module(images))
    assert model.module.images_asked == 5
    logits.sum().backward()
    assert model.module.images_asked == 5 + 7 * 5
    assert list(model.module.parameters()) == []
    assert model.classes == (("", "a"), ("", "b"), ("", "c"))
    module = SmoothNet()
    first, second = (gradient(called(module, directions=3), IMAGES) for _ in range(2))
    assert torch.equal(first, second)

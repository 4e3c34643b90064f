"""BiDf-MKD: both levels of distillation by hand, black boxes, and the whole on a tiny pool."""

from __future__ import annotations

import pytest
import torch
from small_methods import assert_same_run, small, trainer
from tiny_models import numeric_gradient, rng, smooth_learner, tiny_pool, trained_pool
from torch import Tensor

from freelib.alignment import DistillationBatch
from freelib.distillation import kl_divergence
from freelib.methods import bidf_mkd
from freelib.methods.bidf_mkd import BidfMkdConfig, distilled_params, frozen_student
from freelib.methods.black_box import black_box_model
from freelib.models.pool import ModelPool


def batch(seed: int, n: int = 6) -> DistillationBatch:
    """Images of 2x2 pixels and a teacher's answers to them."""
    draw = rng(seed)
    images = torch.rand(n, 1, 2, 2, generator=draw, dtype=torch.float64)
    return DistillationBatch(images, 2 * torch.randn(n, 3, generator=draw, dtype=torch.float64))


SUPPORT, QUERY = batch(0), batch(1)


def query_loss(learner, params, query) -> Tensor:
    return kl_divergence(query.teacher_logits, learner.forward(params, query.images)).mean()


def test_the_defaults_are_the_published_settings():
    config = BidfMkdConfig()
    assert (config.adapt_steps, config.images_per_class, config.z_dim, config.ngf) == (200, 30, 256, 64)
    assert (config.generator_lr, config.z_lr, config.lambda_ce, config.lambda_bn) == (1e-3, 1e-3, 1, 0)
    assert (config.lambda_adv, config.adversarial_from) == (1, 4000)
    assert (config.distill_steps, config.distill_lr, config.replay_patience) == (10, 0.01, 200)
    assert (config.directions, config.mu, config.black_box) == (100, 0.005, False)


def test_an_inner_step_goes_down_the_divergence_from_the_teacher():
    learner = smooth_learner()
    adapted = distilled_params(learner, SUPPORT, small("bidf_mkd", distill_steps=1, distill_lr=0.1))
    for name, parameter in learner.params.items():
        slope = numeric_gradient(lambda: query_loss(learner, learner.params, SUPPORT), parameter.data)
        assert torch.allclose(adapted[name], parameter - 0.1 * slope, atol=1e-8)


def test_the_outer_gradient_goes_through_the_inner_steps():
    learner, config = smooth_learner(), small("bidf_mkd", distill_steps=3, distill_lr=0.5)

    def outer_loss() -> Tensor:
        with torch.enable_grad():  # the inner steps need gradients, also where the outer loss is only read
            return query_loss(learner, distilled_params(learner, SUPPORT, config), QUERY)

    outer_loss().backward()
    for parameter in learner.params.values():
        numeric = numeric_gradient(lambda: outer_loss().detach(), parameter.data)
        assert torch.allclose(parameter.grad, numeric, atol=1e-7)


def test_in_first_order_the_outer_gradient_is_the_one_at_the_adapted_weights():
    learner = smooth_learner()
    config = small("bidf_mkd", distill_steps=3, distill_lr=0.5, second_order=False)
    adapted = distilled_params(learner, SUPPORT, config)
    query_loss(learner, adapted, QUERY).backward()
    leaves = {name: p.detach().requires_grad_() for name, p in adapted.items()}
    expected = torch.autograd.grad(query_loss(learner, leaves, QUERY), list(leaves.values()))
    for parameter, gradient in zip(learner.params.values(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient)


def test_the_frozen_student_answers_with_the_given_weights_and_lets_only_images_learn():
    learner = smooth_learner()
    adapted = distilled_params(learner, SUPPORT, small("bidf_mkd"))
    images = SUPPORT.images.clone().requires_grad_()
    logits = frozen_student(learner, adapted)(images)
    assert torch.equal(logits, learner.forward(adapted, images))
    logits.sum().backward()
    assert images.grad.abs().sum() > 0
    assert all(p.grad is None for p in learner.params.values())


def test_queries_seek_the_boundary_from_the_batch_on_that_is_set(monkeypatch):
    adapt, seen = bidf_mkd.ScratchGenerator.adapt, []

    def watch(self, model, student, draw):
        seen.append(student is not None)
        return adapt(self, model, student, draw)

    monkeypatch.setattr(bidf_mkd.ScratchGenerator, "adapt", watch)
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


class Api:
    """Nothing but `__call__`."""

    __slots__ = ("_model", "calls")

    def __init__(self, model) -> None:
        self._model, self.calls = model, 0

    def __call__(self, images: Tensor) -> Tensor:
        self.calls += 1
        with torch.no_grad():
            return self._model(images).clone()


def test_with_black_boxes_it_learns_from_objects_that_can_only_be_called():
    models = list(tiny_pool(4))
    apis = [Api(model) for model in models]
    pool = ModelPool.from_models(
        black_box_model(api, class_names=m.class_names, image_size=16, rng=rng(0), name=m.name, domain=m.domain)
        for api, m in zip(apis, models, strict=True)
    )
    train = trainer("bidf_mkd", pool, rounds=2, black_box=True, directions=6)
    first = train()
    # a set takes 2 steps of 1 + 6 calls and one call for the student's targets; a round makes two sets
    assert sum(api.calls for api in apis) == 2 * 2 * (2 * (1 + 6) + 1)
    assert first.log.history["images_asked"] == [2 * 20 * (2 * (1 + 6) + 1)] * 2
    assert_same_run(train(), first)


def test_a_black_box_gives_images_of_the_wanted_classes(tiny_dataset):
    settings = {"rounds": 1, "adapt_steps": 30, "ngf": 8, "z_dim": 16, "images_per_class": 5}
    settings |= {"black_box": True, "directions": 20, "replay_scope": "none"}
    history = trainer("bidf_mkd", trained_pool(tiny_dataset), **settings)().log.history
    assert history["teacher_agreement"][0] > 0.5  # 0.2 is chance


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"black_box": True, "lambda_bn": 0.1}, "A black box shows no BatchNorm statistics"),
        ({"black_box": True, "precision": "bfloat16"}, "A black box shows no BatchNorm statistics"),
        ({"adapt_steps": 0}, "adapt_steps"),  # both bases of the config are checked
        ({"replay_scope": "far"}, "replay_scope"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        BidfMkdConfig(**settings)


def test_models_with_another_number_of_classes_are_refused():
    with pytest.raises(ValueError, match="A 5-way student can't be distilled from \\[3\\]-way models"):
        trainer("bidf_mkd", tiny_pool(2, n_way=3))()

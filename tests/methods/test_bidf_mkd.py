"""BiDf-MKD: both levels of distillation by hand, black boxes, and the whole on a tiny pool."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import (
    Killed,
    flat,
    kill_at,
    numeric_gradient,
    rng,
    smooth_learner,
    tiny_pool,
    trained_pool,
    weights,
)
from torch import Tensor

from freelib.alignment import DistillationBatch
from freelib.datasets import FewShotDataset
from freelib.distillation import kl_divergence
from freelib.generator import ScratchGenerator
from freelib.meta_learner import MetaLearner
from freelib.methods.bidf_mkd import BidfMkd, BidfMkdConfig, distilled_params, frozen_student
from freelib.methods.black_box import black_box_model
from freelib.models.pool import ModelPool, PretrainedModel
from freelib.storage import Checkpoint

TINY = BidfMkdConfig(
    width=8,
    n_query=4,
    inner_steps=1,
    test_steps=2,
    adapt_steps=4,
    images_per_class=5,
    z_dim=16,
    ngf=8,
    generator_lr=0.01,
    augment_padding=1,
    distill_steps=2,
    replay_episodes=2,
    replay_patience=2,
    replay_batches=3,
    rounds=3,
)


def tiny_config(**settings: object) -> BidfMkdConfig:
    return BidfMkdConfig(**{**vars(TINY), **settings})


def batch(seed: int, n: int = 6) -> DistillationBatch:
    """Images of 2x2 pixels and a teacher's answers to them."""
    draw = rng(seed)
    images = torch.rand(n, 1, 2, 2, generator=draw, dtype=torch.float64)
    return DistillationBatch(images, 2 * torch.randn(n, 3, generator=draw, dtype=torch.float64))


def query_loss(learner: MetaLearner, params: dict[str, Tensor], query: DistillationBatch) -> Tensor:
    return kl_divergence(query.teacher_logits, learner.forward(params, query.images)).mean()


def test_the_defaults_are_the_published_settings() -> None:
    config = BidfMkdConfig()
    assert (config.adapt_steps, config.images_per_class, config.z_dim, config.ngf) == (200, 30, 256, 64)
    assert (config.generator_lr, config.z_lr, config.lambda_ce, config.lambda_bn) == (1e-3, 1e-3, 1, 0)
    assert (config.lambda_adv, config.adversarial_from) == (1, 4000)
    assert (config.distill_steps, config.distill_lr, config.replay_patience) == (10, 0.01, 200)
    assert (config.directions, config.mu, config.black_box) == (100, 0.005, False)


def test_an_inner_step_goes_down_the_divergence_from_the_teacher() -> None:
    learner, support = smooth_learner(), batch(0)
    config = tiny_config(distill_steps=1, distill_lr=0.1)
    adapted = distilled_params(learner, support, config)
    for name, parameter in learner.params.items():
        slope = numeric_gradient(lambda: query_loss(learner, learner.params, support), parameter.data)
        assert torch.allclose(adapted[name], parameter - 0.1 * slope, atol=1e-8)


def test_the_outer_gradient_goes_through_the_inner_steps() -> None:
    learner, support, query = smooth_learner(), batch(0), batch(1)
    config = tiny_config(distill_steps=3, distill_lr=0.5)

    def outer_loss() -> Tensor:
        with torch.enable_grad():  # the inner steps need gradients, also where the outer loss is only read
            return query_loss(learner, distilled_params(learner, support, config), query)

    outer_loss().backward()
    for parameter in learner.params.values():
        numeric = numeric_gradient(lambda: outer_loss().detach(), parameter.data)
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, numeric, atol=1e-7)


def test_in_first_order_the_outer_gradient_is_the_one_at_the_adapted_weights() -> None:
    learner, support, query = smooth_learner(), batch(0), batch(1)
    config = tiny_config(distill_steps=3, distill_lr=0.5, second_order=False)
    adapted = distilled_params(learner, support, config)
    query_loss(learner, adapted, query).backward()
    leaves = {name: p.detach().requires_grad_() for name, p in adapted.items()}
    expected = torch.autograd.grad(query_loss(learner, leaves, query), list(leaves.values()))
    for parameter, gradient in zip(learner.params.values(), expected, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, gradient)


def test_the_frozen_student_answers_with_the_given_weights_and_lets_only_images_learn() -> None:
    learner, support = smooth_learner(), batch(0)
    adapted = distilled_params(learner, support, TINY)
    images = support.images.clone().requires_grad_()
    logits = frozen_student(learner, adapted)(images)
    assert torch.equal(logits, learner.forward(adapted, images))
    logits.sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(p.grad is None for p in learner.params.values())


def test_queries_seek_the_boundary_from_the_batch_on_that_is_set(
    tiny_dataset: FewShotDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapt, seen = ScratchGenerator.adapt, []

    def watch(self, model, student, rng):
        seen.append(student is not None)
        return adapt(self, model, student, rng)

    monkeypatch.setattr(ScratchGenerator, "adapt", watch)
    # batches: 1 of distillation and 3 of replay in the first round
    config = tiny_config(adapt_steps=1, replay_patience=0, adversarial_from=4)
    BidfMkd().meta_train(trained_pool(tiny_dataset), config, seed=0)
    assert seen == [False, False] + 2 * [False, True]


def test_on_a_tiny_pool_a_killed_run_goes_on_with_the_same_bits(
    tiny_dataset: FewShotDataset, tmp_path: Path
) -> None:
    pool = trained_pool(tiny_dataset)
    config = tiny_config(rounds=5, adversarial_from=6, checkpoint_every=2, monitor_every=1)
    learner = BidfMkd().meta_train(pool, config, seed=1, monitor=kill_at(-1))
    log = learner.log
    assert log.iterations == 5 * 2 * 4
    assert set(log.seconds) == {"recovery", "distillation", "replay", "monitor", "monitor_cpu"}
    assert all(2 <= batches <= 3 for batches in log.history["replay_batches"])
    assert learner.selected_round == 1
    assert learner.last_params is not None

    checkpoint = Checkpoint(tmp_path / "run.pt")
    with pytest.raises(Killed):
        BidfMkd().meta_train(pool, config, seed=1, monitor=kill_at(4), checkpoint=checkpoint)
    again = BidfMkd().meta_train(pool, config, seed=1, monitor=kill_at(-1), checkpoint=checkpoint)
    assert torch.equal(weights(again), weights(learner))
    assert again.last_params is not None
    assert torch.equal(flat(list(again.last_params.values())), flat(list(learner.last_params.values())))
    assert again.log.history == log.history


def test_from_one_model_it_learns_to_be_distilled_in_few_steps(tiny_dataset: FewShotDataset) -> None:
    config = tiny_config(rounds=12, outer_lr=0.01, distill_lr=0.1, replay_scope="none")
    history = BidfMkd().meta_train(trained_pool(tiny_dataset)[:1], config, seed=0).log.history
    loss = torch.tensor(history["distillation_loss"])
    assert loss[-4:].mean() < 0.7 * loss[:2].mean()
    assert "replay_batches" not in history


class Api:
    """Nothing but `__call__`."""

    __slots__ = ("_model", "calls")

    def __init__(self, model: PretrainedModel) -> None:
        self._model, self.calls = model, 0

    def __call__(self, images: Tensor) -> Tensor:
        self.calls += 1
        with torch.no_grad():
            return self._model(images).clone()


def test_with_black_boxes_it_learns_from_objects_that_can_only_be_called(
    tiny_dataset: FewShotDataset,
) -> None:
    apis = {model.name: (Api(model), model) for model in trained_pool(tiny_dataset)}
    pool = ModelPool.from_models(
        black_box_model(api, class_names=m.class_names, image_size=16, rng=rng(0), name=name, domain=m.domain)
        for name, (api, m) in apis.items()
    )
    config = tiny_config(rounds=2, black_box=True, directions=6)
    first = BidfMkd().meta_train(pool, config, seed=0)
    # a set takes 4 steps of 1 + 6 calls and one call for the student's targets; a round makes two sets
    assert sum(api.calls for api, _ in apis.values()) == 2 * 2 * (4 * (1 + 6) + 1)
    assert first.log.history["images_asked"] == [2 * 25 * (4 * (1 + 6) + 1)] * 2
    second = BidfMkd().meta_train(pool, config, seed=0)
    assert torch.equal(weights(first), weights(second))


def test_a_black_box_recovers_images_of_the_wanted_classes(tiny_dataset: FewShotDataset) -> None:
    pool = trained_pool(tiny_dataset)
    config = tiny_config(rounds=1, adapt_steps=30, black_box=True, directions=20, replay_scope="none")
    history = BidfMkd().meta_train(pool, config, seed=0).log.history
    assert history["teacher_agreement"][0] > 0.5  # 0.2 is chance


@pytest.mark.parametrize("settings", [{"lambda_bn": 0.1}, {"precision": "bfloat16"}])
def test_a_black_box_shows_no_statistics_and_needs_exact_answers(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="A black box shows no BatchNorm statistics"):
        BidfMkdConfig(black_box=True, **settings)
    BidfMkdConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"), [({"adapt_steps": 0}, "adapt_steps"), ({"replay_scope": "far"}, "replay_scope")]
)
def test_both_bases_of_the_config_are_checked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BidfMkdConfig(**settings)


def test_models_with_another_number_of_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="A 5-way student can't be distilled from \\[3\\]-way models"):
        BidfMkd().meta_train(tiny_pool(2, n_way=3), TINY, seed=0)

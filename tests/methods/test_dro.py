"""DRO: what it fuses, the worst embeddings, and the two ends of γ."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_models import Killed, kill_at

from freelib.methods.dro import (
    Dro,
    DroConfig,
    Hypernetwork,
    WeightSpace,
    fusion_error,
    worst_embeddings,
)
from freelib.models.backbones import Backbone, build_backbone
from freelib.models.pool import ModelPool, PretrainedModel
from freelib.storage import Checkpoint

SIZE, WIDTH = 16, 4
SMALL = {"width": WIDTH, "rounds": 6, "round_steps": 30, "rank": 8, "hidden": 16, "lr": 1e-2}


def pool_of(*seeds: int, arch: str = "conv4") -> ModelPool:
    """A model for each seed; equal seeds give equal weights."""
    models = [
        PretrainedModel(
            build_backbone(arch, image_size=SIZE, width=WIDTH, seed=seed),
            name=f"m{number}",
            arch=arch,
            class_names=["a", "b", "c", "d", "e"],
            mean=(0.5,) * 3,
            std=(0.2,) * 3,
            image_size=SIZE,
            domain="letters",
        )
        for number, seed in enumerate(seeds)
    ]
    return ModelPool.from_models(models)


def encoder(backbone: Backbone) -> torch.Tensor:
    """All weights but the head's, flat."""
    return torch.cat([p.detach().flatten() for n, p in backbone.named_parameters() if "head" not in n])


@pytest.fixture
def world() -> tuple[Hypernetwork, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A hypernetwork over 3 models and 20 weights: itself, embeddings, targets, the error's weights."""
    rng = torch.Generator().manual_seed(0)
    hypernetwork = Hypernetwork(3, 20, DroConfig(embedding_dim=4, hidden=8, rank=5), rng)
    return hypernetwork, hypernetwork.embeddings, torch.randn(3, 20, generator=rng), torch.full((20,), 1 / 20)


@pytest.mark.parametrize("gamma", [0.1, math.inf])
def test_equal_models_are_fused_to_themselves(gamma):
    pool = pool_of(3, 3, 3, 3)
    learner = Dro().meta_train(pool, DroConfig(gamma=gamma, **SMALL), seed=0)
    errors = learner.log.history["fusion_error"]
    assert errors[0] > 10 * errors[-1]
    assert errors[-1] < 1e-3
    distance = (encoder(learner.backbone) - encoder(pool[0].module)).norm()
    assert distance < 0.2 * encoder(pool[0].module).norm()
    assert not learner.params["head.weight"].any()
    assert not learner.params["head.bias"].any()


def test_different_models_are_told_apart_by_their_embeddings():
    pool = pool_of(1, 2, 3)
    networks = [dict(model.module.named_parameters()) for model in pool]
    space = WeightSpace([{n: p.detach() for n, p in w.items() if "head" not in n} for w in networks])
    mean_error = fusion_error(space.points.mean(0), space.points, space.error_weight).mean()
    learner = Dro().meta_train(pool, DroConfig(gamma=math.inf, **{**SMALL, "rounds": 12}), seed=0)
    # One network for all can't be nearer to the three than their mean is: the embeddings do the rest.
    assert learner.log.history["fusion_error"][-1] < 0.1 * mean_error


def test_a_point_of_the_weight_space_is_its_network():
    networks = [
        {"conv": torch.full((2, 3), 4.0), "shift": torch.zeros(2)},
        {"conv": torch.full((2, 3), -4.0), "shift": torch.zeros(2)},
    ]
    space = WeightSpace(networks)
    torch.testing.assert_close(space.scale, torch.tensor([4.0] * 6 + [1.0] * 2))
    torch.testing.assert_close(space.points[1], torch.tensor([-1.0] * 6 + [0.0] * 2))
    assert float(space.error_weight.sum()) == pytest.approx(1)
    torch.testing.assert_close(space.network(space.points[0]), networks[0])
    # The far tensor is one of two, whatever its size: 2² / 2.
    assert float(fusion_error(*space.points, space.error_weight)) == pytest.approx(2)


def test_the_ascent_finds_worse_embeddings(world):
    hypernetwork, start, targets, weight = world
    config = DroConfig(gamma=0.05)

    def penalised(embeddings):
        error = fusion_error(hypernetwork(embeddings), targets, weight)
        return error - config.gamma * (embeddings - start).square().sum(1)

    moved = worst_embeddings(hypernetwork, start, targets, weight, config)
    assert (penalised(moved) > penalised(start) + 1e-4).all()
    assert not moved.requires_grad


def test_at_the_maximum_the_penalty_balances_the_error(world):
    hypernetwork, start, targets, weight = world
    config = DroConfig(gamma=0.5, ascent_steps=200)
    moved = worst_embeddings(hypernetwork, start, targets, weight, config).requires_grad_()
    (slope,) = torch.autograd.grad(fusion_error(hypernetwork(moved), targets, weight).sum(), moved)
    torch.testing.assert_close(slope, 2 * config.gamma * (moved - start).detach(), atol=1e-5, rtol=0)


def test_an_infinite_price_is_plain_fusion(world):
    hypernetwork, start, targets, weight = world
    free_of_charge = worst_embeddings(hypernetwork, start, targets, weight, DroConfig(gamma=math.inf))
    torch.testing.assert_close(free_of_charge, start.detach(), atol=0, rtol=0)
    shifts = [
        (worst_embeddings(hypernetwork, start, targets, weight, DroConfig(gamma=g)) - start).norm()
        for g in (0.1, 1.0, 10.0, 1e6)
    ]
    assert shifts[0] > shifts[1] > shifts[2] > shifts[3]
    assert shifts[3] < 1e-5


def test_the_student_starts_at_the_mean_embedding_or_at_the_mean_of_draws(world):
    hypernetwork = world[0]
    rng = torch.Generator().manual_seed(1)
    torch.testing.assert_close(
        hypernetwork.initialisation(0, rng), hypernetwork(hypernetwork.embeddings.mean(0)).detach()
    )
    mean, std = hypernetwork.embeddings.mean(0), hypernetwork.embeddings.std(0, correction=0)
    noise = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    by_hand = torch.stack([hypernetwork(mean + std * row) for row in noise]).mean(0).detach()
    torch.testing.assert_close(hypernetwork.initialisation(5, rng), by_hand)


@pytest.mark.parametrize("draws", [0, 5])
def test_a_killed_run_goes_on_with_the_same_bits(tmp_path, draws):
    pool = pool_of(1, 2, 3)
    config = DroConfig(
        **{**SMALL, "rounds": 3, "round_steps": 4}, checkpoint_every=1, monitor_every=1, draws=draws
    )

    checkpoint = Checkpoint(tmp_path / "run.pt")
    whole = Dro().meta_train(pool, config, seed=4, monitor=kill_at(-1))
    with pytest.raises(Killed):
        Dro().meta_train(pool, config, seed=4, monitor=kill_at(2), checkpoint=checkpoint)
    resumed = Dro().meta_train(pool, config, seed=4, monitor=kill_at(-1), checkpoint=checkpoint)
    torch.testing.assert_close(resumed.params, whole.params, atol=0, rtol=0)
    torch.testing.assert_close(resumed.last_params, whole.last_params, atol=0, rtol=0)
    assert resumed.selected_round == whole.selected_round == 1
    assert resumed.log.history == whole.log.history


def test_what_it_cannot_fuse_is_refused():
    with pytest.raises(ValueError, match="student is set to resnet10"):
        Dro().meta_train(pool_of(1, 2), DroConfig(arch="resnet10", width=WIDTH), seed=0)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="gamma must be above 0"):
        DroConfig(gamma=0.0)
    with pytest.raises(ValueError, match="draws must be at least 0"):
        DroConfig(draws=-1)

import math

import pytest
import torch
from small_methods import small
from tiny_models import flat, rng, tiny_model, tiny_pool

from freelib.methods.dro import Dro, DroConfig, Hypernetwork, WeightSpace, fusion_error, worst_embeddings
from freelib.models.pool import ModelPool

FUSED = {"rounds": 6, "round_steps": 30, "meta_batch": 8, "rank": 8, "hidden": 16, "lr": 1e-2}


def encoder(network) -> torch.Tensor:
    """All weights but the head's, flat."""
    return flat([p for name, p in network.named_parameters() if "head" not in name])


@pytest.fixture
def world() -> tuple[Hypernetwork, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A hypernetwork over 3 models and 20 weights: itself, embeddings, targets, the error's weights."""
    draw = rng(0)
    hypernetwork = Hypernetwork(3, 20, DroConfig(embedding_dim=4, hidden=8, rank=5), draw)
    return (hypernetwork, hypernetwork.embeddings, torch.randn(3, 20, generator=draw), torch.full((20,), 1 / 20))


@pytest.mark.parametrize("gamma", [0.1, math.inf])
def test_equal_models_are_fused_to_themselves(gamma):
    pool = ModelPool.from_models([tiny_model(3, domain=f"copy {i}") for i in range(4)])
    learner = Dro().meta_train(pool, small("dro", gamma=gamma, **FUSED), seed=0)
    errors = learner.log.history["fusion_error"]
    assert errors[0] > 10 * errors[-1]
    assert errors[-1] < 1e-3
    wanted = encoder(pool[0].module)
    assert (encoder(learner.backbone) - wanted).norm() < 0.2 * wanted.norm()
    assert not learner.params["head.weight"].any()
    assert not learner.params["head.bias"].any()


def test_different_models_have_different_embeddings():
    pool = tiny_pool(3)
    networks = [dict(model.module.named_parameters()) for model in pool]
    space = WeightSpace([{n: p.detach() for n, p in w.items() if "head" not in n} for w in networks])
    mean_error = fusion_error(space.points.mean(0), space.points, space.error_weight).mean()
    learner = Dro().meta_train(pool, small("dro", gamma=math.inf, **FUSED | {"rounds": 12}), seed=0)
    # One network for all can't be nearer to the three than their mean is: the embeddings do the rest.
    assert learner.log.history["fusion_error"][-1] < 0.1 * mean_error


def test_the_ascent_finds_worse_embeddings(world):
    hypernetwork, start, targets, weight = world
    config = DroConfig(gamma=0.05)

    def penalised(embeddings):
        error = fusion_error(hypernetwork(embeddings), targets, weight)
        return error - config.gamma * (embeddings - start).square().sum(1)

    moved = worst_embeddings(hypernetwork, start, targets, weight, config)
    assert (penalised(moved) > penalised(start) + 1e-4).all()
    assert not moved.requires_grad
    config = DroConfig(gamma=0.5, ascent_steps=200)
    moved = worst_embeddings(hypernetwork, start, targets, weight, config).requires_grad_()
    (slope,) = torch.autograd.grad(fusion_error(hypernetwork(moved), targets, weight).sum(), moved)
    torch.testing.assert_close(slope, 2 * config.gamma * (moved - start).detach(), atol=1e-5, rtol=0)

    def shift(gamma: float) -> float:
        moved = worst_embeddings(hypernetwork, start, targets, weight, DroConfig(gamma=gamma))
        return float((moved - start.detach()).norm())

    assert shift(math.inf) == 0
    assert shift(0.1) > shift(1.0) > shift(10.0) > shift(1e6)
    assert shift(1e6) < 1e-5


def test_the_student_starts_at_the_mean_embedding_or_at_the_mean_of_draws(world):
    hypernetwork = world[0]
    mean, std = hypernetwork.embeddings.mean(0), hypernetwork.embeddings.std(0, correction=0)
    torch.testing.assert_close(hypernetwork.initialisation(0, rng(1)), hypernetwork(mean).detach())
    noise = torch.randn(5, 4, generator=rng(1))
    by_hand = torch.stack([hypernetwork(mean + std * row) for row in noise]).mean(0).detach()
    torch.testing.assert_close(hypernetwork.initialisation(5, rng(1)), by_hand)

"""OTA and DRO: pre-trained weights fused into one network."""

import math
from functools import partial

import pytest
import torch
from small_methods import small
from tiny_models import flat, own, rng, tiny_model, tiny_pool

from freelib.methods.dro import Dro, DroConfig, Hypernetwork, WeightSpace, fusion_error, worst_embeddings
from freelib.methods.ota import Ota, OtaConfig, align_channels, fuse_states, transport_plan
from freelib.models.backbones import Backbone, build_backbone
from freelib.models.pool import ModelPool, PretrainedModel

WIDTH, SIZE = 8, 32
IMAGES = torch.randn(20, 3, SIZE, SIZE, generator=rng(3))


def network(seed: int, arch: str = "conv4") -> Backbone:
    """A network in eval mode whose BatchNorm is anything but the identity."""
    backbone, draw = build_backbone(arch, image_size=SIZE, width=WIDTH, seed=seed).eval(), rng(seed)
    for name, value in backbone.state_dict().items():
        if "norm" in name and value.is_floating_point():
            value.copy_(0.5 + torch.rand(value.shape, generator=draw))
    return backbone


def with_state(state: dict[str, torch.Tensor]) -> Backbone:
    copy = network(0)
    copy.load_state_dict(state)
    return copy


def permuted(backbone: Backbone, seed: int) -> Backbone:
    """The same function with every layer's channels in another order."""
    draw = rng(seed)
    state = {name: value.clone() for name, value in backbone.state_dict().items()}
    for block in range(4):
        order = torch.randperm(WIDTH, generator=draw)
        for name in list(state):
            if name.startswith(f"encoder.{block}.") and state[name].ndim:
                state[name] = state[name][order]
        if block < 3:
            following = f"encoder.{block + 1}.conv.weight"
            state[following] = state[following][:, order]
    head = state["head.weight"].view(5, WIDTH, -1)  # the features are (channel, row, column), flat
    state["head.weight"] = head[:, order].flatten(1)
    return with_state(state)


def member(backbone: Backbone, name: str, accuracy: float = 0.5) -> PretrainedModel:
    about = {"class_names": list("abcde"), "image_size": SIZE, "arch": backbone.arch, "domain": "letters"}
    return own(backbone, name=name, accuracy=accuracy, **about)


@pytest.mark.parametrize("anchor", [0, 1, 2])
def test_fusing_with_permuted_copies_gives_the_function_back(anchor):
    original = network(1)
    models = [original, permuted(original, 2), permuted(original, 5)]
    torch.testing.assert_close(models[1](IMAGES), original(IMAGES), atol=1e-4, rtol=0)
    assert not torch.allclose(models[1].encoder[0].conv.weight, original.encoder[0].conv.weight)
    fused = fuse_states([m.state_dict() for m in models], anchor, transport_plan)
    result = with_state({**models[anchor].state_dict(), **fused})
    torch.testing.assert_close(result(IMAGES), original(IMAGES), atol=1e-4, rtol=0)
    # The plain mean is another function: the test can tell.
    mean = {name: sum(m.state_dict()[name] for m in models) / 3 for name in fused}
    assert (with_state({**original.state_dict(), **mean})(IMAGES) - original(IMAGES)).abs().max() > 0.1


def test_the_exact_plan_is_the_best_permutation_and_sinkhorn_comes_near_it():
    cost = torch.tensor([[4.0, 1.0, 3.0], [2.0, 0.0, 5.0], [3.0, 2.0, 2.0]])
    # 1 + 2 + 2: the least of the six permutations' costs.
    best = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 1]]) / 3
    torch.testing.assert_close(transport_plan(cost), best.double())
    states = [{name: v.to("meta") for name, v in tiny_model(i).module.state_dict().items()} for i in range(2)]
    fused = fuse_states(states, 0, lambda cost: torch.ones(cost.shape).double())  # a plan is made on the CPU
    assert {value.device.type for value in fused.values()} == {"meta"}
    original = network(1)
    soft = partial(transport_plan, kind="sinkhorn", regularisation=0.005)
    aligned = align_channels(permuted(original, 2).state_dict(), original.state_dict(), soft)
    for name, value in aligned.items():
        torch.testing.assert_close(value.float(), original.state_dict()[name], atol=5e-3, rtol=0)


@pytest.mark.parametrize("kind", ["exact", "sinkhorn"])
def test_masses_are_uniform_for_unequal_numbers_of_neurons(kind):
    plan = transport_plan(torch.rand(4, 6, generator=rng(0)), kind)
    torch.testing.assert_close(plan.sum(0), torch.full((6,), 1 / 6).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(plan.sum(1), torch.full((4,), 1 / 4).double(), atol=1e-6, rtol=0)
    assert transport_plan(torch.zeros(3, 3), kind).sum() == pytest.approx(1)


def test_meta_training_aligns_to_the_most_accurate_model():
    original = network(1)
    models = [member(permuted(original, 2), "a"), member(original, "b", 0.9), member(permuted(original, 3), "c")]
    learner = Ota().meta_train(ModelPool.from_models(models), OtaConfig(width=WIDTH), seed=0)
    for name, value in learner.params.items():
        wanted = torch.zeros_like(value) if name.startswith("head.") else original.get_parameter(name)
        torch.testing.assert_close(value, wanted, atol=1e-6, rtol=0)


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

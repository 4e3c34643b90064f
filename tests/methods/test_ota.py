"""OTA: moved neurons are put back, and what can't be aligned is refused."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from tiny_models import tiny_model

from freelib.methods.ota import Ota, OtaConfig, align_channels, fuse_states, transport_plan
from freelib.models.backbones import Backbone, build_backbone
from freelib.models.pool import ModelPool, PretrainedModel

WIDTH, SIZE = 12, 32


def network(seed: int, arch: str = "conv4", width: int = WIDTH) -> Backbone:
    """A network in eval mode whose BatchNorm is anything but the identity."""
    backbone = build_backbone(arch, image_size=SIZE, width=width, seed=seed).eval()
    rng = torch.Generator().manual_seed(seed)
    for name, value in backbone.state_dict().items():
        if "norm" in name and value.is_floating_point():
            value.copy_(0.5 + torch.rand(value.shape, generator=rng))
    return backbone


def permuted(backbone: Backbone, seed: int) -> Backbone:
    """The same function with every layer's channels in another order."""
    rng = torch.Generator().manual_seed(seed)
    copy = network(seed=0)
    state = {name: value.clone() for name, value in backbone.state_dict().items()}
    for block in range(4):
        order = torch.randperm(WIDTH, generator=rng)
        for name in list(state):
            if name.startswith(f"encoder.{block}.") and state[name].ndim:
                state[name] = state[name][order]
        if block < 3:
            following = f"encoder.{block + 1}.conv.weight"
            state[following] = state[following][:, order]
    head = state["head.weight"].view(5, WIDTH, -1)  # the features are (channel, row, column), flat
    state["head.weight"] = head[:, order].flatten(1)
    copy.load_state_dict(state)
    return copy


def with_encoder(backbone: Backbone, encoder: dict[str, torch.Tensor]) -> Backbone:
    """The network with another encoder and its own head."""
    copy = network(seed=0)
    copy.load_state_dict({**backbone.state_dict(), **encoder})
    return copy.eval()


def member(backbone: Backbone, name: str, accuracy: float = 0.5) -> PretrainedModel:
    return PretrainedModel(
        backbone,
        name=name,
        arch=backbone.arch,
        class_names=["a", "b", "c", "d", "e"],
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
        image_size=SIZE,
        accuracy=accuracy,
        domain="letters",
    )


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(20, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))


def test_a_permuted_copy_is_the_same_function(images):
    original = network(1)
    copy = permuted(original, 2)
    torch.testing.assert_close(copy(images), original(images), atol=1e-4, rtol=0)
    assert not torch.allclose(copy.encoder[0].conv.weight, original.encoder[0].conv.weight)


@pytest.mark.parametrize("anchor", [0, 1, 2])
def test_fusing_with_permuted_copies_gives_the_function_back(images, anchor):
    original = network(1)
    models = [original, permuted(original, 2), permuted(original, 5)]
    fused = fuse_states([m.state_dict() for m in models], anchor, transport_plan)
    result = with_encoder(models[anchor], fused)
    torch.testing.assert_close(result(images), original(images), atol=1e-4, rtol=0)
    # The plain mean is another function: the test can tell.
    mean = {name: sum(m.state_dict()[name] for m in models) / 3 for name in fused}
    assert (with_encoder(original, mean)(images) - original(images)).abs().max() > 0.1


def test_sinkhorn_comes_near_it_too():
    original = network(1)
    soft = partial(transport_plan, kind="sinkhorn", regularisation=0.005)
    copy = permuted(original, 2).state_dict()
    aligned = align_channels(copy, original.state_dict(), soft)
    for name, value in aligned.items():
        torch.testing.assert_close(value.float(), original.state_dict()[name], atol=5e-3, rtol=0)


def test_the_exact_plan_is_the_best_permutation():
    cost = torch.tensor([[4.0, 1.0, 3.0], [2.0, 0.0, 5.0], [3.0, 2.0, 2.0]])
    plan = transport_plan(cost)
    # 1 + 2 + 2: the least of the six permutations' costs.
    best = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 1]]) / 3
    torch.testing.assert_close(plan, best.double())


@pytest.mark.parametrize("kind", ["exact", "sinkhorn"])
def test_masses_are_uniform_for_unequal_numbers_of_neurons(kind):
    plan = transport_plan(torch.rand(4, 6, generator=torch.Generator().manual_seed(0)), kind)
    torch.testing.assert_close(plan.sum(0), torch.full((6,), 1 / 6).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(plan.sum(1), torch.full((4,), 1 / 4).double(), atol=1e-6, rtol=0)


def test_fused_weights_stay_on_their_device():
    states = [{name: v.to("meta") for name, v in tiny_model(i).module.state_dict().items()} for i in range(2)]
    fused = fuse_states(states, 0, lambda cost: torch.ones(cost.shape).double())  # a plan is made on the CPU
    assert {value.device.type for value in fused.values()} == {"meta"}


def test_equal_networks_need_no_transport():
    assert transport_plan(torch.zeros(3, 3), "sinkhorn").sum() == pytest.approx(1)


def test_meta_training_aligns_to_the_most_accurate_model():
    original = network(1)
    models = [
        member(permuted(original, 2), "a", 0.5),
        member(original, "b", 0.9),
        member(permuted(original, 3), "c"),
    ]
    pool = ModelPool.from_models(models)
    learner = Ota().meta_train(pool, OtaConfig(width=WIDTH), seed=0)
    for name, value in learner.params.items():
        wanted = torch.zeros_like(value) if name.startswith("head.") else original.get_parameter(name)
        torch.testing.assert_close(value, wanted, atol=1e-6, rtol=0)


def test_what_it_cannot_align_is_refused():
    resnets = ModelPool.from_models([member(network(i, "resnet10", 4), f"m{i}") for i in range(2)])
    with pytest.raises(ValueError, match="aligns conv4 only"):
        Ota().meta_train(resnets, OtaConfig(arch="resnet10", width=4), seed=0)
    mixed = ModelPool.from_models([member(network(0), "a"), member(network(0, "resnet10", 4), "b")])
    with pytest.raises(ValueError, match="one architecture"):
        Ota().meta_train(mixed, OtaConfig(width=WIDTH), seed=0)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="exact, sinkhorn"):
        OtaConfig(transport="greedy")
    with pytest.raises(ValueError, match="above 0"):
        replace(OtaConfig(), regularisation=0.0)

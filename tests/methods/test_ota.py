from functools import partial

import pytest
import torch
from tiny_models import own, rng, tiny_model

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


def test_sinkhorn_comes_near_it_too():
    original = network(1)
    soft = partial(transport_plan, kind="sinkhorn", regularisation=0.005)
    aligned = align_channels(permuted(original, 2).state_dict(), original.state_dict(), soft)
    for name, value in aligned.items():
        torch.testing.assert_close(value.float(), original.state_dict()[name], atol=5e-3, rtol=0)


def test_the_exact_plan_is_the_best_permutation():
    cost = torch.tensor([[4.0, 1.0, 3.0], [2.0, 0.0, 5.0], [3.0, 2.0, 2.0]])
    # 1 + 2 + 2: the least of the six permutations' costs.
    best = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 1]]) / 3
    torch.testing.assert_close(transport_plan(cost), best.double())
    states = [{name: v.to("meta") for name, v in tiny_model(i).module.state_dict().items()} for i in range(2)]
    fused = fuse_states(states, 0, lambda cost: torch.ones(cost.shape).double())  # a plan is made on the CPU
    assert {value.device.type for value in fused.values()} == {"meta"}


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

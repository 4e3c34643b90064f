"""Average: the mean of the weights, and no head."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny_model, tiny_pool

from freelib.methods import MethodConfig, get_method
from freelib.models.pool import ModelPool

CONFIG = MethodConfig(width=4)


def train(pool, config=CONFIG):
    return get_method("average").meta_train(pool, config, seed=0)


def test_the_weights_are_the_mean_and_the_head_is_zero():
    pool = tiny_pool(3)
    learner = train(pool)
    states = [dict(model.module.named_parameters()) for model in pool]
    for name, value in learner.params.items():
        expected = torch.stack([state[name] for state in states]).mean(0)
        torch.testing.assert_close(value.detach(), torch.zeros_like(value) if "head" in name else expected)
    assert not list(learner.backbone.buffers())  # BatchNorm is on batch statistics


def test_the_pool_stays_as_it_was_and_one_model_is_its_own_mean():
    pool = tiny_pool(1)
    digest = pool.digest
    learner = train(pool)
    assert ModelPool.from_models(list(pool)).digest == digest
    weight = pool[0].module.encoder[0].conv.weight
    assert torch.equal(learner.backbone.encoder[0].conv.weight, weight)
    with torch.no_grad():
        learner.backbone.encoder[0].conv.weight.add_(1)
    assert ModelPool.from_models(list(pool)).digest == digest


def test_a_head_of_zeros_adapts():
    learner = train(tiny_pool(2))
    y = torch.arange(5)
    x = torch.eye(5)[:, :3, None, None].expand(-1, -1, 16, 16) * 0.5 + torch.rand(5, 3, 16, 16) * 0.1
    assert len(learner.adapt(x, y, steps=20).predict(x).unique()) > 1


@pytest.mark.parametrize(
    ("models", "config", "message"),
    [
        ([tiny_model(0), tiny_model(1, arch="resnet10")], CONFIG, "must be of one architecture"),
        (
            [tiny_model(0), tiny_model(1, width=8)],
            CONFIG,
            "must be of one architecture and width",
        ),
        (
            [tiny_model(0)],
            MethodConfig(arch="resnet10", width=4),
            "conv4 of width 4; the student is set to resnet10",
        ),
        ([tiny_model(0)], MethodConfig(), "conv4 of width 4; the student is set to conv4 of width 32"),
        (
            [
                tiny_model(i, arch="resnet10", image_size=size, domain=str(size))
                for i, size in enumerate((32, 84))
            ],
            MethodConfig(arch="resnet10", width=4),
            r"above 48 pixels a resnet10 has another first layer; the pool has models for \[32, 84\] pixels",
        ),
    ],
)
def test_what_has_no_mean_is_refused(models, config, message):
    with pytest.raises(ValueError, match=message):
        train(ModelPool.from_models(models), config)


@pytest.mark.parametrize(("arch", "sizes"), [("conv4", (16, 64)), ("resnet10", (16, 24))])
def test_models_of_two_image_sizes_have_a_mean_where_their_weights_are_alike(arch, sizes):
    models = [tiny_model(i, arch=arch, image_size=n, domain=str(n)) for i, n in enumerate(sizes)]
    learner = train(ModelPool.from_models(models), MethodConfig(arch=arch, width=4))
    assert learner.transform.image_size == sizes[1]


def test_golden():
    """Where this fails, results have changed: raise the method's `revision`, then write the value here."""
    assert get_method("average").revision == 1
    learner = train(tiny_pool(3))
    x = torch.linspace(0, 1, 5 * 3 * 256).view(5, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(learner.embed(x).mean(0), torch.tensor(GOLDEN), atol=1e-4, rtol=0)


GOLDEN = [0.9967, 1.0726, 0.7345, 0.9549]

"""What the methods refuse, before anything is trained: settings that do not fit, and pools."""

from __future__ import annotations

import pytest
from small_methods import small, trainer
from tiny_models import tiny_model, tiny_pool

from freelib.methods import get_method
from freelib.models.pool import ModelPool

KINDS = ["alignment", "align_optimizer", "distillation", "replay_scope", "memory_tasks", "kd_heads", "recovery"]
SETTINGS = [
    *[("free", {name: "other"}, f"{name} is .*got 'other'") for name in KINDS],
    *[("free", {name: 0}, f"{name} must be at least 1, got 0") for name in ("adapt_steps", "scratch_steps")],
    ("bidf_mkd", {"black_box": True, "lambda_bn": 0.1}, "A black box shows no BatchNorm statistics"),
    ("bidf_mkd", {"black_box": True, "precision": "bfloat16"}, "forward differences need float32"),
    ("bidf_mkd", {"adapt_steps": 0}, "adapt_steps must be at least 1"),
    ("bidf_mkd", {"replay_scope": "far"}, "replay_scope is one of"),
    ("pool_distillation", {"recovered": 10, "procedural": 10}, "of 128 images, got 10 synthesised images and 10"),
    *[("pool_distillation", {n: 0}, f"{n} must be at least 1, got 0") for n in ("embedding", "meta_batch", "epochs")],
    ("pool_distillation", {"batch_size": 0}, "batch_size must be at least 2, got 0"),
    ("pool_distillation", {"mixed": -1}, "mixed must be at least 0, got -1"),
    ("pool_distillation", {"centre": "episodes"}, "centre is one of none, support, episode, got 'episodes'"),
    ("pool_distillation", {"head": "maml"}, "head is one of prototypes, got 'maml'"),
    ("pool_distillation", {"teach": "logits"}, "teach is one of probabilities, features, got 'logits'"),
    ("dro", {"gamma": 0.0}, "gamma must be above 0"),
    ("dro", {"draws": -1}, "draws must be at least 0"),
    ("ota", {"transport": "greedy"}, "exact, sinkhorn"),
]


@pytest.mark.parametrize(("name", "settings", "message"), SETTINGS)
def test_settings_that_do_not_fit(name, settings, message):
    with pytest.raises(ValueError, match=message):
        get_method(name).Config(**settings)


def resnet(seed: int, size: int = 16):
    return tiny_model(seed, arch="resnet10", width=8, image_size=size, domain=str(size))


MIXED, RESNETS = [tiny_model(0), resnet(1)], [resnet(0), resnet(1)]
AS_RESNET = {"arch": "resnet10", "width": 8}
POOLS = [
    ("average", MIXED, {}, "must be of one architecture"),
    ("ota", MIXED, {}, "must be of one architecture"),
    ("average", [tiny_model(0), tiny_model(1, width=8)], {}, "must be of one architecture and width"),
    ("average", [tiny_model(0)], AS_RESNET, "conv4 of width 4; the student is set to resnet10"),
    ("average", [tiny_model(0)], {"width": None}, "conv4 of width 4; the student is set to conv4 of width 32"),
    ("dro", [tiny_model(0)], AS_RESNET, "the student is set to resnet10"),
    ("average", [resnet(0, 32), resnet(1, 84)], AS_RESNET, r"above 48 pixels a resnet10 .* for \[32, 84\] pixels"),
    ("ota", RESNETS, AS_RESNET, "OTA aligns conv4 only"),
    ("purer", [tiny_model(0, n_way=4)], {}, "4 classes, too few for n_way=5"),
    ("bidf_mkd", [tiny_model(0, n_way=3)], {}, r"A 5-way student can't be distilled from \[3\]-way models"),
]


@pytest.mark.parametrize(("name", "models", "settings", "message"), POOLS)
def test_pools_that_do_not_fit(name, models, settings, message):
    with pytest.raises(ValueError, match=message):
        get_method(name).meta_train(ModelPool.from_models(models), small(name, **settings), seed=0)


@pytest.mark.parametrize(
    ("settings", "classes", "message"),
    [
        ({}, None, "oracle_maml learns from real images: give dataset="),
        ({}, 4, "too few for n_way=5"),
        ({"precision": "bfloat16"}, 10, "oracle_maml trains in float32, got precision='bfloat16'"),
    ],
)
def test_what_there_is_no_oracle_for(tiny_dataset, settings, classes, message):
    dataset = None if classes is None else tiny_dataset.subset(range(classes))
    with pytest.raises(ValueError, match=message):
        trainer("oracle_maml", tiny_pool(1), dataset=dataset, **settings)()

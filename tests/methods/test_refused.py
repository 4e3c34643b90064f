import pytest
from small_methods import small, trainer
from tiny_models import own, tiny_model, tiny_pool
from torch import nn

from freelib.methods import get_method
from freelib.models.pool import ModelPool

SETTINGS = [
    ("bidf_mkd", {"black_box": True, "lambda_bn": 0.1}, "A black box shows no BatchNorm statistics"),
    ("bidf_mkd", {"black_box": True, "precision": "bfloat16"}, "forward differences need float32"),
    ("pool_distillation", {"recovered": 10, "procedural": 10}, "of 128 images, got 10 synthesised images and 10"),
]


@pytest.mark.parametrize(("name", "settings", "message"), SETTINGS)
def test_settings_that_do_not_fit(name, settings, message):
    with pytest.raises(ValueError, match=message):
        get_method(name).Config(**settings)


def resnet(seed: int, size: int = 16):
    return tiny_model(seed, arch="resnet10", width=8, image_size=size, domain=str(size))


def called_conv4():
    """Someone else's network that says it is freelib's."""
    model = own(arch="conv4")
    model.module.width = 4
    return model


MIXED, RESNETS = [tiny_model(0), resnet(1)], [resnet(0), resnet(1)]
FOUR, OWN = list(tiny_pool(4)), [own(nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), arch="conv4", image_size=16)]
GRAY = [own(nn.Sequential(nn.Flatten(), nn.Linear(256, 3)), mean=(0.5,), std=(0.2,), image_size=16)]
NO_STATISTICS = "No model of the pool has a BatchNorm layer with running statistics: set la"
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
    ("free", FOUR, {"n_way": 9}, "the pool has 8 classes: set n_way=8"),
    ("free", FOUR, {"n_way": 6, "replay_scope": "within"}, "widest model has 5 classes"),
    ("free", FOUR, {"images_per_class": 3, "memory_batches": 1}, r"= 4 images .* = 3"),
    ("bidf_mkd", FOUR, {"images_per_class": 2, "memory_batches": 1}, r"n_shot \+ n_query = 4 images .* = 2"),
    ("free", OWN, {"lambda_bn": 0.05, "kd_heads": "per_model"}, NO_STATISTICS),
    ("pool_distillation", OWN, {"procedural": 200}, NO_STATISTICS),
    ("purer", OWN, {}, NO_STATISTICS),
    ("bidf_mkd", OWN, {"n_way": 3, "lambda_bn": 0.05}, NO_STATISTICS),
    ("pool_distillation", GRAY, {"lambda_bn": 0.0}, "Procedural images have 3 channels, not 1: set procedural=0"),
    ("pool_opinions", GRAY, {}, "not 1, and pool_opinions knows no other images: take pool_feat"),
    *(
        (name, [called_conv4()], {}, "freelib's networks only, and own is another")
        for name in ("average", "ota", "dro")
    ),
]


@pytest.mark.parametrize(("name", "models", "settings", "message"), POOLS)
def test_pools_that_do_not_fit(name, models, settings, message):
    with pytest.raises(ValueError, match=message):
        get_method(name).meta_train(ModelPool.from_models(models), small(name, **settings), seed=0)


@pytest.mark.parametrize("arch", ["own", "conv4"])
def test_a_model_without_features_is_refused_before_it_is_asked_for_them(arch):
    pool = ModelPool.from_models([own(nn.Sequential(nn.Conv2d(3, 3, 8), nn.Flatten()), arch=arch)])
    with pytest.raises(TypeError, match="own has no features"):
        trainer("pool_features", pool)()


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

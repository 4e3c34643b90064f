"""What methods and learners ask of a pool, of images and of checkpoints, said before any work starts."""

from __future__ import annotations

import pytest
import torch
from tiny_models import own, rng, tiny_model, tiny_pool
from torch import nn

from freelib.methods import get_method
from freelib.methods.base import MethodConfig
from freelib.methods.bidf_mkd import BidfMkdConfig
from freelib.methods.free import FreeConfig
from freelib.methods.pool_distillation import PoolDistillationConfig
from freelib.methods.purer import PurerConfig
from freelib.models.pool import ModelPool
from freelib.storage import Checkpoint

SMALL = {
    "n_query": 2, "width": 4, "warmup_rounds": 1, "rounds": 1, "adapt_steps": 1, "images_per_class": 3,
    "z_dim": 8, "ngf": 4, "replay_batches": 1, "replay_episodes": 1, "monitor_every": 0, "inner_steps": 1,
}  # fmt: skip


def gray_pool() -> ModelPool:
    module = nn.Sequential(nn.Flatten(), nn.Linear(16 * 16, 3))
    return ModelPool.from_models([own(module, mean=(0.5,), std=(0.2,), image_size=16)])


@pytest.mark.parametrize("arch", ["own", "conv4"])
def test_a_model_without_features_is_refused_before_it_is_asked_for_them(arch):
    pool = ModelPool.from_models([own(nn.Sequential(nn.Conv2d(3, 3, 8), nn.Flatten()), arch=arch)])
    method = get_method("pool_features")
    with pytest.raises(TypeError, match="own has no features"):
        method.meta_train(pool, method.Config(), seed=0)


FEW = {"n_query": 3, "images_per_class": 2, "memory_batches": 1, "adapt_steps": 1, "rounds": 1}


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("free", FreeConfig(**SMALL | {"n_way": 9}), "the pool has 8 classes: set n_way=8"),
        ("free", FreeConfig(**SMALL | {"n_way": 6}, replay_scope="within"), "widest model has 5 classes"),
        ("free", FreeConfig(**SMALL | {"memory_batches": 1, "n_query": 3}), r"= 4 images .* = 3"),
        ("bidf_mkd", BidfMkdConfig(**FEW), r"n_shot \+ n_query = 4 images .* = 2"),
    ],
)
def test_what_could_never_be_replayed(name, config, words):
    with pytest.raises(ValueError, match=words):
        get_method(name).meta_train(tiny_pool(4), config, seed=0)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("free", FreeConfig(**SMALL, lambda_bn=0.05, kd_heads="per_model")),
        ("pool_distillation", PoolDistillationConfig(procedural=200)),
        ("purer", PurerConfig(width=4, rounds=1)),
        ("bidf_mkd", BidfMkdConfig(n_way=3, width=4, rounds=1, adapt_steps=1, lambda_bn=0.05)),
    ],
)
def test_statistics_that_a_model_does_not_have_are_not_waited_for(name, config):
    models = [tiny_model(0, n_way=3 if name == "bidf_mkd" else 5), own(arch="conv4")]
    with pytest.raises(ValueError, match="own has no BatchNorm2d layer with running statistics: set la"):
        get_method(name).meta_train(ModelPool.from_models(models), config, seed=0)


def test_gray_pools_are_distilled_without_procedural_images():
    pool, method = gray_pool(), get_method("pool_distillation")
    fields = {"lambda_bn": 0.0, "adapt_steps": 1, "ngf": 4, "z_dim": 8}
    with pytest.raises(ValueError, match="Procedural images have 3 channels, not 1: set procedural=0"):
        method.meta_train(pool, PoolDistillationConfig(**fields), seed=0)
    small = {"recovered": 60, "mixed": 0, "epochs": 1, "batch_size": 16, "embedding": 4, "width": 4}
    config = PoolDistillationConfig(procedural=0, warmup_rounds=0, **small, **fields)
    learner = method.meta_train(pool, config, seed=0)
    assert learner.embed(torch.rand(2, 1, 16, 16)).shape == (2, 4)
    opinions = get_method("pool_opinions")
    with pytest.raises(ValueError, match="not 1, and pool_opinions knows no other images: take pool_feat"):
        opinions.meta_train(pool, opinions.Config(), seed=0)


@pytest.mark.parametrize("name", ["average", "ota", "dro"])
def test_own_networks_are_not_fused_whatever_they_are_called(name):
    model = own(arch="conv4")
    model.module.width = 4
    pool, method = ModelPool.from_models([model]), get_method(name)
    with pytest.raises(ValueError, match=r"fuses the weights of freelib's networks only, and own is another"):
        method.meta_train(pool, method.Config(width=4), seed=0)


def test_a_checkpoint_of_another_run_is_not_taken_up(tmp_path):
    free, checkpoint, pool = get_method("free"), Checkpoint(tmp_path / "run.pt"), tiny_pool(4)
    config = FreeConfig(**SMALL, checkpoint_every=1)
    free.meta_train(pool, config, seed=0, checkpoint=checkpoint)
    before = checkpoint.file.read_bytes()
    others = [
        (pool, config, 1),
        (tiny_pool(3), config, 0),
        (pool, FreeConfig(**SMALL, checkpoint_every=1, align_lr=0.5), 0),
    ]
    for other, settings, seed in others:
        with pytest.raises(ValueError, match=r"run.pt is of a run with another config, seed or pool"):
            free.meta_train(other, settings, seed=seed, checkpoint=checkpoint)
    assert checkpoint.file.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y: (x * 255, y), r"Float images are in \[0, 1\], got values from"),
        (lambda x, y: (x * torch.nan, y), r"got values from nan to nan"),
        (lambda x, y: (x[:, :1], y), r"Images are \(n, 3, H, W\) here, got \(5, 1, 16, 16\)"),
        (lambda x, y: (x.permute(0, 2, 3, 1), y), r"got \(5, 16, 16, 3\)"),
        (lambda x, y: (x, y.int()), r"\(n,\) int64; got 5 support images and labels \(5,\) torch.int32"),
        (lambda x, y: (x, torch.eye(5)), r"labels \(5, 5\) torch.float32"),
        (lambda x, y: (x[:4], y), "got 4 support images"),
        (lambda x, y: (x[:0], y[:0]), "got 0 support images"),
    ],
)
def test_what_a_learner_is_shown(change, words):
    learner = get_method("random").meta_train(tiny_pool(), MethodConfig(width=4), seed=0)
    images, labels = torch.rand(5, 3, 16, 16, generator=rng()), torch.arange(5)
    learner.adapt(images, labels)
    with pytest.raises(ValueError, match=words):
        learner.adapt(*change(images, labels))


def test_a_learner_of_five_classes_takes_on_three():
    learner = get_method("random").meta_train(tiny_pool(), MethodConfig(width=4), seed=0)
    images = torch.rand(60, 3, 16, 16, generator=rng())
    classifier = learner.adapt(images[:3], torch.arange(3))
    assert classifier.logits(images).shape == (60, 3)
    full = learner.forward(classifier.params, learner.prepare(images))
    assert torch.equal(classifier.logits(images), full[:, :3].detach())

"""What settings and models have to be, said before any work starts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import rng, tiny_model, tiny_pool
from torch import nn

from freelib.methods import get_method
from freelib.methods.base import MethodConfig
from freelib.methods.bidf_mkd import BidfMkdConfig
from freelib.methods.free import FreeConfig
from freelib.methods.pool_distillation import PoolDistillationConfig
from freelib.methods.purer import PurerConfig
from freelib.models.backbones import build_backbone
from freelib.models.checks import check_metadata
from freelib.models.pool import ModelPool, PretrainedModel, save_member
from freelib.storage import Checkpoint

NAN, INF = float("nan"), float("inf")

SMALL = {
    "n_query": 2, "width": 4, "warmup_rounds": 1, "rounds": 1, "adapt_steps": 1, "images_per_class": 3,
    "z_dim": 8, "ngf": 4, "replay_batches": 1, "replay_episodes": 1, "monitor_every": 0, "inner_steps": 1,
}  # fmt: skip


def plain(n: int, channels: int = 3) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 16 * 16, n))


def own(module: nn.Module | None = None, **settings) -> PretrainedModel:
    fields = {"name": "own", "class_names": ["a", "b", "c"], "mean": (0.5,) * 3, "std": (0.2,) * 3}
    return PretrainedModel(module or plain(3), **{**fields, "image_size": 16, **settings})


def gray(**settings) -> PretrainedModel:
    return own(plain(3, 1), mean=(0.5,), std=(0.2,), **settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"class_names": "cat"}, "own: class_names is a list of at least two names"),
        ({"class_names": ["a", "b", "a"]}, "no two alike"),
        ({"class_names": ["a"]}, "at least two names"),
        ({"std": (0.2, 0.0, 0.2)}, "own: std is a list of numbers above 0"),
        ({"std": (0.2,)}, "own: mean and std have a number for each channel"),
        ({"std": (NAN,) * 3}, "numbers above 0"),
        ({"std": (INF,) * 3}, "numbers above 0"),
        ({"mean": (NAN,) * 3}, r"mean is a list of numbers in \[0, 1\]"),
        ({"mean": (127,) * 3}, r"numbers in \[0, 1\], of images in \[0, 1\], got \(127"),
        ({"accuracy": 87.0}, r"own: accuracy is a number in \[0, 1\], got 87.0"),
        ({"accuracy": NAN}, r"accuracy is a number in \[0, 1\]"),
        ({"image_size": -4}, "own: image_size is a whole number > 0, got -4"),
    ],
)
def test_a_models_metadata(settings, words):
    with pytest.raises(ValueError, match=words):
        own(**settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("arch", None), ("class_names", 5), ("class_names", {"a": 1, "b": 2}), ("mean", None), ("std", "0.2"),
        ("mean", [None]), ("image_size", 32.7), ("image_size", "32"), ("domain", 3), ("accuracy", "high"),
    ],
)  # fmt: skip
def test_metadata_of_another_type(name, value):
    about = {"class_names": ["a", "b"], "mean": [0.5], "std": [0.2], "image_size": np.int64(32)}
    check_metadata("own", about | {"std": np.full(1, 0.2, dtype=np.float32)})
    with pytest.raises(ValueError, match=rf"^own: {name} is a.*, got"):
        check_metadata("own", about | {name: value})


def test_a_network_is_not_touched_where_its_metadata_are_refused():
    module = plain(3).train()
    with pytest.raises(ValueError, match="accuracy"):
        own(module, accuracy=87.0)
    assert module.training
    assert all(p.requires_grad for p in module.parameters())


def test_metadata_of_numpy_is_kept_as_plain_numbers():
    half = list(np.full(3, 0.5))
    model = own(mean=half, std=half, accuracy=half[0], class_names=list(np.array(["a", "b", "c"])))
    assert {type(name) for name in model.class_names} == {str}
    assert {type(value) for value in (*model.mean, *model.std, model.accuracy)} == {float}


@pytest.mark.parametrize("arch", ["own", "conv4", "resnet18"])
def test_weights_and_answers(arch):
    broken = plain(3)
    with torch.no_grad():
        broken[1].weight[0, 0] = torch.inf
    for module, words in (
        (broken, "own: 1.weight is not finite"),
        (plain(5), r"answer of shape \(2, 5\), expected logits \(2, 3\)"),
        (plain(3).double(), r"own can't answer images \(2, 3, 16, 16\)"),
        (plain(3, channels=1), "own can't answer images"),
    ):
        with pytest.raises(ValueError, match=words):
            ModelPool.from_models([own(module, arch=arch)])


def test_a_network_of_freelibs_has_to_fit_its_metadata_too():
    with pytest.raises(ValueError, match=r"answer of shape \(2, 7\), expected logits \(2, 3\)"):
        ModelPool.from_models([own(build_backbone("conv4", n_way=7, width=4, image_size=16), arch="conv4")])


def test_which_networks_are_someones_own_does_not_count_in_the_digest():
    pool = ModelPool.from_models([own(arch="conv4"), tiny_model(0)])
    assert [description["own"] for description in pool.descriptions] == [True, False]
    digest = pool.digest
    for description in pool.descriptions:
        del description["own"]
    assert pool.digest == digest


def test_a_module_may_keep_more_than_tensors():
    class Noting(nn.Linear):
        def get_extra_state(self):
            return {"made": "here"}

        def set_extra_state(self, state):
            pass

    pool = ModelPool.from_models([own(nn.Sequential(nn.Flatten(), Noting(768, 3)))])
    assert len(pool.digest) == 16


def test_what_models_of_a_pool_share():
    with pytest.raises(ValueError, match=r"own and other both have a class 'a'. Give each a domain"):
        ModelPool.from_models([own(), own(name="other")])
    assert len(ModelPool.from_models([own(domain="x"), own(name="other", domain="y")]).classes) == 6
    with pytest.raises(ValueError, match="one number of channels, not gray of 1 and own of 3"):
        ModelPool.from_models([own(), gray(name="gray", domain="g")])


def test_features_come_from_the_last_linear_layer_that_runs():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)
            self.stem = nn.Linear(768, 4)
            self.unused = nn.Linear(7, 3)

        def forward(self, x):
            return self.head(self.stem(x.flatten(1)))

    assert own(Net()).features(torch.rand(2, 3, 16, 16)).shape == (2, 4)


@pytest.mark.parametrize("arch", ["own", "conv4"])
def test_a_model_without_features_is_refused_before_it_is_asked_for_them(arch):
    pool = ModelPool.from_models([own(nn.Sequential(nn.Conv2d(3, 3, 16), nn.Flatten()), arch=arch)])
    method = get_method("pool_features")
    with pytest.raises(TypeError, match="own has no features"):
        method.meta_train(pool, method.Config(), seed=0)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n_way": 9}, "9-way episodes are to be replayed, but the pool has 8 classes: set n_way=8"),
        ({"n_way": 6, "replay_scope": "within"}, "the pool's widest model has 5 classes"),
        ({"memory_batches": 1, "n_query": 3}, r"n_shot \+ n_query = 4 images .* = 3"),
    ],
)
def test_free_says_that_it_could_never_replay(fields, words):
    with pytest.raises(ValueError, match=words):
        get_method("free").meta_train(tiny_pool(4), FreeConfig(**SMALL | fields), seed=0)


def test_bidf_mkd_says_that_it_could_never_replay():
    config = BidfMkdConfig(n_query=3, images_per_class=2, memory_batches=1, adapt_steps=1, rounds=1)
    with pytest.raises(ValueError, match=r"n_shot \+ n_query = 4 images .* = 2"):
        get_method("bidf_mkd").meta_train(tiny_pool(2), config, seed=0)


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
    models = [tiny_model(0, n_way=3) if name == "bidf_mkd" else tiny_model(0), own(arch="conv4")]
    with pytest.raises(ValueError, match="own has no BatchNorm2d layer with running statistics: set la"):
        get_method(name).meta_train(ModelPool.from_models(models), config, seed=0)


def test_gray_pools_are_distilled_without_procedural_images():
    pool = ModelPool.from_models([gray()])
    method, fields = (
        get_method("pool_distillation"),
        {"lambda_bn": 0.0, "adapt_steps": 1, "ngf": 4, "z_dim": 8},
    )
    with pytest.raises(ValueError, match="Procedural images have 3 channels, not 1: set procedural=0"):
        method.meta_train(pool, PoolDistillationConfig(**fields), seed=0)
    small = {"recovered": 60, "mixed": 0, "epochs": 1, "batch_size": 16, "embedding": 4, "width": 4}
    config = PoolDistillationConfig(procedural=0, warmup_rounds=0, **small, **fields)
    learner = method.meta_train(pool, config, seed=0)
    assert learner.embed(torch.rand(2, 1, 16, 16)).shape == (2, 4)


def test_gray_pools_have_no_opinion_of_procedural_images():
    pool, opinions = ModelPool.from_models([gray()]), get_method("pool_opinions")
    with pytest.raises(ValueError, match="not 1, and Pool opinions knows no other images: take pool_feat"):
        opinions.meta_train(pool, opinions.Config(), seed=0)


@pytest.mark.parametrize("name", ["average", "ota", "dro"])
def test_own_networks_are_not_fused_whatever_they_are_called(name):
    module = plain(3)
    module.width = 4
    pool, method = ModelPool.from_models([own(module, arch="conv4")]), get_method(name)
    with pytest.raises(ValueError, match=r"fuses the weights of freelib's networks only, and own is another"):
        method.meta_train(pool, method.Config(width=4), seed=0)


def test_weights_on_disk_are_finite(tmp_path):
    model = tiny_model(0)
    with torch.no_grad():
        model.module.encoder[0].conv.weight[0] = NAN
    save_member(model, tmp_path)
    pool = ModelPool.load(tmp_path)
    with pytest.raises(ValueError, match=r"tiny-conv4-0000.safetensors: encoder.0.conv.weight is not finite"):
        pool[0]


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


def test_only_freelibs_own_networks_are_stored(tmp_path):
    with pytest.raises(ValueError, match="own is a custom module"):
        save_member(own(arch="conv4"), tmp_path)
    assert not list(tmp_path.iterdir())


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

"""Pools and learners of a run, kept in folders."""

from dataclasses import replace

import pytest
import torch
from fake_methods import TINY, write_parquet
from methods.small_methods import small
from tiny_models import rng, tiny_pool
from torch import nn

from freelib import get_method, load_learner, save_learner
from freelib.datasets import load_dataset
from freelib.methods.base import build_student
from freelib.run import Run, Unit, evaluate, run_units
from freelib.run.pools import get_pool, pool_config, pool_folder, pool_identity, pool_parts, pool_seed, pretrain_into
from freelib.run.runner import learner_file
from freelib.run.units import make_config
from freelib.storage import load_tensors


def test_config_takes_the_profiles_fields():
    profile = replace(TINY, pool_by_dataset={"cub": {"epochs": 7}})
    assert pool_config("cub", profile).epochs == 7
    assert pool_config("cifar-fs", profile).epochs == 1
    with pytest.raises(ValueError, match="no field models"):
        pool_config("cub", replace(TINY, pool={"models": 3}))
    assert [pool_seed(TINY, seed) for seed in (0, 3)] == [0, 3]
    assert [pool_seed(replace(TINY, pool_seed=7), seed) for seed in (0, 3)] == [7, 7]


def test_a_pool_is_made_once_and_found_by_what_determines_it(tiny_world, monkeypatch):
    pool = get_pool("cifar-fs", TINY, 0)
    assert len(pool) == 2
    train = load_dataset("cifar-fs", "train", size=16)
    identity = pool_identity(train, pool_config("cifar-fs", TINY), 0)
    folder = pool_folder(identity)
    assert folder.parent == tiny_world / "pools"
    assert {path.suffix for path in folder.iterdir()} >= {".json", ".safetensors"}
    others = [
        pool_identity(train, pool_config("cifar-fs", TINY), 1),
        pool_identity(train, pool_config("cifar-fs", replace(TINY, pool={"epochs": 2})), 0),
        pool_identity(load_dataset("cifar-fs", "test", size=16), pool_config("cifar-fs", TINY), 0),
    ]
    assert len({pool_folder(other) for other in [identity, *others]}) == 4
    monkeypatch.setattr("freelib.models.pretraining.pretrain_model", None)  # nothing is left to train
    calls = []
    again, place = pretrain_into("cifar-fs", TINY, 0, progress=lambda *numbers: calls.append(numbers))
    assert (again.digest, place, calls) == (pool.digest, folder, [(2, 2)])


def test_parts_of_one_data_set_have_models_of_different_classes(tiny_world):
    """The classes of a model depend on the seed and on its place in its part: each part has its own seed."""
    parts = ({}, {"archs": ("resnet10",), "n_models": 1, "epochs": 0}, {"width": 8, "archs": ("resnet18",)})
    profile = replace(TINY, pool_parts=parts)
    pool = get_pool("cifar-fs", profile, 0)
    assert [d["arch"] for d in pool.descriptions] == ["conv4"] * 2 + ["resnet10"] + ["resnet18"] * 2
    assert len({tuple(d["class_names"]) for d in pool.descriptions}) == 5
    assert pool[:2].digest == get_pool("cifar-fs", TINY, 0).digest  # the first is the pool of its own
    assert [part.seed(3) for part in pool_parts("cifar-fs+cub", profile)] == [3, 1003, 2003] * 2


BOTH = "cifar-fs+mini-imagenet"
PROFILE = replace(TINY, datasets=(BOTH,), image_size_by_dataset={"mini-imagenet": 20}, pool_parts=({"take": 1},))


@pytest.fixture
def two_datasets(tmp_path, monkeypatch):
    """A tiny CIFAR-FS and a tiny mini-ImageNet."""
    for name in BOTH.split("+"):
        write_parquet(tmp_path / "data", name)
    monkeypatch.setenv("FREELIB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FREELIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FREELIB_WORKERS", "1")


def test_one_training_is_tested_on_every_data_set(two_datasets, tmp_path):
    unit = Unit("table2", "fake_methods:Drifting", BOTH, 1, 0)
    (made,) = run_units([unit], PROFILE, tmp_path)
    assert (made["dataset"], made["n_episodes"], len(made["episode_accuracies"])) == (BOTH, 12, 12)
    assert made["evaluation"]["image_size"] == [16, 20]
    assert [(part["dataset"], part["image_size"], part["take"]) for part in made["pool"]["parts"]] == [
        ("cifar-fs", 16, 1), ("mini-imagenet", 20, 1),
    ]  # fmt: skip
    pool, run = get_pool(BOTH, PROFILE, 0), Run(unit, PROFILE)
    assert [(d["domain"], d["image_size"]) for d in pool.descriptions] == [
        ("cifar-fs", 16), ("mini-imagenet", 20),
    ]  # fmt: skip
    learner = build_student(pool, run.settings["config"], seed=0)
    learner.load_params(load_tensors(learner_file(made["config_digest"])))
    apart = made["episode_accuracies"][:6], made["episode_accuracies"][6:]
    for accuracies, sampler in zip(apart, run.samplers("test"), strict=True):
        assert accuracies == pytest.approx(evaluate(learner, sampler, 6).accuracies.tolist(), abs=0.01)
    assert made["accuracy"] == pytest.approx(sum(map(sum, apart)) / 12, abs=0.01)


def saved(folder, method, **fields):
    """A small learner of a method on the tiny pool, saved in a folder."""
    pool, pool_folder = pretrain_into("cifar-fs", TINY, 0)
    config = small(method, **fields)
    learner = get_method(method).meta_train(pool, config, seed=3)
    save_learner(learner, folder, method=method, config=config, seed=3, pool=pool, pool_folder=pool_folder)
    return learner


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("fake_methods:Drifting", {"head": "anil", "test_steps": 3}),
        ("pool_features", {"centre": "none"}),
        ("pool_distillation", {}),
        ("purer", {"icfil_inversion_steps": 2}),
    ],
)
def test_a_learner_comes_back_and_predicts_the_same(tiny_world, tmp_path, method, fields):
    learner = saved(tmp_path, method, **fields)
    images = torch.rand(10, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(5)
    expected = learner.adapt(images[:5], labels).logits(images[5:])
    file = tmp_path / "learner.json"
    for device in ("cpu", "cuda:99"):  # one that is not here
        file.write_text(file.read_text().replace('"device": "cpu"', f'"device": "{device}"'))
        again = load_learner(tmp_path, allow_custom=True)
        assert torch.equal(again.adapt(images[:5], labels).logits(images[5:]), expected)


def test_of_a_network_of_ones_own_the_weights_are_kept_and_that_is_said(tiny_world, tmp_path):
    pool, pool_folder = pretrain_into("cifar-fs", TINY, 0)
    config = make_config("fake_methods:Drifting", {})
    learner = build_student(pool, config, seed=0)
    learner.backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    about = {"method": "mine:Own", "config": config, "seed": 3, "pool": pool, "pool_folder": pool_folder}
    save_learner(learner, tmp_path, **about)
    assert torch.equal(load_tensors(tmp_path / "learner.safetensors")["1.bias"], learner.backbone[1].bias)
    with pytest.raises(TypeError, match="a student that only mine:Own can build"):
        load_learner(tmp_path)


def test_a_pool_that_changed_is_noticed_and_one_of_ones_own_is_given(tiny_world, tmp_path):
    saved(tmp_path, "best_teacher")
    file = tmp_path / "learner.json"
    file.write_text(file.read_text().replace('"pool_digest": "', '"pool_digest": "x'))
    with pytest.raises(ValueError, match="is not the one that"):
        load_learner(tmp_path)
    pool = tiny_pool()
    method, config = get_method("pool_features"), make_config("pool_features", {})
    learner = method.meta_train(pool, config, seed=0)
    save_learner(learner, tmp_path, method="pool_features", config=config, seed=0, pool=pool)
    with pytest.raises(ValueError, match="give load_learner that pool"):
        load_learner(tmp_path)
    with pytest.raises(ValueError, match="is not the one that"):
        load_learner(tmp_path, pool=pool[:2])
    images = torch.rand(5, 3, 16, 16, generator=rng())
    again = load_learner(tmp_path, pool=pool)
    assert torch.equal(again.embed(images), learner.embed(images))
    learner = saved(tmp_path / "a", "random", width=8)
    with pytest.raises(ValueError, match="PurerConfig is no config of random"):
        save_learner(
            learner, tmp_path / "b", method="random", config=make_config("purer", {}), seed=0, pool=tiny_pool()
        )
    assert not (tmp_path / "b").exists()


def test_a_method_that_a_file_names_is_imported_where_that_is_asked_for(tiny_world, tmp_path, monkeypatch):
    saved(tmp_path, "fake_methods:Drifting", width=8)
    file = tmp_path / "learner.json"
    (tmp_path / "strange.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    file.write_text(file.read_text().replace("fake_methods:Drifting", "strange:Method"))
    with pytest.raises(SystemExit, match="imported"):
        load_learner(tmp_path, allow_custom=True)

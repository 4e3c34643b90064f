"""One run on a pool of models of several data sets: tested on each, at each one's own size."""

from dataclasses import replace

import pytest
from fake_methods import TINY, write_parquet

from freelib.methods.base import build_student
from freelib.run import Run, Unit, evaluate, get_pool, run_units
from freelib.run.runner import learner_file
from freelib.storage import load_tensors

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

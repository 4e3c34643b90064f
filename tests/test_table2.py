from dataclasses import replace

import pytest
from fake_methods import TINY, write_parquet
from test_tables import record

from freelib.experiments import table2
from freelib.experiments.alignment_claim import alignment_helps, claim
from freelib.methods.base import build_student
from freelib.run.evaluation import evaluate
from freelib.run.pools import get_pool
from freelib.run.profiles import get_profile
from freelib.run.records import RecordStore
from freelib.run.runner import TEST_SEED, Run, learner_file, run_unit
from freelib.run.units import Unit, grid
from freelib.storage import load_tensors

BOTH = "cifar-fs+mini-imagenet"
MIXED = replace(
    TINY, datasets=(BOTH,), image_size_by_dataset={"mini-imagenet": 20}, pool_parts=({"take": 1},)
)
DRIFTING = Unit("table2", "fake_methods:Drifting", BOTH, 1, 0)


@pytest.fixture
def two_domains(tmp_path, monkeypatch):
    """A tiny CIFAR-FS and a tiny mini-ImageNet."""
    for name in BOTH.split("+"):
        write_parquet(tmp_path / "data", name)
    monkeypatch.setenv("FREELIB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FREELIB_CACHE", str(tmp_path / "cache"))


def test_one_training_is_tested_on_every_domain(two_domains, tmp_path):
    made = run_unit(DRIFTING, MIXED, RecordStore(tmp_path / "records"))
    assert (made["dataset"], made["n_episodes"], len(made["episode_accuracies"])) == (BOTH, 12, 12)
    assert made["evaluation"]["image_size"] == [16, 20]
    assert [(part["dataset"], part["image_size"], part["take"]) for part in made["pool"]["parts"]] == [
        ("cifar-fs", 16, 1), ("mini-imagenet", 20, 1),
    ]  # fmt: skip
    pool = get_pool(BOTH, MIXED, 0)
    assert [(d["domain"], d["image_size"]) for d in pool.descriptions] == [
        ("cifar-fs", 16), ("mini-imagenet", 20),
    ]  # fmt: skip
    assert pool.descriptions[0]["mean"] != pool.descriptions[1]["mean"]
    run = Run(DRIFTING, MIXED)
    learner = build_student(pool, run.settings["config"], seed=0)
    learner.load_params(load_tensors(learner_file(made["config_digest"])))
    by_domain = table2.by_domain(made)
    for part, sampler in zip(by_domain, run.samplers("test", TEST_SEED), strict=True):
        assert part["dataset"] == sampler.dataset.name
        assert part["accuracy"] == pytest.approx(evaluate(learner, sampler, 6).mean, abs=0.01)
    assert made["accuracy"] == pytest.approx(sum(part["accuracy"] for part in by_domain) / 2, abs=0.01)
    with pytest.raises(ValueError, match="several data sets"):
        run.dataset("train")


def test_free_and_fused_weights_learn_from_models_of_two_sizes(two_domains, tmp_path):
    small = {
        "warmup_rounds": 1, "rounds": 1, "ngf": 4, "z_dim": 8, "images_per_class": 4, "adapt_steps": 1,
        "replay_batches": 1, "replay_episodes": 1, "inner_steps": 1, "kd_heads": "per_model",
    }  # fmt: skip
    store = RecordStore(tmp_path / "records")
    units = [*grid("table2", ["average"], [BOTH], [1], [0])]
    units += [Unit("table2", "free", BOTH, 1, 0, {**small, **words}) for words in ({}, table2.SUMMED)]
    records = [run_unit(unit, MIXED, store) for unit in units]
    assert records[1]["history"]["replay_batches"] == [1]  # its episodes mix images of both sizes
    table = table2.rows(records)
    assert table["dataset"].tolist() == [name for name in (*BOTH.split("+"), BOTH) for _ in range(3)]
    assert table.groupby("dataset")["method"].nunique().tolist() == [3, 3, 3]


def test_pool_distillation_learns_from_models_of_two_sizes(two_domains, tmp_path):
    small = {
        "recovered": 8, "procedural": 12, "mixed": 8, "warmup_rounds": 0, "ngf": 4, "z_dim": 8,
        "images_per_class": 2, "adapt_steps": 1, "embedding": 4, "epochs": 1, "batch_size": 4,
    }  # fmt: skip
    made = run_unit(
        Unit("table2", "pool_distillation", BOTH, 1, 0, small), MIXED, RecordStore(tmp_path / "records")
    )
    assert made["history"]["epoch"] == [1]
    assert len(table2.by_domain(made)) == 2
    assert made["evaluation"]["image_size"] == [16, 20]  # one student sees each domain at its own size


def test_rows_are_by_domain_then_on_the_mean():
    def made(method, accuracies, **config):
        return record(method, accuracies, dataset="cifar-fs+cub", config=config)

    records = [
        made("free", [50.0, 52.0, 30.0, 32.0]),
        made("free", [46.0, 48.0, 33.0, 35.0], alignment="summed"),
    ]
    table = table2.rows(records)
    assert table["dataset"].tolist() == [name for name in ("cifar-fs", "cub", "cifar-fs+cub") for _ in "12"]
    assert table["accuracy"].tolist() == [47, 51, 31, 34, 40.5, 41]
    assert table["n_episodes"].tolist() == [2, 2, 2, 2, 4, 4]
    assert table["difference"].dropna().tolist() == [-4, 3, -0.5]
    words = table2.conclusion(table)
    assert words.startswith(
        "On CIFAR-FS, 1-shot, summed gradients in place of BelL: lower by 4.0 ± 0.0 points, one seed."
    )
    assert "On CUB, 1-shot, summed gradients in place of BelL: higher by 3.0 ± 0.0 points, one seed." in words
    assert not alignment_helps(table)
    assert claim(table) == "one seed"
    assert claim(table2.rows(records[:1])) == "not measured yet"
    table = table2.rows(records + [{**each, "seed": 1} for each in records])
    assert not alignment_helps(table)
    assert claim(table) == "holds in part"
    assert claim(table[table["dataset"] == "cifar-fs"]) == "holds"
    assert alignment_helps(table[table["dataset"] == "cifar-fs"])


def test_the_domains_sizes_come_from_the_record():
    one = {"config": {"n_models": 40}}
    parts = [{"dataset": "cifar-fs", "take": 14, **one}, {"dataset": "cub", **one}]
    made = record("free", [50.0], dataset="cifar-fs+cub", pool={"parts": parts})
    made["evaluation"] = {"image_size": [32, None]}
    assert table2.sizes(made) == "CIFAR-FS: 14 models, 32 pixels; CUB: 40 models, images of their own size"


def test_the_profiles_have_three_domains_of_different_sizes():
    for name in ("smoke", "cpu"):
        profile = get_profile(name).for_experiment("table2")
        domains = profile.datasets[0].split("+")
        assert len(domains) == 3
        sizes = {
            Run(Unit("table2", "random", d, 1, 0), profile).settings["evaluation"]["image_size"]
            for d in domains
        }
        assert len(sizes) > 1 or sizes == {None}  # each its own


def test_free_comes_twice(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(table2, "run_grid", lambda units, *_, **__: asked.extend(units) or [])
    table2.run(MIXED, results=tmp_path, methods=["random", "free"])
    assert [(unit.method, unit.overrides, unit.dataset) for unit in asked] == [
        ("random", {}, BOTH), ("free", {}, BOTH), ("free", {"alignment": "summed"}, BOTH),
    ]  # fmt: skip

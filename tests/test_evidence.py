from dataclasses import replace

from fake_methods import TINY
from made_records import made
from test_tables import record

from freelib.experiments.evidence import PLANS, Evidence, unmeasured, unmeasured_seeds
from freelib.run.grid import standing
from freelib.run.profiles import get_profile
from freelib.run.records import RecordStore
from freelib.run.units import Unit, grid

PROFILE = replace(TINY, n_episodes=4, methods=("random", "free"), seeds=(0, 1))
FREE = Unit("table1", "free", "cifar-fs", 1, 0)


def store_of(folder, *records):
    """A store with these records."""
    store = RecordStore(folder)
    for each in records:
        store.put(each)
    return store


def test_runs_are_told_apart_into_those_with_a_record_and_the_rest(tmp_path):
    store = store_of(tmp_path, made(FREE, PROFILE, [1.0] * 4))
    evidence = Evidence(PROFILE, store)
    runs = evidence.runs("table1")
    assert [(r["method"], r["seed"]) for r in runs.records] == [("free", 0)]
    assert (len(runs.wanted), len(runs.missing)) == (4, 3)
    assert runs.lacking() == ("CIFAR-FS, 1-shot: Random, FREE (seed 1)",)
    assert runs.lacking(lambda unit: unit.method == "random") == ("CIFAR-FS, 1-shot: all",)
    assert evidence.runs("table1") is runs


def test_a_record_from_another_pool_is_not_the_units(tmp_path):
    """Table 3's and figure 7's pools are others than table 1's, with the same settings of the method."""
    record = made(FREE, PROFILE, [1.0] * 4)
    store = store_of(tmp_path, record)
    assert standing([FREE], PROFILE, store) == [record]
    assert standing([FREE], replace(PROFILE, pool_parts=({"take": 1},)), store) == []
    assert standing([FREE], replace(PROFILE, pool_parts=({}, {"archs": ("resnet10",)})), store) == []
    assert standing([FREE], replace(PROFILE, pool={"n_models": 3, "epochs": 1, "width": 4}), store) == []
    assert standing([FREE], replace(PROFILE, pool_seed=5), store) == []


def test_what_is_missing_in_words():
    wanted = grid("t", ["free", "ota"], ["cifar-fs", "cub"], [1, 5], [0, 1, 2])
    there = [unit for unit in wanted if unit.dataset == "cifar-fs" and unit.seed == 0]
    missing = [unit for unit in wanted if unit not in there]
    assert unmeasured(wanted, missing) == (
        "CIFAR-FS, 1-shot and 5-shot: FREE (seeds 1, 2), OTA (seeds 1, 2)",
        "CUB, 1-shot and 5-shot: all",
    )
    changed = Unit("t", "free", "cub", 1, 0, {"alignment": "summed"})
    assert unmeasured([*wanted, changed], [changed]) == ("CUB, 1-shot: FREE with alignment = summed",)
    assert unmeasured(wanted, []) == ()


def test_the_newest_measurement_of_each_data_set_and_seed_counts(tmp_path):
    def cost(started, **changes):
        return record("cost", [1.0], started=f"2026-01-0{started}T00:00:00+00:00", **changes)

    old, new = cost(1, config={"rounds": 1}), cost(2, config={"rounds": 2})
    other, far = cost(1, seed=1), cost(3, dataset="cub")
    evidence = Evidence(PROFILE, store_of(tmp_path, new, old, other, far))
    assert evidence.latest("cost", ("cifar-fs",)) == [new, other]
    assert evidence.latest("cost", ("cub", "cifar-fs")) == [far, new, other]
    assert evidence.latest("spread") == []
    both = replace(PROFILE, datasets=("cifar-fs", "cub"), seeds_by_dataset={"cub": (0,)})
    assert unmeasured_seeds(both, [new]) == ("CIFAR-FS: seed 1", "CUB: all")
    assert unmeasured_seeds(both, [new, other, far]) == ()


def test_every_plan_has_runs_in_every_profile():
    for name in ("smoke", "cpu"):
        profile = get_profile(name)
        for name, plan in PLANS.items():
            runs = sum(len(units) for _, units in plan(profile))
            assert runs == 1 if name == "paper_size" else runs > 1

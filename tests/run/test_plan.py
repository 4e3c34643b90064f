"""What runs take: the units of the notebooks' grids, and forecasts by the committed records, by value."""

import json
from pathlib import Path

import nbformat
import pytest
from fake_methods import TINY

from freelib.run.plan import (
    Costs,
    earlier_runs,
    forecast,
    held_out,
    jobs,
    settings_of,
    spent,
    trainings,
    wall_clock,
    work,
)
from freelib.run.profiles import get_profile
from freelib.run.runner import Run
from freelib.run.units import Unit, table_units

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"


@pytest.fixture(scope="module")
def records():
    return earlier_runs(ROOT / "results", "cpu")


@pytest.fixture(scope="module")
def costs(records):
    return Costs(records)


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_what_asks_for_runs_is_tagged_as_a_grid(path):
    cells = nbformat.read(path, as_version=4).cells
    asking = [cell for cell in cells if cell.cell_type == "code" and "run_units(" in cell.source]
    assert all("grid" in cell.metadata.get("tags", ()) for cell in asking)


def test_the_grids_ask_for_the_committed_records(records):
    listed = json.loads((ROOT / "tests/committed_records.json").read_text(encoding="utf-8"))
    served, asked = trainings(NOTEBOOKS, PROFILE="cpu")
    assert {key for keys in asked.values() for key in keys} == served.keys()
    digests = set()
    for unit, profile in (each for units in served.values() for each in units):
        run = Run(unit, profile)
        found = [r["config_digest"] for r in records if r["method"] == unit.method and run.is_served_by(r)]
        assert len(found) == 1, unit.name
        digests |= {*found}
    assert digests == {unit["digest"] for unit in listed["units"]}


def test_parameters_narrow_the_grids():
    served, asked = trainings(NOTEBOOKS, PROFILE="paper", DATASETS=["cub"])
    profile = get_profile("paper")
    wanted = {(unit.method, unit.n_shot) for unit in table_units("table1", profile, datasets=["cub"])}
    found = {(u.method, u.n_shot) for key in asked["01_table1"] for u, _ in served[key]}
    assert found == wanted | {("tgr", 1), ("tgr", 5)}  # on the first data set that is asked for
    assert len(asked["01_table1"]) < len(wanted)  # one training serves both numbers of shots


def test_work_by_hand():
    unit = Unit("x", "free", "cifar-fs", 5, 0, {"rounds": 100, "warmup_rounds": 10, "replay_batches": 7})
    counts = work(settings_of(unit, TINY))
    assert counts["recovery"] == 110 * 4 * 5 * 20  # rounds × models × iterations × images a class
    assert counts["test"] == 6 * (10 * 5 + 3)
    assert counts["replay"] == 100 * 7 * 10 * (5 * 5 + 3)
    assert counts["monitor"] == 50 * 4 * (10 * 5 + 3)


def test_cpu_seconds_of_a_record_by_hand():
    seconds = {"training": 100.0, "training_cpu": 50.0, "recovery": 60.0, "test": 9.0}
    seconds |= {"monitor": 20.0, "monitor_cpu": 1.0}
    assert spent({"seconds": seconds}) == {"recovery": 30, "monitor": 10, "rest": 10, "test": 9}


def test_held_out_records_are_forecast(records):
    ratios = [ratio for _, ratio in held_out(records)]
    assert len(ratios) > 100
    assert sum(abs(ratio - 1) <= 0.25 for ratio in ratios) >= 0.9 * len(ratios)


def test_costs_follow_the_settings(costs):
    def seconds(**overrides):
        return costs.seconds(settings_of(Unit("x", "free", "cifar-fs", 1, 0, overrides), get_profile("cpu")))

    usual, longer, other = seconds(), seconds(align_sweeps=24), seconds(precision="float32")
    assert longer["alignment"] == pytest.approx(2 * usual["alignment"])
    assert 1.2 < other["recovery"] / usual["recovery"] < 3
    assert seconds(alignment="variance")["alignment"] == pytest.approx(2 * usual["alignment"])  # twice the gradients
    assert "recovery" not in costs.seconds(settings_of(Unit("x", "fake_methods:Drifting", "cifar-fs", 1, 0), TINY))


def test_a_phase_that_only_a_method_of_ones_own_has_is_told_as_it_was(records):
    seconds = {"training": 30.0, "training_cpu": 30.0, "tuning": 30.0}
    own = [{**record, "method": "own", "seconds": seconds} for record in records[:5]]
    found = Costs(own).seconds(own[0])
    assert found["tuning"] == pytest.approx(30, rel=0.1)


def test_jobs_and_their_wall_clock(costs):
    profile = get_profile("cpu")
    served = {"a": [(unit, profile) for unit in table_units("t", profile, ["random"], datasets=["cub"])]}
    found = jobs(served, costs)
    (pool, run) = found.values()
    assert (pool["threads"], run["needs"]) == (40, [next(iter(found))])
    assert wall_clock(found, 1) == pytest.approx(pool["seconds"] + run["seconds"])
    assert wall_clock(found, 99) == pytest.approx(pool["seconds"] / 40 + run["seconds"])


@pytest.mark.parametrize(("needs", "workers", "hours"), [([], 1, 9), ([], 2, 5), ([], 3, 4), (["p"], 2, 6)])
def test_wall_clock_by_hand(needs, workers, hours):
    found = {name: {"needs": needs, "threads": 1, "seconds": s} for name, s in (("a", 4), ("b", 3), ("c", 2))}
    found |= {"p": {"needs": [], "threads": 2, "seconds": 2}} if needs else {}
    assert wall_clock(found, workers) == hours


def test_a_dry_run_tells_what_the_committed_records_say(monkeypatch):
    monkeypatch.chdir(ROOT)

    def told(method, **overrides):
        return forecast(Unit("train", method, "cifar-fs", 1, 0, overrides), TINY, None, None)

    free, longer = (told("free", warmup_rounds=0, rounds=n) for n in (100, 200))
    assert (free["pool"], free["models"], free["rounds"]) == ("cifar-fs, profile tiny", 2, 100)
    assert 1 < free["seconds"] == pytest.approx(longer["seconds"] / 2, abs=1)
    assert told("random")["seconds"] is None

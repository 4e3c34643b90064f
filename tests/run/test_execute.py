import time
from dataclasses import replace

import pytest
from fake_methods import TINY
from processes import start_python

from freelib.run import execute, runner
from freelib.run.execute import GridError, _longest_first, run_units
from freelib.run.records import RecordStore
from freelib.run.runner import run_unit
from freelib.run.units import Unit

DRIFTING = Unit("t", "fake_methods:Drifting", "cifar-fs", 1, 3)
SHOTLESS = replace(DRIFTING, method="fake_methods:Shotless")
LASTING = ("episode_accuracies", "history", "threads", "config_digest", "pool_digest")


def store_of(results):
    return RecordStore(results / "tiny" / "records")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failing_unit_is_named_and_takes_no_other_with_it(tiny_world, tmp_path, workers):
    bad = replace(DRIFTING, seed=0, overrides={"fail_at": 2})
    with pytest.raises(GridError, match=r"(?s)1 of 2 units failed.*seed 0 \(fail_at=2\).*told to fail in round 2"):
        run_units([bad, DRIFTING], TINY, tmp_path / "a", workers=workers)
    (record,) = store_of(tmp_path / "a").all()
    assert run_units([DRIFTING, DRIFTING], TINY, tmp_path / "a") == [record, record]
    inside = run_unit(DRIFTING, TINY, RecordStore(tmp_path / "b"))  # the same bits in a process and in this one
    assert [record[name] for name in LASTING] == [inside[name] for name in LASTING]


def test_one_training_serves_all_shots_that_are_wanted(tiny_world, tmp_path, monkeypatch):
    units = [replace(SHOTLESS, n_shot=n, overrides={"rounds": 1}) for n in (3, 2)]
    run_one, trained = execute._run_one, []
    monkeypatch.setattr(execute, "_run_one", lambda *a: trained.append(1) or run_one(*a))
    records = run_units(units, TINY, tmp_path, workers=1)
    assert [record["n_shot"] for record in records] == [3, 2]  # TINY has 1 alone
    assert records[0]["history"] == records[1]["history"]
    assert len(trained) == 1
    monkeypatch.setattr(execute, "_run_all", lambda *_: None)
    with pytest.raises(GridError, match=r"1 of 3 units ended without a record: .*4-shot, seed 3"):
        run_units([*units, replace(units[0], n_shot=4)], TINY, tmp_path)


def test_records_are_read_without_data_and_not_mixed_with_those_of_other_images(tiny_world, tmp_path, monkeypatch):
    made = run_unit(DRIFTING, TINY, RecordStore(tmp_path / "made"))
    other = made | {"data_digest": "0" * 16}
    other["config_digest"] = runner.config_digest(other)
    store_of(tmp_path).put(other)
    with pytest.raises(ValueError, match="made from other images of cifar-fs"):
        run_units([DRIFTING, replace(DRIFTING, seed=4)], TINY, tmp_path)
    units = [replace(DRIFTING, seed=seed, overrides={"rounds": 1}) for seed in (3, 4)]
    made = run_unit(units[1], TINY, store_of(tmp_path))
    monkeypatch.setenv("FREELIB_DATA", str(tmp_path / "nothing"))
    monkeypatch.setenv("FREELIB_CACHE", str(tmp_path / "empty"))
    assert run_units([replace(units[1], experiment="u")], TINY, tmp_path) == [made]
    with pytest.raises(FileNotFoundError, match="cifar-fs is not in"):
        run_units(units, TINY, tmp_path)


def test_a_killed_process_fails_its_unit_alone(tiny_world, tmp_path):
    units = [replace(DRIFTING, method="fake_methods:Doomed", seed=seed, overrides={"rounds": 1}) for seed in (0, 1)]
    with pytest.raises(GridError, match=r"(?s)1 of 2 units failed.*seed 0.*ended with -9 \(memory ran out\?\)"):
        run_units(units, TINY, tmp_path, workers=2)
    assert [record["seed"] for record in store_of(tmp_path).all()] == [1]


PARENT = """
import sys
from fake_methods import TINY
from freelib.run.execute import run_units
from freelib.run.units import Unit
if __name__ == "__main__":
    long = {"rounds": 1000, "pause": 0.05}
    units = [Unit("t", "fake_methods:Drifting", "cifar-fs", 1, seed, long) for seed in (0, 1)]
    run_units(units, TINY, sys.argv[1], workers=2)
"""


def test_processes_end_with_a_parent_that_is_killed(tiny_world, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(PARENT)
    parent = start_python(script, tmp_path)
    checkpoints = tiny_world / "checkpoints"
    try:
        deadline = time.monotonic() + 60
        while not [*checkpoints.glob("*.pt")] and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        parent.kill()
    # the children hold the pipe's other end: it closes when the last of them has ended
    parent.communicate(timeout=30)
    for file in checkpoints.glob("*.pt"):
        file.unlink()


def test_gpus_are_shared_out_in_turn(monkeypatch, tmp_path):
    given = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-5a")
    monkeypatch.setattr(execute, "_in_a_process", lambda job, gpu, *_: given.append(gpu))
    units = [replace(DRIFTING, seed=seed) for seed in range(4)]
    execute._run_all(units, replace(TINY, device="cuda"), RecordStore(tmp_path), 2)
    assert sorted(set(given)) == ["2", "GPU-5a"]
    given.clear()
    execute._run_all(units, TINY, RecordStore(tmp_path), 2)
    assert given == [None] * 4


def test_longest_first():
    quick, slow, new = (replace(DRIFTING, method=name) for name in ("random", "fake_methods:Drifting", "free"))
    timed = [{"method": unit.method, "seconds": {"training": t}} for unit, t in ((quick, 1.0), (slow, 50.0))]
    assert _longest_first([quick, slow, new], timed) == [new, slow, quick]


def test_a_folder_that_cannot_be_written_into_is_named_before_a_pool_is_made(tiny_world, tmp_path, monkeypatch):
    monkeypatch.setattr(execute, "get_pool", lambda *_, **__: pytest.fail("a pool is made"))
    folder = tmp_path / "tiny/records"
    folder.mkdir(parents=True)
    (folder / "u").write_text("no folder")
    with pytest.raises(ValueError, match=r"u can.t be written into: .*u/t"):
        run_units([replace(DRIFTING, experiment="u/t")], TINY, tmp_path)

import os
import queue
import subprocess
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from fake_methods import TINY

from freelib.run import grid, runner
from freelib.run.grid import GridError, _longest_first, run_grid, run_plan, standing
from freelib.run.records import RecordStore
from freelib.run.runner import run_unit
from freelib.run.units import Unit
from freelib.run.worker import Job, Worker

DRIFTING = "fake_methods:Drifting"


def test_a_failing_unit_is_named_and_takes_no_other_with_it(tiny_world, tmp_path):
    store = RecordStore(tmp_path / "a")
    good = Unit("t", DRIFTING, "cifar-fs", 1, 3)
    bad = Unit("t", DRIFTING, "cifar-fs", 1, 0, {"fail_at": 2})
    with pytest.raises(
        GridError, match=r"(?s)1 of 2 units failed.*seed 0 \(fail_at=2\).*told to fail in round 2"
    ):
        run_grid([bad, good], TINY, store)
    (record,) = store.all("t")
    assert run_grid([good, good], TINY, store) == [record, record]
    # a process of its own, and this one: the same bits
    inside = run_unit(good, TINY, RecordStore(tmp_path / "b"))
    for name in ("episode_accuracies", "history", "threads", "config_digest"):
        assert record[name] == inside[name]


def test_one_training_serves_all_shots_that_are_wanted(tiny_world, tmp_path, monkeypatch):
    store, started = RecordStore(tmp_path), []
    monkeypatch.setattr(grid, "Worker", lambda *a: started.append(1) or Worker(*a))
    units = [Unit("t", "fake_methods:Shotless", "cifar-fs", n, 3, {"rounds": 1}) for n in (3, 2)]
    records = run_grid(units, TINY, store, workers=2)
    assert [record["n_shot"] for record in records] == [3, 2]  # TINY has 1 alone
    assert records[0]["history"] == records[1]["history"]
    assert len(started) == 1
    monkeypatch.setattr(grid, "_run_all", lambda *_: None)
    with pytest.raises(GridError, match=r"1 of 3 units ended without a record: .*4-shot, seed 3"):
        run_grid([*units, replace(units[0], n_shot=4)], TINY, store)


def test_what_stands_is_shown_without_data_and_nothing_is_made(tiny_world, tmp_path, monkeypatch):
    store = RecordStore(tmp_path)
    units = [Unit("t", DRIFTING, "cifar-fs", 1, seed, {"rounds": 1}) for seed in (3, 4)]
    monkeypatch.setenv("FREELIB_RUNS", "none")
    with pytest.raises(ValueError, match="none of the 2 runs has a record"):
        run_grid(units, TINY, store)
    made = run_unit(units[1], TINY, store)
    monkeypatch.setenv("FREELIB_DATA", str(tmp_path / "nothing"))
    monkeypatch.setenv("FREELIB_CACHE", str(tmp_path / "empty"))
    assert run_grid(units, TINY, store) == [made]
    store = RecordStore(tmp_path / "tiny" / "records")
    store.put(made)
    plan = [(TINY, units[:1]), (TINY, units[1:])]  # one part of it stands
    assert run_plan(plan, tmp_path) == [made]
    with pytest.raises(ValueError, match="none of the 2 runs has a record"):
        run_plan(plan, tmp_path / "elsewhere")
    assert standing([replace(unit, experiment="u") for unit in units], TINY, store) == [
        made | {"experiment": "u"}
    ]


def test_a_worker_takes_several_jobs_and_ends_with_its_parent(tiny_world, tmp_path):
    worker = Worker(1)
    notes = []
    quick = Unit("t", DRIFTING, "cifar-fs", 1, 0, {"rounds": 2})
    bad = Unit("t", DRIFTING, "cifar-fs", 1, 0, {"fail_at": 1})
    assert worker.run(Job(quick, TINY, tmp_path, None), notes.append) == (0, "")
    assert any("round 2" in note for note in notes)
    status, written = worker.run(Job(bad, TINY, tmp_path, None), notes.append)
    assert status == 1
    assert written.endswith("told to fail in round 1")
    assert worker.alive
    found = queue.SimpleQueue()
    endless = Unit("t", DRIFTING, "cifar-fs", 1, 0, {"rounds": 1000, "pause": 0.1})
    job = Job(endless, TINY, tmp_path, None)
    doing = threading.Thread(target=worker.run, args=(job, found.put))
    doing.start()
    assert "round 2" in found.get(timeout=60)
    children = Path(f"/proc/{worker.process.pid}/task/{worker.process.pid}/children")  # on Linux
    child = int(children.read_text()) if children.exists() else None
    os.close(worker._lifeline)  # as when this process dies
    doing.join(timeout=30)
    assert not doing.is_alive()
    assert child is None or not Path(f"/proc/{child}").exists()
    worker._lifeline = os.open(os.devnull, os.O_RDONLY)
    worker.close()
    assert not worker.alive
    (record,) = RecordStore(tmp_path).all("t")
    assert record["config"]["rounds"] == 2


@pytest.mark.parametrize(
    ("visible", "device", "given"),
    [
        ("2, GPU-5a", "cuda", ["2", "GPU-5a", "2"]),
        ("", "cuda", [None] * 3),
        ("2, GPU-5a", "cuda:1", [None] * 3),
        ("2, GPU-5a", "cpu", [None] * 3),
    ],
)
def test_gpus_are_shared_out_to_processes_in_turn(monkeypatch, visible, device, given, tmp_path):
    started = []

    class Seen:
        alive = True

        def __init__(self, threads, gpu):
            started.append(gpu)

        def run(self, job, note):
            all_at_work.wait(timeout=30)
            return 0, ""

        def close(self):
            pass

    all_at_work = threading.Barrier(3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(grid, "Worker", Seen)
    units = [Unit("t", DRIFTING, "cifar-fs", 1, seed) for seed in range(3)]
    grid._run_all(units, replace(TINY, device=device), RecordStore(tmp_path), 3, None)
    assert Counter(started) == Counter(given)


def test_the_gpu_of_a_worker_is_the_only_one_that_it_sees(monkeypatch):
    seen = {}
    monkeypatch.setattr(
        subprocess, "Popen", lambda *_, env, pass_fds, **__: seen.update(env, **{"fd": pass_fds[0]})
    )
    for gpu in (None, "3"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
        worker = Worker(1, gpu)
        assert seen["CUDA_VISIBLE_DEVICES"] == (gpu or "0,1,2,3")
        os.close(worker._lifeline)
        worker._errors.close()


def test_a_killed_worker_is_replaced(tiny_world, tmp_path, monkeypatch):
    started = []

    class Recorded(Worker):
        def __init__(self, threads, gpu):
            super().__init__(threads, gpu)
            started.append(self)

        def run(self, job, note):
            if job.unit.seed == 0:
                self.process.kill()
            return super().run(job, note)

    monkeypatch.setattr(grid, "Worker", Recorded)
    units = [Unit("t", DRIFTING, "cifar-fs", 1, seed, {"rounds": 1}) for seed in (0, 1)]
    with pytest.raises(GridError, match=r"(?s)1 of 2 units.*seed 0.*ended by signal 9 \(memory ran out\?\)"):
        run_grid(units, TINY, RecordStore(tmp_path), workers=1)
    assert len(started) == 2
    assert len(RecordStore(tmp_path).all("t")) == 1


def test_an_error_around_a_unit_takes_no_place_with_it(monkeypatch, tmp_path):
    """No process to be had, then a note that can't be written: two units fail, the third has its turn."""
    closed, done = [], []

    class Patient(queue.Queue):
        def get(self):
            return super().get(timeout=10)  # where no place comes back: an error, not a test without end

    class Fragile:
        alive = True

        def __init__(self, threads, gpu):
            if not done:
                done.append("none")
                raise OSError("no more processes")

        def run(self, job, note):
            done.append(job.unit.seed)
            note("working")
            return 0, ""

        def close(self):
            closed.append(self)

    def note(self, text):
        if len(done) == 2:
            raise OSError("disk is full")

    monkeypatch.setattr(grid, "SimpleQueue", Patient)
    monkeypatch.setattr(grid, "Worker", Fragile)
    monkeypatch.setattr(grid.Progress, "note", note)
    units = [Unit("t", DRIFTING, "cifar-fs", 1, seed) for seed in range(3)]
    with pytest.raises(
        GridError, match=r"(?s)2 of 3 units.*OSError: no more processes.*OSError: disk is full"
    ):
        grid._run_all(units, TINY, RecordStore(tmp_path), 1, None)
    assert done == ["none", 1, 2]
    assert len(set(closed)) == len(closed) == 2  # the one that was at work, and the last


def test_missing_data_and_bad_overrides_are_found_before_anything_runs(tiny_world, tmp_path):
    store = RecordStore(tmp_path)
    with pytest.raises(FileNotFoundError, match="cub"):
        run_grid([Unit("t", DRIFTING, "cifar-fs", 1, 0), Unit("t", DRIFTING, "cub", 1, 0)], TINY, store)
    with pytest.raises(ValueError, match="turns"):
        run_grid([Unit("t", DRIFTING, "cifar-fs", 1, 0, {"turns": 1})], TINY, store)
    assert store.experiments() == []


def test_longest_first(tiny_world, tmp_path):
    store = RecordStore(tmp_path)
    quick, slow, new = (Unit("t", name, "cifar-fs", 1, 0) for name in ("random", DRIFTING, "free"))
    for unit, seconds in ((quick, 1.0), (slow, 50.0)):
        record = run_unit(unit, TINY, store)
        store.put(record | {"seconds": {"training": seconds}})
    assert _longest_first([quick, slow, new], store) == [new, slow, quick]


SHOTLESS = "fake_methods:Shotless"


@pytest.mark.parametrize(
    ("unit", "changes", "words"),
    [
        (Unit("t", DRIFTING, "cifar-fs", 1, 0), {"n_way": 25}, "validation split has 16 classes, too few"),
        (Unit("t", DRIFTING, "cifar-fs", 1, 0, selection="test"), {"n_way": 25}, "test split has 20 classes"),
        (Unit("t", DRIFTING, "cifar-fs", 6, 0), {}, "too few for n_shot"),
        (Unit("t", SHOTLESS, "cifar-fs", 1, 0), {"shots": (1, 6)}, "too few for n_shot"),  # served as well
        (Unit("u/t", DRIFTING, "cifar-fs", 1, 0), {}, "no record can be written into .*u/t"),
    ],
)
def test_what_would_fail_at_the_end_is_refused_before_a_pool_is_made(
    tiny_world, tmp_path, monkeypatch, unit, changes, words
):
    def too_late(*_, **__):
        raise AssertionError("a pool is made")

    monkeypatch.setattr(grid, "get_pool", too_late)
    monkeypatch.setattr(runner, "get_pool", too_late)
    (tmp_path / "u").write_text("no folder")
    profile, store = replace(TINY, **changes), RecordStore(tmp_path)
    with pytest.raises(ValueError, match=words):
        run_grid([unit], profile, store)
    with pytest.raises(ValueError, match=words):
        run_unit(unit, profile, store)

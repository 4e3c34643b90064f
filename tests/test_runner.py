import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from fake_methods import TINY, Shotless

from freelib.methods.training import TrainingLog, clocks
from freelib.run.profiles import Profile
from freelib.run.records import RecordStore
from freelib.run.runner import Run, _history, known_record, learner_file, run_unit, time_spent, with_overrides
from freelib.run.units import Unit
from freelib.storage import load_tensors

DRIFTING = Unit("table1", "fake_methods:Drifting", "cifar-fs", 1, 0)
VOLATILE = ("seconds", "peak_memory_mib", "started", "git_commit")


def lasting(record):
    """A record without what differs between two runs of the same thing."""
    kept = {name: value for name, value in record.items() if name not in VOLATILE}
    return json.loads(json.dumps(kept))


def test_a_record_has_what_happened(tiny_world, tmp_path):
    notes = []
    record = run_unit(DRIFTING, TINY, RecordStore(tmp_path), message=notes.append)
    assert record["history"]["round"] == [1, 2, 3, 4]
    assert record["history"]["validation_round"] == [2, 4]
    scores = record["history"]["validation_accuracy"]
    assert len(scores) == 2
    selected = 2 if scores[0] >= scores[1] else 4
    assert record["extra"] == {"selected_round": selected}
    assert record["seconds"]["pretraining"] > 0
    assert len(record["episode_accuracies"]) == TINY.n_episodes
    assert record["accuracy"] == pytest.approx(sum(record["episode_accuracies"]) / 6, abs=0.005)
    assert (record["passes"], record["selection"], record["device"], record["threads"]) == (4, "validation", "cpu", 1)
    assert record["config"]["rounds"] == 4
    assert record["pool"]["config"]["n_models"] == 2
    assert any("round 4" in note for note in notes)
    weights = load_tensors(learner_file(record["config_digest"]))
    assert sum(float(w.abs().sum()) for name, w in weights.items() if w.is_floating_point()) == pytest.approx(
        record["history"]["size"][selected - 1], rel=1e-4
    )


def test_a_record_that_stands_is_not_made_again(tiny_world, tmp_path, monkeypatch):
    store = RecordStore(tmp_path)
    record = run_unit(DRIFTING, TINY, store)
    monkeypatch.setattr("freelib.run.runner._execute", lambda *_: pytest.fail("ran again"))
    assert run_unit(DRIFTING, TINY, store) == record
    other = Unit("table4", "fake_methods:Drifting", "cifar-fs", 1, 0)
    assert run_unit(other, TINY, store) == record | {"experiment": "table4"}


def test_one_training_serves_all_shots_where_it_does_not_use_them(tiny_world, tmp_path, monkeypatch):
    profile = replace(TINY, shots=(1, 2))
    five = Unit("table1", "fake_methods:Shotless", "cifar-fs", 2, 0)
    calls, train = [], Shotless.meta_train
    monkeypatch.setattr(Shotless, "meta_train", lambda *a, **k: calls.append(1) or train(*a, **k))
    records = {}
    for order in ([five, replace(five, n_shot=1)], [replace(five, n_shot=1), five]):
        store = RecordStore(tmp_path / str(order[0].n_shot))
        records[order[0].n_shot] = [lasting(run_unit(unit, profile, store)) for unit in order]
        assert len(store.all("table1")) == 2
    assert len(calls) == 2
    assert records[2] == records[1][::-1]  # whichever is asked for first
    two, one = records[2]
    assert (one["n_shot"], two["n_shot"]) == (one["config"]["n_shot"], two["config"]["n_shot"]) == (1, 2)
    assert one["history"] == two["history"]
    assert one["config_digest"] != two["config_digest"]
    assert one["evaluation"] == two["evaluation"]


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_a_training_of_all_shots_is_resumed_whichever_is_asked_for(tiny_world, tmp_path, first, then):
    profile = replace(TINY, shots=(1, 2))
    unit = Unit("table1", "fake_methods:Shotless", "cifar-fs", 1, 0, {"rounds": 6})

    def killed(text):
        if "round 4" in text:
            raise KeyboardInterrupt

    store, notes = RecordStore(tmp_path), []
    with pytest.raises(KeyboardInterrupt):
        run_unit(replace(unit, n_shot=first), profile, store, message=killed)
    record = run_unit(replace(unit, n_shot=then), profile, store, message=notes.append)
    assert "round 4" in notes[0]  # from the state of round 3 on
    assert record["config"]["n_shot"] == record["n_shot"] == then
    assert sorted(made["config"]["n_shot"] for made in store.all("table1")) == [1, 2]


def test_a_record_of_other_shots_is_left_as_it_is(tiny_world, tmp_path):
    store = RecordStore(tmp_path)
    one = run_unit(Unit("table1", "fake_methods:Shotless", "cifar-fs", 1, 0), TINY, store)
    two = run_unit(Unit("table1", "fake_methods:Shotless", "cifar-fs", 2, 0), TINY, store)
    assert [r["started"] for r in store.all("table1") if r["n_shot"] == 1] == [one["started"]]
    assert two["history"] == one["history"]


def test_two_runs_are_equal(tiny_world, tmp_path):
    first = run_unit(DRIFTING, TINY, RecordStore(tmp_path / "a"))
    second = run_unit(DRIFTING, TINY, RecordStore(tmp_path / "b"))
    assert lasting(first) == lasting(second)


def test_selections_share_the_training_and_differ_in_the_choice(tiny_world, tmp_path):
    store = RecordStore(tmp_path)
    by_selection = {
        selection: run_unit(Unit("t", "fake_methods:Drifting", "cifar-fs", 1, 0, selection=selection), TINY, store)
        for selection in ("last", "validation", "test")
    }
    last = by_selection["last"]
    assert last["accuracy"] == last["accuracy_last"] == by_selection["validation"]["accuracy_last"]
    assert len({record["config_digest"] for record in by_selection.values()}) == 3
    history = by_selection["test"]["history"]
    assert history["test_accuracy"] != by_selection["validation"]["history"]["validation_accuracy"]
    best = max(range(len(history["test_accuracy"])), key=history["test_accuracy"].__getitem__)
    assert by_selection["test"]["extra"]["selected_round"] == history["test_round"][best]


def test_an_oracle_is_given_the_training_images_and_others_nothing(tiny_world, tmp_path):
    record = run_unit(Unit("t", "fake_methods:Colour", "cifar-fs", 1, 0), TINY, RecordStore(tmp_path))
    assert record["history"] is None
    assert record["passes"] is None
    assert record["accuracy_last"] == record["accuracy"]


def test_the_digest_follows_what_matters():
    changes = [
        Run(DRIFTING, TINY).settings,
        Run(with_overrides(DRIFTING, rounds=5), TINY).settings,
        Run(DRIFTING, Profile(**{**vars(TINY), "n_episodes": 7})).settings,
        Run(DRIFTING, Profile(**{**vars(TINY), "monitor_every": 1})).settings,
    ]
    assert len({str(settings) for settings in changes}) == 4
    assert str(Run(DRIFTING, Profile(**{**vars(TINY), "workers": 5, "threads": 2})).settings) == str(changes[0])


def test_a_record_is_found_without_the_data(tiny_world, tmp_path, monkeypatch):
    store = RecordStore(tmp_path)
    record = run_unit(DRIFTING, TINY, store)
    monkeypatch.delenv("FREELIB_DATA")
    assert known_record(Run(DRIFTING, TINY), store) == record
    with pytest.raises(FileNotFoundError, match="FREELIB_DATA"):
        known_record(Run(with_overrides(DRIFTING, rounds=5), TINY), store)


def test_a_damaged_record_is_made_again(tiny_world, tmp_path):
    store = RecordStore(tmp_path)
    record = run_unit(DRIFTING, TINY, store)
    path = store.path("table1", record["config_digest"])
    path.write_text(path.read_text()[:100])
    with pytest.warns(UserWarning, match="damaged"):
        assert lasting(run_unit(DRIFTING, TINY, store)) == lasting(record)


RUN = """
import sys
import torch
torch.set_num_threads(1)
from fake_methods import TINY, Shotless
from freelib.run.runner import run_unit
from freelib.run.units import Unit
from freelib.run.records import RecordStore
unit = Unit("table1", "fake_methods:Drifting", "cifar-fs", 1, 0, {"rounds": 8, "pause": 0.3})
run_unit(unit, TINY, RecordStore(sys.argv[1]), message=lambda text: print(text, flush=True))
"""


def start(folder):
    """A process that runs a unit of eight rounds in about three seconds."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
    )


def test_killed_in_the_middle_and_started_again(tiny_world, tmp_path):
    """SIGKILL after some rounds; the second start goes on, and the record is the same as without the kill."""
    unit = with_overrides(DRIFTING, rounds=8, pause=0.3)
    checkpoint = tiny_world / "checkpoints" / f"{Run(unit, TINY).digest}.pt"
    process = start(tmp_path / "killed")
    assert next(line for line in iter(process.stdout.readline, "") if "round 4" in line)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert RecordStore(tmp_path / "killed").all("table1") == []
    assert torch.load(checkpoint, weights_only=True)["round"] in (3, 4, 5)
    notes = []
    resumed = run_unit(unit, TINY, RecordStore(tmp_path / "killed"), message=notes.append)
    assert "round 2" not in notes[0]
    assert not checkpoint.exists()
    whole = run_unit(unit, TINY, RecordStore(tmp_path / "whole"))
    assert lasting(resumed) == lasting(whole)
    for seconds in (resumed["seconds"], whole["seconds"]):
        assert seconds["training"] >= 8 * 0.3  # of both sittings
        assert 0 < seconds["training_cpu"] < seconds["training"] - 1  # the pauses take no processor
        assert 0 < seconds["monitor_cpu"] < seconds["training_cpu"]


def test_processor_time_is_told_where_the_processor_trained():
    log = TrainingLog(earlier={"training": 50.0, "training_cpu": 40.0})
    began = {name: now - 5 for name, now in clocks().items()}
    assert time_spent(log, began, "cpu") == pytest.approx({"training": 55, "training_cpu": 45}, abs=3)
    assert time_spent(log, began, "cuda:0") == pytest.approx({"training": 55}, abs=3)
    assert time_spent(None, began, "cpu") == pytest.approx({"training": 5, "training_cpu": 5}, abs=3)


def test_two_processes_with_one_unit_make_one_record(tiny_world, tmp_path):
    both = [start(tmp_path) for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len(RecordStore(tmp_path).all("table1")) == 1
    assert sorted(bool(output) for output in outputs) == [False, True]  # one computed, the other waited


def test_what_is_not_finite_is_none_in_a_records_history():
    """A run that diverges has a record all the same."""
    columns = {"loss": [1.0, float("nan"), float("inf")], "monitor_score": [30.12345678]}
    found = _history(columns, "validation")
    assert found == {"loss": [1.0, None, None], "validation_accuracy": [30.1235]}

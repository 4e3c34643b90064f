import json
import signal
from dataclasses import replace

import pytest
import torch
from fake_methods import TINY, Shotless
from processes import start_python

from freelib.methods.training import TrainingLog, clocks
from freelib.run import runner
from freelib.run.records import RecordStore
from freelib.run.runner import Run, learner_file, run_unit, times
from freelib.run.units import Unit
from freelib.storage import load_tensors

DRIFTING = Unit("table1", "fake_methods:Drifting", "cifar-fs", 1, 0)
SHOTLESS = replace(DRIFTING, method="fake_methods:Shotless")
VOLATILE = ("seconds", "peak_memory_mib", "started", "git_commit")


def lasting(record):
    """A record without what differs between two runs of the same thing."""
    kept = {name: value for name, value in record.items() if name not in VOLATILE}
    return json.loads(json.dumps(kept))


def test_a_record_has_what_happened(tiny_world, tmp_path):
    notes = []
    record = run_unit(DRIFTING, TINY, RecordStore(tmp_path), message=notes.append)
    history = record["history"]
    assert (history["round"], history["validation_round"]) == ([1, 2, 3, 4], [2, 4])
    selected = 2 if history["validation_accuracy"][0] >= history["validation_accuracy"][1] else 4
    assert record["extra"] == {"selected_round": selected}
    assert record["seconds"]["pretraining"] > 0
    assert record["accuracy"] == pytest.approx(sum(record["episode_accuracies"]) / TINY.n_episodes, abs=0.005)
    names = ("passes", "selection", "device", "threads", "n_episodes")
    assert [record[name] for name in names] == [4, "validation", "cpu", 1, 6]
    assert (record["config"]["rounds"], record["pool"]["config"]["n_models"]) == (4, 2)
    assert any("round 4" in note for note in notes)
    weights = load_tensors(learner_file(record["config_digest"])).values()
    size = sum(float(w.abs().sum()) for w in weights if w.is_floating_point())
    assert size == pytest.approx(history["size"][selected - 1], rel=1e-4)
    record = run_unit(replace(DRIFTING, method="fake_methods:Colour"), TINY, RecordStore(tmp_path))
    assert (record["history"], record["passes"]) == (None, None)
    assert record["accuracy_last"] == record["accuracy"]


def test_one_training_serves_all_shots_where_it_does_not_use_them(tiny_world, tmp_path, monkeypatch):
    profile = replace(TINY, shots=(1, 2))
    two = replace(SHOTLESS, n_shot=2)
    calls, train = [], Shotless.meta_train
    monkeypatch.setattr(Shotless, "meta_train", lambda *a, **k: calls.append(1) or train(*a, **k))
    records = {}
    for order in ([two, SHOTLESS], [SHOTLESS, two]):
        store = RecordStore(tmp_path / str(order[0].n_shot))
        records[order[0].n_shot] = [lasting(run_unit(unit, profile, store)) for unit in order]
        assert len(store.all()) == 2
    assert len(calls) == 2
    assert records[2] == records[1][::-1]  # whichever is asked for first
    second, first = records[2]
    assert (first["n_shot"], second["n_shot"]) == (first["config"]["n_shot"], second["config"]["n_shot"]) == (1, 2)
    assert (first["history"], first["evaluation"]) == (second["history"], second["evaluation"])
    assert first["config_digest"] != second["config_digest"]
    apart, store = replace(profile, overrides_by_shots={2: {SHOTLESS.method: {"rounds": 5}}}), RecordStore(tmp_path)
    made = [run_unit(unit, apart, store) for unit in (two, SHOTLESS)]  # settings by shots: a training each
    assert [record["history"]["round"][-1] for record in made] == [5, 3] == [r["config"]["rounds"] for r in made]


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_a_training_of_all_shots_is_resumed_whichever_is_asked_for(tiny_world, tmp_path, first, then):
    profile, unit = replace(TINY, shots=(1, 2)), replace(SHOTLESS, overrides={"rounds": 6})

    def killed(text):
        if "round 4" in text:
            raise KeyboardInterrupt

    store, notes = RecordStore(tmp_path), []
    with pytest.raises(KeyboardInterrupt):
        run_unit(replace(unit, n_shot=first), profile, store, message=killed)
    record = run_unit(replace(unit, n_shot=then), profile, store, message=notes.append)
    assert "round 4" in notes[0]  # from the state of round 3 on
    assert record["config"]["n_shot"] == record["n_shot"] == then
    assert sorted(made["config"]["n_shot"] for made in store.all()) == [1, 2]


def test_selections_share_the_training_and_differ_in_the_choice(tiny_world, tmp_path):
    store = RecordStore(tmp_path)
    found = {
        selection: run_unit(replace(DRIFTING, selection=selection), TINY, store)
        for selection in ("last", "validation", "test")
    }
    last, history = found["last"], found["test"]["history"]
    assert last["accuracy"] == last["accuracy_last"] == found["validation"]["accuracy_last"]
    assert len({record["config_digest"] for record in found.values()}) == 3
    assert history["test_accuracy"] != found["validation"]["history"]["validation_accuracy"]
    best = max(range(len(history["test_accuracy"])), key=history["test_accuracy"].__getitem__)
    assert found["test"]["extra"]["selected_round"] == history["test_round"][best]


def test_the_settings_follow_what_matters():
    units = [DRIFTING, replace(DRIFTING, overrides={"rounds": 5}), DRIFTING, DRIFTING]
    profiles = [TINY, TINY, replace(TINY, n_episodes=7), replace(TINY, monitor_every=1)]
    settings = [str(Run(unit, profile).settings) for unit, profile in zip(units, profiles, strict=True)]
    assert len(set(settings)) == 4
    assert str(Run(DRIFTING, replace(TINY, workers=5, threads=2)).settings) == settings[0]
    log = TrainingLog(seconds={"monitor_cpu": 2.0}, earlier={"training": 50.0, "training_cpu": 40.0})
    began = {name: now - 5 for name, now in clocks().items()}
    assert times(log, began, "cpu") == pytest.approx({"training": 55, "training_cpu": 45, "monitor_cpu": 2}, abs=3)
    assert times(log, began, "cuda:0") == pytest.approx({"training": 55}, abs=3)
    columns = {"loss": [1.0, float("nan"), float("inf")], "monitor_score": [30.12345678]}
    found = runner._history(columns, "validation")
    assert found == {"loss": [1.0, None, None], "validation_accuracy": [30.1235]}


def test_a_record_serves_its_unit_without_the_data(tiny_world, tmp_path, monkeypatch):
    store = RecordStore(tmp_path)
    damaged = run_unit(DRIFTING, TINY, store)
    (path,) = tmp_path.glob("table1/*.json")
    path.write_text(path.read_text()[:100])
    with pytest.warns(UserWarning, match="damaged"):
        record = run_unit(DRIFTING, TINY, store)
    assert lasting(record) == lasting(damaged)
    monkeypatch.setattr(runner, "_execute", lambda *_: pytest.fail("ran again"))
    assert run_unit(DRIFTING, TINY, store) == run_unit(replace(DRIFTING, experiment="table4"), TINY, store) == record
    monkeypatch.delenv("FREELIB_DATA")
    assert Run(replace(DRIFTING, experiment="other"), TINY).is_served_by(record)
    for unit, profile in (
        (replace(DRIFTING, overrides={"rounds": 5}), TINY),
        (replace(DRIFTING, seed=1), TINY),
        (DRIFTING, replace(TINY, pool={**TINY.pool, "epochs": 2})),
        (DRIFTING, replace(TINY, pool_seed=7)),
    ):
        assert not Run(unit, profile).is_served_by(record)


LONG = replace(DRIFTING, overrides={"rounds": 8, "pause": 0.3})
RUN = """
import sys
import torch
torch.set_num_threads(1)
from fake_methods import TINY
from freelib.run.runner import run_unit
from freelib.run.units import Unit
from freelib.run.records import RecordStore
unit = Unit("table1", "fake_methods:Drifting", "cifar-fs", 1, 0, {"rounds": 8, "pause": 0.3})
run_unit(unit, TINY, RecordStore(sys.argv[1]), message=lambda text: print(text, flush=True))
"""


def test_killed_in_the_middle_and_started_again(tiny_world, tmp_path):
    """SIGKILL after some rounds; the second start goes on, and the record is the same as without the kill."""
    unit, checkpoint = LONG, tiny_world / "checkpoints" / f"{Run(LONG, TINY).digest}.pt"
    process = start_python("-c", RUN, tmp_path / "killed")
    assert next(line for line in iter(process.stdout.readline, "") if "round 4" in line)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    store, notes = RecordStore(tmp_path / "killed"), []
    assert store.all() == []
    assert torch.load(checkpoint, weights_only=True)["round"] in (3, 4, 5)
    resumed = run_unit(unit, TINY, store, message=notes.append)
    assert "round 2" not in notes[0]
    assert not checkpoint.exists()
    whole = run_unit(unit, TINY, RecordStore(tmp_path / "whole"))
    assert lasting(resumed) == lasting(whole)
    for seconds in (resumed["seconds"], whole["seconds"]):
        assert seconds["training"] >= 8 * 0.3  # of both sittings
        assert 0 < seconds["training_cpu"] < seconds["training"] - 1  # the pauses take no CPU time
        assert 0 < seconds["monitor_cpu"] < seconds["training_cpu"]


def test_two_processes_with_one_unit_make_one_record(tiny_world, tmp_path):
    process, notes = start_python("-c", RUN, tmp_path), []
    assert process.stdout.readline()
    record = run_unit(LONG, TINY, RecordStore(tmp_path), message=notes.append)  # waits
    process.communicate()
    assert (process.returncode, notes, RecordStore(tmp_path).all()) == (0, [], [record])

"""Records: their digest, their files, and the measurements that are records."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_methods import TINY
from processes import start_python

from freelib.run.measure import computed, measured
from freelib.run.records import (
    FIELDS,
    RecordError,
    RecordSchemaError,
    RecordStore,
    complete,
    config_digest,
    is_upper_bound,
    training_seconds,
    validate,
)
from freelib.run.runner import Run
from freelib.run.units import Unit
from freelib.storage import digest_of, plain


def fields(**changes):
    """What a small run would record."""
    base = {
        "experiment": "table1", "method": "free", "method_revision": 1, "dataset": "glyphs",
        "data_digest": "0123456789abcdef", "seed": 0, "config": {"rounds": 3, "inner_lr": 0.01},
        "pool": {"dataset": "glyphs", "seed": 0, "config": {"n_models": 2, "archs": ["conv4"]}},
        "n_way": 5, "n_shot": 1, "n_query": 15, "split": "test", "n_episodes": 2, "evaluation": {"seed": 0},
        "precision": "float32", "accuracy": 30.0, "accuracy_ci95": 1.5, "episode_accuracies": [29.33, 30.67],
        "seconds": {"training": 1.0}, "freelib_version": "0.1.0", "python": "3.11.0", "torch": "2.4.0",
        "started": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    return base | changes


@pytest.mark.parametrize(
    ("seconds", "threads", "spent", "bound"),
    [
        ({"training_cpu": 80.0}, 1, 80, False),  # no validation checks
        ({"training_cpu": 80.0, "monitor": 40.0, "monitor_cpu": 15.0}, 1, 65, False),
        ({"training_cpu": 50.0, "monitor": 40.0}, 1, 50, True),  # the checks may have had none of it
        ({"training_cpu": 90.0, "monitor": 40.0}, 1, 60, True),  # 30 at least were the checks'
        ({"training_cpu": 190.0, "monitor": 40.0}, 2, 120, True),
        ({"training_cpu": 90.0, "monitor": 40.0}, None, 60, True),
    ],
)
def test_cpu_time_of_training_is_without_the_validation_checks_or_a_bound(seconds, threads, spent, bound):
    record = complete(fields(seconds={"training": 100.0} | seconds, threads=threads))
    assert training_seconds(record, "training_cpu") == spent
    assert training_seconds(record) == 100 - seconds.get("monitor", 0)
    assert is_upper_bound(record) == bound


def test_golden_digest():
    """Records in results/ are found by this digest: a change here orphans every one of them."""
    assert config_digest(fields()) == "0a50b254c5af0008"
    assert len({config_digest(fields(**change)) for change in [{}, *DETERMINE]}) == 1 + len(DETERMINE)
    for change in ({"experiment": "table4"}, {"git_commit": "abc"}, {"threads": 2}, {"accuracy": 1.0}):
        assert config_digest(fields(**change)) == config_digest(fields())
    assert digest_of({"a": 1, "b": (1, 2)}) == digest_of({"b": [1, 2], "a": 1})
    assert plain({"a": (1, {"b": None})}) == {"a": [1, {"b": None}]}
    assert plain([float("inf"), float("-inf")]) == ["inf", "-inf"]  # a setting may be infinite
    with pytest.raises(RecordError, match="method_revision"):
        config_digest({"method": "free"})


DETERMINE = [
    {"method_revision": 2}, {"seed": 1}, {"n_shot": 5}, {"data_digest": "f"}, {"config": {"rounds": 4}},
    {"precision": "bfloat16"}, {"evaluation": {"seed": 1}}, {"pool": None},
]  # fmt: skip


def test_complete_fills_with_null_and_damage_is_set_aside(store, tmp_path):
    record = complete(fields())
    assert tuple(record) == ("schema", *FIELDS[1:])
    assert record["history"] is None
    assert record["config_digest"] == config_digest(fields())
    with pytest.raises(RecordError, match="the record's digest is"):
        validate(record | {"seed": 3})
    with pytest.raises(RecordError, match="lacks"):
        store.put(fields())
    assert list(tmp_path.iterdir()) == []
    path = store.put(complete(fields()))
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 7', 1))
    with pytest.warns(UserWarning, match="digest"):
        assert store.get(path.stem) is None
    path = store.put(complete(fields()))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))
    with pytest.raises(RecordSchemaError, match="schema 99"):
        store.get(path.stem)
    assert path.exists()


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("no field colour", [{"colour": "red"}]),
        (r"another type in it: .* at `\$.\w+`", [{"seed": "0"}, {"seed": True}, {"method": None}, {"accuracy": "30"}]),
        ("numbers, strings, lists and mappings", [{"seed": np.int64(3)}, {"extra": {"on": torch.device("cpu")}}]),
    ],
)
def test_what_is_no_record_is_refused(words, changes):
    for change in changes:
        with pytest.raises(RecordError, match=words):
            complete(fields(**change))


@pytest.fixture
def store(tmp_path):
    return RecordStore(tmp_path)


def test_put_and_get(store, tmp_path):
    record = complete(fields())
    path = store.put(record)
    assert path == tmp_path / "table1" / f"{record['config_digest']}.json"
    assert store.get(record["config_digest"]) == record
    assert store.get("0" * 16) is None
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]  # no temporary file stays
    store.put(record | {"experiment": "table4"})
    assert store.get(record["config_digest"]) == record
    assert [found["config_digest"] for found in store.all()] == [record["config_digest"]]
    for seed, n_shot in [(1, 5), (0, 5), (1, 1)]:
        store.put(complete(fields(seed=seed, n_shot=n_shot)))
    assert [(r["n_shot"], r["seed"]) for r in store.all()] == [(1, 0), (1, 1), (5, 0), (5, 1)]


TEXTS = ["", "{", "[]", "\x00", '{"schema": 1}', "[" * 10**5]
NO_FILES = [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")]


@pytest.mark.parametrize("damage", [*(partial(Path.write_text, data=text) for text in TEXTS), *NO_FILES])
def test_a_damaged_record_is_set_aside_by_name(store, damage):
    path = store.put(complete(fields()))
    path.unlink()
    damage(path)
    with pytest.warns(UserWarning, match=path.name):
        assert store.get(path.stem) is None
    assert [left.name for left in path.parent.iterdir()] == [f"{path.name}.damaged"]
    assert store.all() == []


def test_sigkill_while_writing_leaves_a_whole_record(store, tmp_path):
    """A process that rewrites one record without end is killed: what stands there can be read."""
    code = (
        "import json, pathlib, sys\nfrom freelib.run.records import RecordStore\nfolder = pathlib.Path(sys.argv[1])\n"
        "record, store = json.loads((folder / 'record').read_text()), RecordStore(folder)\n"
        "while True: store.put(record)\n"
    )
    record = complete(fields(episode_accuracies=[30.0] * 20000))
    (tmp_path / "record").write_text(json.dumps(record))
    process = start_python("-c", code, tmp_path)
    deadline = time.monotonic() + 60
    while store.get(record["config_digest"]) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert store.get(record["config_digest"]) == record


RUN = Run(Unit("figure9", "fake_methods:Drifting", "cifar-fs", 1, 3), TINY)


def test_a_measurement_is_a_record_and_is_made_once(tiny_world, tmp_path, monkeypatch):
    store, calls = tmp_path, []

    def make():
        calls.append(1)
        return {"distance": 1.5, "rows": [[1, 2], [3, 4]], "passes": 20}

    record = measured(RUN, "spread", {"n": 2}, make, store)
    validate(record)
    assert record["extra"] == {"distance": 1.5, "rows": [[1, 2], [3, 4]]}
    names = ("method", "config", "dataset", "seed")
    assert [record[name] for name in names] == ["spread", {"n": 2}, "cifar-fs", 3]
    assert (record["passes"], record["accuracy"], record["n_shot"], record["profile"]) == (20, None, None, "tiny")
    assert record["seconds"]["measurement"] >= 0
    assert record["pool"]["config"]["n_models"] == 2
    assert measured(RUN, "spread", {"n": 2}, make, store) == record
    assert len(calls) == 1
    for name, config, revision in (("other", {"n": 2}, 1), ("spread", {"n": 3}, 1), ("spread", {"n": 2}, 2)):
        changed = measured(RUN, name, config, make, store, revision=revision)
        assert changed["config_digest"] != record["config_digest"]
    assert len(calls) == 4
    monkeypatch.setenv("FREELIB_DATA", str(tmp_path))  # the data is gone, the record is read all the same
    monkeypatch.setenv("FREELIB_CACHE", str(tmp_path))
    fresh = Run(RUN.unit, TINY)
    assert measured(fresh, "spread", {"n": 2}, make, store) == record
    with pytest.raises(FileNotFoundError, match="cifar-fs is not in"):
        measured(fresh, "spread", {"n": 9}, make, store)


def test_of_two_at_once_one_makes_it(tmp_path, monkeypatch):
    monkeypatch.setenv("FREELIB_CACHE", str(tmp_path / "cache"))
    store, calls = tmp_path / "records", []

    def make():
        calls.append(1)
        time.sleep(0.3)
        return {"slope": 3.0}

    with ThreadPoolExecutor(2) as both:
        waits = [both.submit(computed, "lemma", "slope", {"n": 5}, make, store, profile="cpu") for _ in range(2)]
    assert waits[0].result() == waits[1].result()
    assert len(calls) == 1


def test_what_needs_no_data_has_a_record_too(tmp_path):
    store = tmp_path / "results"
    record = computed("lemma", "slope", {"n": 2}, lambda: {"slope": 3.0}, store, seed=1, profile="cpu")
    validate(record)
    assert (record["dataset"], record["data_digest"], record["pool"]) == ("none", None, None)
    assert (record["extra"], record["seed"], record["precision"]) == ({"slope": 3.0}, 1, "float64")
    again = computed("l", "slope", {"n": 2}, lambda: pytest.fail("ran again"), store, seed=1, profile="cpu")
    assert again == record
    (tmp_path / "cpu").write_text("no folder")
    with pytest.raises(ValueError, match="can't be written into"):
        computed("t", "sum", {}, lambda: pytest.fail("ran"), tmp_path, profile="cpu")

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from fake_methods import TINY

from freelib.run.measure import computed, measured
from freelib.run.records import validate
from freelib.run.runner import Run
from freelib.run.units import Unit

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
    store = tmp_path
    record = computed("lemma", "slope", {"n": 2}, lambda: {"slope": 3.0}, store, seed=1, profile="cpu")
    validate(record)
    assert (record["dataset"], record["data_digest"], record["pool"]) == ("none", None, None)
    assert (record["extra"], record["seed"], record["precision"]) == ({"slope": 3.0}, 1, "float64")
    again = computed("l", "slope", {"n": 2}, lambda: pytest.fail("ran again"), store, seed=1, profile="cpu")
    assert again == record
    (tmp_path / "cpu").write_text("no folder")
    made = []
    with pytest.raises(ValueError, match="can't be written into"):
        computed("t", "sum", {}, lambda: made.append(1) or {}, tmp_path, profile="cpu")
    assert made == []

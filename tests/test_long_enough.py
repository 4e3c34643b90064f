import math

import pytest
from made_records import FREE, made, made_evidence
from test_evidence import PROFILE

from freelib.experiments import long_enough
from freelib.run.units import Unit

UNITS = [Unit("table1", "free", "cifar-fs", 1, seed) for seed in (0, 1)]


def looked_at(*scores, unit=UNITS[0], profile=PROFILE, **changes):
    """A record with these looks, at equal steps."""
    history = {"validation_round": [2.0 * (i + 1) for i in range(len(scores))]}
    return made(unit, profile, FREE, history={**history, "validation_accuracy": [*scores]}, **changes)


def told(folder, *records, profile=PROFILE):
    """The rows by method and experiment, and the evidence."""
    evidence = made_evidence(folder, profile, *records)
    found = long_enough.rows(evidence).to_dict("records")
    return {(row["method"], row["experiment"]): row for row in found}, evidence


@pytest.mark.parametrize(
    ("scores", "change"),
    [
        ((30.0, 40.0, 41.0), 1.0),  # a look a third
        ((30.0, 40.0, 38.0), -2.0),  # a best look minus the best until then would be zero
        ((10.0, 20.0, 30.0, 40.0, 50.0, 57.0), 18.5),
        ((0.0, 40.0, 60.0, 70.0, 70.0), 20.0),  # (70 + 70) / 2 − (40 + 60) / 2
    ],
)
def test_the_change_is_the_last_third_minus_the_middle_one(scores, change):
    rounds = [float(i + 1) for i in range(len(scores))]
    assert long_enough.change(rounds, list(scores)) == pytest.approx(change)


def test_a_training_whose_looks_leave_a_third_empty_has_no_change():
    assert math.isnan(long_enough.change([9.0, 10.0], [1.0, 2.0]))


def test_a_looks_interval_is_the_tests_over_its_own_episodes():
    record = looked_at(30.0, 40.0, 41.0, accuracy_ci95=0.5)
    ratio = record["n_episodes"] / record["evaluation"]["validation_episodes"]
    assert long_enough.look_interval(record) == pytest.approx(0.5 * ratio**0.5)
    mixed = {**record, "dataset": "cifar-fs+mini-imagenet+cub", "n_episodes": 3 * record["n_episodes"]}
    assert long_enough.look_interval(mixed) == pytest.approx(long_enough.look_interval(record))


def test_runs_are_summed_up_by_method_and_experiment(tmp_path):
    rows, _ = told(
        tmp_path,
        looked_at(30.0, 40.0, 43.0, accuracy_ci95=0.1),
        looked_at(30.0, 40.0, 43.1, 42.9, 42.9, unit=UNITS[1], accuracy_ci95=0.1),
        looked_at(44.5, unit=Unit("table1", "random", "cifar-fs", 1, 0)),
    )
    assert list(rows) == [("free", "table1")]  # one look is no curve
    row = rows["free", "table1"]
    assert (row["runs"], row["looks"], row["up"], row["above"]) == (2, [3, 5], 2, 2)
    assert (row["low"], row["high"]) == (pytest.approx(1.35), pytest.approx(3.0))
    assert row["below"] == pytest.approx(-0.1)  # of 0 and −0.2
    assert row["verdict"] == long_enough.OPEN  # two that far apart


@pytest.mark.parametrize(
    ("last", "verdict", "words"),
    [
        ((43.0, 43.1), long_enough.RISING, "was not trained long enough"),
        ((37.0, 37.1), long_enough.FALLING, "was trained for too long"),
        ((43.0, 37.0), long_enough.OPEN, "was perhaps trained long enough"),
    ],
)
def test_the_conclusion_follows_the_interval_over_the_runs(tmp_path, last, verdict, words):
    pairs = zip(last, UNITS, strict=True)
    rows, evidence = told(tmp_path, *(looked_at(30.0, 40.0, score, unit=unit) for score, unit in pairs))
    assert rows["free", "table1"]["verdict"] == verdict
    text = long_enough.conclusion(evidence)
    assert f"FREE, at the tiny profile's size, {words}: from" in text
    assert ("A longer run would probably be better." in text) == (verdict == long_enough.RISING)
    assert words in long_enough.gist(evidence)


def test_the_paper_size_and_what_has_one_look_are_named(tmp_path):
    ((own, (unit,)),) = long_enough.PLANS["paper_size"](PROFILE)
    larger = looked_at(30.0, 40.0, 40.1, unit=unit, profile=own, accuracy_ci95=0.8)
    once = looked_at(44.5, unit=Unit("table1", "random", "cifar-fs", 1, 0))
    rows, evidence = told(tmp_path, larger, once)
    assert rows["free", "paper_size"]["verdict"] == long_enough.OPEN
    text = long_enough.conclusion(evidence)
    assert text.startswith(
        "At the paper's size (1000 rounds, 3 looks, one seed) it is not told from flat: +0.1"
    )
    assert "Random: too few looks for a curve" in text
    assert "FREE, at the" not in text  # its runs in the tables have no record


def test_a_run_that_two_experiments_have_counts_once(tmp_path):
    (profile, units), *_ = long_enough.PLANS["table4"](PROFILE)
    base = next(unit for unit in units if not unit.overrides and unit.selection == "validation")
    last = next(unit for unit in units if not unit.overrides and unit.selection == "last")
    same = [looked_at(30.0, 40.0, 41.0, unit=unit, profile=profile) for unit in (base, last)]
    evidence = made_evidence(tmp_path, PROFILE, *same)
    assert len(long_enough.curves(evidence)) == 1


def test_without_looks_the_section_says_so(tmp_path):
    evidence = made_evidence(tmp_path, PROFILE)
    assert "No run with at least three looks at the meta-validation classes yet." in list(
        long_enough.long_enough(evidence)
    )
    assert long_enough.gist(evidence) == ""

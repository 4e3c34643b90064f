"""Pool distillation on mixed pools, on made records; nothing is trained."""

from dataclasses import replace

import pytest
from made_records import CLAIMED, MIXED, made

from freelib.experiments import beyond_words, mixed_pools
from freelib.experiments.claims import all_verdicts
from freelib.experiments.verdicts import FAILS, HOLDS, SO_FAR, UNCLEAR

METHODS = ("best_teacher", "pool_features", "pool_distillation")
PROFILE = replace(
    CLAIMED,
    experiments={
        "table2": {"datasets": (MIXED,), "methods": METHODS},
        "table3": {
            "pool_parts": ({}, {"archs": ("resnet10",)}),
            "methods": METHODS,
            "students": {"conv4": {}, "resnet10": {}},
        },
    },
)
EPISODES = [51.0, 52.0, 53.0, 52.0]


def records(**offsets):
    """A record for each run: that many points more for a method, with noise of the episodes' own."""
    return [
        made(unit, own, [v + offsets.get(unit.method, 0) for v in EPISODES] * (1 + unit.dataset.count("+")))
        for own, units in mixed_pools.plan(PROFILE)
        for unit in units
    ]


def test_the_student_is_a_conv4_on_both_pools():
    domains, archs = mixed_pools.plan(PROFILE)
    assert [unit.method for unit in domains[1]] == ["pool_distillation", "best_teacher", "pool_features"]
    assert {unit.dataset for unit in domains[1]} == {MIXED}
    assert [unit.method for unit in archs[1]] == ["pool_distillation", "best_teacher", "pool_features"]
    assert {unit.dataset for unit in archs[1]} == {"cifar-fs"}


def test_rows_say_what_the_pool_was_mixed_of():
    rows = mixed_pools.rows(records(pool_distillation=3, best_teacher=-5))
    names = list(dict.fromkeys(rows["dataset"]))
    assert names[0] == "CIFAR-FS, pool of several data sets"
    assert names[3:] == [
        "mean of the three, pool of several data sets",
        "CIFAR-FS, pool of several architectures",
    ]
    gaps = rows.set_index(["dataset", "method"])["difference"]
    assert gaps[names[0], "pool_features"] == pytest.approx(-3)
    assert gaps[names[4], "best_teacher"] == pytest.approx(-8)
    assert "reported, %" not in mixed_pools.table(rows, "Mixed.").cells
    words = beyond_words.verdict(rows).splitlines()
    assert words[-1] == "One student beats the features of all its teachers in 4 of 4 columns."
    assert words[3].startswith("mean of the three, pool of several data sets, 1-shot (not counted): ")
    assert rows[rows["joined"]]["dataset"].unique().tolist() == [names[3]]
    assert words[4].startswith("CIFAR-FS, pool of several architectures, 1-shot: one student is above one")


@pytest.mark.parametrize(("points", "verdict"), [(3, HOLDS), (0, UNCLEAR), (-1, FAILS)])
def test_the_claim_is_held_against_both_pools(evidence, points, verdict):
    found = all_verdicts(evidence(PROFILE, *records(pool_distillation=points)))["distilled_beats_mixed_pools"]
    assert (found.verdict, found.missing) == (verdict, ())  # a student that is a ResNet-10 is not asked for
    assert len(found.numbers) == 5
    assert found.finding.startswith("Pool distillation minus Pool features: ")


def test_the_claim_names_what_is_missing(evidence):
    half = [record for record in records(pool_distillation=3) if "+" in record["dataset"]]
    found = all_verdicts(evidence(PROFILE, *half))["distilled_beats_mixed_pools"]
    assert found.verdict == SO_FAR
    assert found.missing == ("table 3: CIFAR-FS, 1-shot: all",)

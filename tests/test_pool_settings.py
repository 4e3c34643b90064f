"""Pools that differ by one setting of pre-training: their runs, the paired differences, the words."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_records import CLAIMED, made

from freelib.experiments import pool_settings
from freelib.run.profiles import get_profile

PROFILE = replace(
    CLAIMED,
    pool={**CLAIMED.pool, "precision": "bfloat16", "augment": True},
    experiments={
        "pool_settings": {
            "datasets": ("cifar-fs",), "shots": (1,), "seeds": (0, 1), "pool_seed": None,
            "pool": {"n_models": 3},
        }
    },
)  # fmt: skip
ACCURACIES = ((50.0, 52.0), (50.5, 52.5), (45.0, 49.0))
"""Of the two seeds: as in the profile, in float32, without crop and flip."""


@pytest.fixture
def records():
    return [
        made(unit, own, [accuracies[unit.seed]] * 2)
        for (own, units), accuracies in zip(pool_settings.plan(PROFILE), ACCURACIES, strict=True)
        for unit in units
    ]


def test_each_setting_has_pools_of_its_own_for_every_seed():
    grids = pool_settings.plan(PROFILE)
    changed = [(own.pool["precision"], own.pool["augment"], own.pool["n_models"]) for own, _ in grids]
    assert changed == [("bfloat16", True, 3), ("float32", True, 3), ("bfloat16", False, 3)]
    assert [[unit.seed for unit in units] for _, units in grids] == [[0, 1]] * 3
    assert {own.pool_seed for own, _ in grids} == {None}
    for name, seeds in (("smoke", 1), ("cpu", 3), ("paper", 3)):
        grids = pool_settings.plan(get_profile(name))
        assert [len(units) for _, units in grids] == [seeds * len(grids[0][0].shots)] * 3


def test_differences_are_pool_by_pool(records):
    rows = pool_settings.rows(records, PROFILE).set_index("pre-training")
    assert rows["accuracy"].tolist() == [51.0, 51.5, 47.0]
    assert rows["difference"].iloc[1:].tolist() == [0.5, -4.0]
    assert rows["difference_ci95"].iloc[1] == pytest.approx(0.0)
    assert rows["difference_ci95"].iloc[2] == pytest.approx(12.706, abs=1e-3)  # t of one degree of freedom
    assert rows["difference"].isna().iloc[0]
    assert set(rows["pools"]) == {2}


def test_the_words_name_what_is_told_apart(records):
    rows = pool_settings.rows(records, PROFILE)
    assert pool_settings.sentence(rows) == (
        "CIFAR-FS, 2 pools of 3 models, nearest class mean on their features, points over the pools: "
        "pre-training in float32 +0.5 ± 0.0 (1-shot); "
        "pre-training without crop and flip −4.0 ± 12.7 (1-shot, not told apart)."
    )
    text = pool_settings.table(rows, "Caption.").markdown()
    assert "| CIFAR-FS | as in the profile (bfloat16) | 1 | 51.0 ± 12.7 |  | 2 | 3 |" in text
    assert pool_settings.sentence(pool_settings.rows([], PROFILE)) == ""
    one = pool_settings.rows([record for record in records if record["seed"] == 0], PROFILE)
    assert "1 pool of 3 models" in pool_settings.sentence(one)
    assert "in float32 +0.5 (1-shot, one pool)" in pool_settings.sentence(one)
    assert "| 50.0 |  | 1 | 3 |" in pool_settings.table(one, "Caption.").markdown()


def test_where_nothing_is_made_what_stands_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("FREELIB_RUNS", "none")
    assert pool_settings.run(PROFILE, results=tmp_path) == []

"""The committed records: each is found by the unit that asks for it, without the data."""

import json
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest

from freelib.run.profiles import get_profile
from freelib.run.records import RecordStore
from freelib.run.runner import Run
from freelib.run.units import Unit

ROOT = Path(__file__).parents[2]
LISTED = json.loads((ROOT / "tests/committed_records.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def records() -> dict:
    """By digest; reading a record checks that its digest is that of its content."""
    return {r["config_digest"]: r for r in RecordStore(ROOT / "results/cpu/records").all()}


def test_the_listed_records_are_there(records):
    assert {unit["digest"] for unit in LISTED["units"]} <= records.keys()
    for name, digest in LISTED["measurements"]:
        assert records[digest]["method"] == name


def test_each_unit_is_served_by_its_record_and_by_no_other(records):
    profile_of = cache(partial(get_profile, "cpu"))
    for listed in LISTED["units"]:
        changes = {n: tuple(v) if isinstance(v, list) else v for n, v in listed["profile"].items()}
        profile = profile_of(listed["section"])
        if "pool" in changes:
            changes["pool"] = {**profile.pool, **changes["pool"]}
        names = ("method", "dataset", "n_shot", "seed", "overrides", "selection")
        unit = Unit("guard", **{name: listed[name] for name in names})
        run = Run(unit, replace(profile, **changes))
        found = [digest for digest, record in records.items() if run.is_served_by(record)]
        assert found == [listed["digest"]], unit.name

"""Pool distillation on mixed pools, of several data sets (table 2) and of several architectures (table 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from freelib.experiments import table2, table3
from freelib.experiments.beyond import METHOD
from freelib.experiments.beyond_words import BARS
from freelib.run.grid import Plan, run_plan
from freelib.run.profiles import Profile, get_profile
from freelib.run.records import Record
from freelib.show.tables import DATASET_TITLES, Table, accuracy_table


def plan(profile: Profile) -> Plan:
    """The runs: those of tables 2 and 3, the student a Conv4; of the profile's own pools, shots and seeds."""
    domains, archs = profile.for_experiment("table2"), profile.for_experiment("table3")
    methods = (METHOD, *BARS)
    of_archs = table3.units(archs, methods, archs.datasets, archs.shots, archs.seeds)
    return [
        (domains, table2.units(domains, methods=methods)),
        (archs, [unit for unit in of_archs if "arch" not in unit.overrides]),
    ]


def run(profile: str | Profile, *, results: str | Path, cache: str | Path | None = None) -> list[Record]:
    """Their records; see `table1.run`."""
    return run_plan(plan(get_profile(profile)), results, cache=cache)


def rows(records: Sequence[Record]) -> pd.DataFrame:
    """The table's rows, see `accuracy_rows`: differences are against pool distillation.

    `dataset` says in words what was tested on, and of what the pool was mixed; joined: whether the row is the
    mean over several data sets.
    """
    kinds = {
        "several data sets": (table2, [r for r in records if "+" in r["dataset"]]),
        "several architectures": (table3, [r for r in records if "+" not in r["dataset"]]),
    }
    tables = [
        module.rows(chosen, reference=METHOD).assign(mixed=words)
        for words, (module, chosen) in kinds.items()
        if chosen
    ]
    found = pd.concat(tables, ignore_index=True)
    titles = found["dataset"].map(lambda name: DATASET_TITLES.get(name, name))
    joined = found["dataset"].str.contains("+", regex=False)
    return found.assign(joined=joined, dataset=titles + ", pool of " + found["mixed"])


def table(rows: pd.DataFrame, caption: str) -> Table:
    """The rows for readers. The paper has no such rows."""
    whole = accuracy_table(rows, caption, reference="Pool distillation")
    return replace(whole, cells=whole.cells.drop(columns="reported, %"))

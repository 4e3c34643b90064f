"""The records that stand behind the claims, and what of the profile's runs is still missing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from freelib.experiments import (
    beyond,
    figure5,
    figure7,
    paper_size,
    pool_settings,
    table1,
    table2,
    table3,
    table4,
    table5,
)
from freelib.methods import get_method
from freelib.run.grid import Plan, record_of
from freelib.run.profiles import Profile
from freelib.run.records import Record, RecordStore
from freelib.run.units import Unit
from freelib.show.tables import DATASET_TITLES


def _table(module: object, own: Profile) -> Plan:
    if module in (table2, beyond):
        return [(own, module.units(own))]
    axes = (own.datasets, own.shots, own.seeds)
    units = table3.units(own, own.methods, *axes) if module is table3 else table4.units(own, *axes)
    return [(own, units)]


PLANS: dict[str, Callable[[Profile], Plan]] = {
    "table1": lambda profile: [(profile, table1.units(profile))],
    "table2": lambda profile: _table(table2, profile.for_experiment("table2")),
    "table3": lambda profile: _table(table3, profile.for_experiment("table3")),
    "table4": lambda profile: _table(table4, profile.for_experiment("table4")),
    "table5": lambda profile: [(profile, table5.units(profile))],
    "figure5": figure5.plan,
    "figure7": figure7.plan,
    "beyond": lambda profile: _table(beyond, profile.for_experiment("beyond")),
    "paper_size": paper_size.plan,
    "pool_settings": pool_settings.plan,
}
"""By experiment: all its runs in a profile."""


@dataclass(frozen=True)
class Runs:
    """An experiment's runs: all that the profile has, the records of those that stand, and the rest."""

    wanted: list[Unit]
    records: list[Record]
    missing: list[Unit]

    def lacking(self, chosen: Callable[[Unit], bool] = lambda unit: True) -> tuple[str, ...]:
        """What is not measured of the chosen runs, in words, a string a setting or several alike."""
        return unmeasured(list(filter(chosen, self.wanted)), list(filter(chosen, self.missing)))


def setting(dataset: str, n_shot: int) -> str:
    """`CIFAR-FS, 1-shot`."""
    return f"{name_of(dataset)}, {n_shot}-shot"


def name_of(dataset: str) -> str:
    """A data set's name for readers; several joined by "+" are a mixed pool's."""
    return "mean of the three" if dataset.count("+") == 2 else DATASET_TITLES.get(dataset, dataset)


def _shots(shots: Sequence[int]) -> str:
    return " and ".join(f"{n_shot}-shot" for n_shot in shots)


def unmeasured(wanted: Sequence[Unit], missing: Sequence[Unit]) -> tuple[str, ...]:
    """Which of the wanted runs are missing, in words."""
    found: dict[str, dict[str, list[int]]] = {}
    for key in dict.fromkeys((unit.dataset, unit.n_shot) for unit in missing):
        of_key = [[u for u in units if (u.dataset, u.n_shot) == key] for units in (wanted, missing)]
        words = "all" if len(of_key[0]) == len(of_key[1]) else _named(*of_key)
        found.setdefault(words, {}).setdefault(key[0], []).append(key[1])
    return tuple(
        "; ".join(f"{name_of(dataset)}, {_shots(shots)}" for dataset, shots in settings.items())
        + f": {words}"
        for words, settings in found.items()
    )


def _named(wanted: Sequence[Unit], missing: Sequence[Unit]) -> str:
    """The runs by method; with their seeds where only some are missing."""
    names: dict[str, list[str]] = {}
    for label in dict.fromkeys(map(_label, missing)):
        seeds = [str(unit.seed) for unit in missing if _label(unit) == label]
        whole = len(seeds) == sum(_label(unit) == label for unit in wanted)
        words = "" if whole else f" (seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)})"
        names.setdefault(words, []).append(label)
    return ", ".join(f"{label}{words}" for words, labels in names.items() for label in labels)


def _label(unit: Unit) -> str:
    title = get_method(unit.method).title
    changes = [f"{name} = {value}" for name, value in unit.overrides.items()]
    changes += [] if unit.selection == "validation" else [f"selection = {unit.selection}"]
    return f"{title} with {', '.join(changes)}" if changes else title


class Evidence:
    """The records of a profile, each read once."""

    def __init__(self, profile: Profile, store: RecordStore) -> None:
        self.profile, self.store = profile, store
        self._runs: dict[str, Runs] = {}

    @cached_property
    def everything(self) -> list[Record]:
        """All records, in an order that depends on their content only."""
        return [record for experiment in self.store.experiments() for record in self.store.all(experiment)]

    def runs(self, experiment: str) -> Runs:
        """One of `PLANS`, as far as it has records."""
        if experiment not in self._runs:
            wanted, records, missing = [], [], []
            for profile, units in PLANS[experiment](self.profile):
                for unit in units:
                    wanted.append(unit)
                    record = record_of(unit, profile, self.everything)
                    if record is None:
                        missing.append(unit)
                    else:
                        records.append(record)
            self._runs[experiment] = Runs(wanted, records, missing)
        return self._runs[experiment]

    @cached_property
    def ablation(self) -> pd.DataFrame:
        """Table 4's rows of those records whose full method, of the same seed, has a record too."""

        def column(unit: Unit) -> tuple[str, int, int]:
            return unit.dataset, unit.n_shot, unit.seed

        runs = self.runs("table4")
        full = {column(unit) for unit in runs.wanted if not unit.overrides} - {
            column(unit) for unit in runs.missing if not unit.overrides and unit.selection == "validation"
        }
        held = [r for r in runs.records if (r["dataset"], r["n_shot"], r["seed"]) in full]
        return table4.rows(held) if held else pd.DataFrame(columns=["variant"])

    @cached_property
    def chance_floor(self) -> float:
        """Half-width of the 95 % interval of one seed's difference (table 4), see `Cell`; 0 where unknown."""
        return table4.moved_by_chance(self.ablation)

    def latest(self, method: str, datasets: Collection[str] = ()) -> list[Record]:
        """A measurement's records, the newest of each data set, seed and precision.

        datasets: only of these, in their order; of all if empty

        A measurement is no run of a plan: its settings may have changed since an older record was made.
        """
        newest: dict[tuple[str, int, str | None], Record] = {}
        for record in sorted(self.everything, key=lambda record: record["started"]):
            if record["method"] == method and (not datasets or record["dataset"] in datasets):
                newest[record["dataset"], record["seed"], record["precision"]] = record
        order = list(datasets)
        return sorted(newest.values(), key=lambda r: (order.index(r["dataset"]) if order else 0, r["seed"]))


def unmeasured_seeds(profile: Profile, records: Sequence[Record]) -> tuple[str, ...]:
    """The profile's data sets and seeds that a measurement's records lack, in words."""
    there = {(record["dataset"], record["seed"]) for record in records}
    found = []
    for name in profile.datasets:
        wanted = profile.seeds_for(name)
        seeds = [str(seed) for seed in wanted if (name, seed) not in there]
        if seeds:
            words = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"
            found.append(f"{DATASET_TITLES.get(name, name)}: {'all' if len(seeds) == len(wanted) else words}")
    return tuple(found)

"""Measurements that are no unit of a grid (distances, costs, agreements): a record each, like any run."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from freelib.datasets.cache import one_at_a_time
from freelib.environment import device_name, environment, peak_memory_mib
from freelib.folders import check_writable
from freelib.run.records import KEYED, Record, RecordStore, complete, config_digest
from freelib.run.runner import Run
from freelib.storage import plain

Values = Mapping[str, Any]


def measured(
    run: Run,
    name: str,
    config: Mapping[str, Any],
    make: Callable[[], Values],
    results: str | Path,
    *,
    revision: int = 1,
) -> Record:
    """The record of a measurement: read where it is there, else made by `make()`, whose values are its
    `extra`.

    run: gives experiment, data set, pool, seed and profile; its method's config counts only through `config`.
    name: of what is measured, where a unit's record has its method.
    config: all that determines the values beside those. revision: raised when `make` changes its results.
    make: numbers, strings, and lists and dictionaries of them; under "passes", generator iterations.

    Raises MissingDataError where the data set is not at hand and no record fits, and, before `make` is
    called, ValueError where the record can't be written.
    """
    store = RecordStore(Path(results) / run.profile.name / "records")
    keyed = _keyed(name, config, revision, run.unit.dataset, run.unit.seed, run.settings["precision"])
    of_data = ("data_digest", "pool")
    wanted = {field: value for field, value in plain(keyed).items() if field not in of_data}
    for record in store.all():  # found without the data, as `run_units` finds a unit's
        if all(record[field] == value for field, value in wanted.items()) and run.has_the_pool_of(record):
            return record
    keyed |= {field: run.keyed[field] for field in of_data}
    about = {
        "experiment": run.unit.experiment,
        "profile": run.profile.name,
        "device": device_name(run.settings["config"].device),
    }
    return _kept(keyed, about, make, store)


def computed(
    experiment: str,
    name: str,
    config: Mapping[str, Any],
    make: Callable[[], Values],
    results: str | Path,
    *,
    profile: str,
    seed: int = 0,
    precision: str = "float64",
    revision: int = 1,
) -> Record:
    """As `measured`, for what needs neither data nor pool; the record's data set is "none"."""
    keyed = _keyed(name, config, revision, "none", seed, precision)
    store = RecordStore(Path(results) / profile / "records")
    return _kept(keyed, {"experiment": experiment, "device": "cpu"}, make, store)


def _keyed(name: str, config: Values, revision: int, dataset: str, seed: int, precision: str) -> dict[str, Any]:
    own = {"method": name, "method_revision": revision, "config": dict(config)}
    return dict.fromkeys(KEYED) | own | {"dataset": dataset, "seed": seed, "precision": precision}


def _kept(keyed: Mapping[str, Any], about: Mapping[str, Any], make: Callable[[], Values], store: RecordStore) -> Record:
    """Of two processes with the same measurement one makes it, the other waits and takes its record."""
    digest = config_digest(keyed)
    if (record := store.get(digest)) is not None:
        return record
    check_writable(store.root / about["experiment"])
    with one_at_a_time(digest):
        if (record := store.get(digest)) is None:
            captured, start = environment(), time.perf_counter()
            values = dict(make())
            passes, seconds = values.pop("passes", None), round(time.perf_counter() - start, 3)
            more = {"passes": passes, "seconds": {"measurement": seconds}, "extra": values}
            record = complete({**keyed, **captured, **about, **more, "peak_memory_mib": peak_memory_mib()})
            store.put(record)
    return record

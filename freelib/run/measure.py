"""Measurements that are no unit of a grid (distances, costs, agreements): a record each, like any run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from freelib.datasets import MissingDataError
from freelib.datasets.cache import one_at_a_time
from freelib.environment import device_name, environment, nothing_is_made, peak_memory_mib
from freelib.run.records import KEYED, Record, RecordStore, complete, config_digest
from freelib.run.runner import Run

Values = Mapping[str, Any]


class NotMeasuredError(ValueError):
    """A measurement has no record, and FREELIB_RUNS=none makes none."""


def measured(
    run: Run,
    name: str,
    config: Mapping[str, Any],
    make: Callable[[], Values],
    store: RecordStore,
    *,
    revision: int = 1,
) -> Record:
    """The record of a measurement: read where it stands, else made by `make()`, whose values are its `extra`.

    run: gives experiment, data set, pool, seed and profile; its method's config counts only through `config`
    name: of what is measured, where a unit's record has its method
    config: all that determines the values beside those; revision: raised when `make` changes its results
    make: numbers, strings, and lists and dictionaries of them; under "passes", generate-forward-backward
      passes

    Raises MissingDataError where the data set is not at hand and no record fits, ValueError, before `make` is
    called, where the store can't be written.
    """
    unit = run.unit
    settings: dict[str, Any] = {
        **dict.fromkeys(("n_way", "n_shot", "n_query", "split", "n_episodes", "evaluation")),
        "method": name,
        "method_revision": revision,
        "config": dict(config),
        "dataset": unit.dataset,
        "seed": unit.seed,
        "precision": run.settings["precision"],
    }
    try:
        keyed = settings | {field: run.keyed[field] for field in ("data_digest", "pool")}
    except MissingDataError:
        for record in store.find({"experiment": unit.experiment, **settings}):
            return record
        raise
    about = {"profile": run.profile.name, "device": device_name(run.settings["config"].device)}
    return _kept(keyed, unit.experiment, about, make, store, run.cache)


def computed(
    experiment: str,
    name: str,
    config: Mapping[str, Any],
    make: Callable[[], Values],
    store: RecordStore,
    *,
    seed: int = 0,
    precision: str = "float64",
    revision: int = 1,
) -> Record:
    """As `measured`, for what needs neither data nor pool; the record's data set is "none"."""
    keyed = dict.fromkeys(KEYED) | {
        "method": name,
        "method_revision": revision,
        "config": dict(config),
        "dataset": "none",
        "seed": seed,
        "precision": precision,
    }
    return _kept(keyed, experiment, {"device": "cpu"}, make, store)


def columns(frame: pd.DataFrame) -> dict[str, list]:
    """A frame as the `extra` of a record; `pd.DataFrame(record["extra"])` gives it back."""
    return {str(name): frame[name].tolist() for name in frame.columns}


def _kept(
    keyed: Mapping[str, Any],
    experiment: str,
    about: Mapping[str, Any],
    make: Callable[[], Values],
    store: RecordStore,
    cache: str | Path | None = None,
) -> Record:
    """Of two processes with the same measurement one makes it, the other waits and takes its record."""
    digest = config_digest(keyed)
    if (record := store.adopt(experiment, digest)) is not None:
        return record
    if nothing_is_made():
        raise NotMeasuredError(
            f"{experiment}: {keyed['method']} has no record in {store.root}, and none is made"
        )
    store.check_writable(experiment)
    with one_at_a_time(digest, cache):
        if (record := store.adopt(experiment, digest)) is None:
            record = _made(keyed, experiment, about, make)
            store.put(record)
    return record


def _made(
    keyed: Mapping[str, Any], experiment: str, about: Mapping[str, Any], make: Callable[[], Values]
) -> Record:
    captured, start = environment(), time.perf_counter()
    values = dict(make())
    seconds = time.perf_counter() - start
    return complete(
        {
            **keyed,
            **captured,
            **about,
            "experiment": experiment,
            "passes": values.pop("passes", None),
            "seconds": {"measurement": round(seconds, 3)},
            "peak_memory_mib": peak_memory_mib(),
            "extra": values,
        }
    )

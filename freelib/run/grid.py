"""Many units: those without a record run side by side, each in a process with its own threads.

A process a unit, so that the bits of a result do not depend on how many run at once, a crash takes one unit
and not its neighbours, and memory goes back to the system.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

from freelib.environment import accelerators, nothing_is_made
from freelib.progress import Progress
from freelib.run.pools import get_pool, is_the_pool, pool_seed
from freelib.run.profiles import Profile
from freelib.run.records import Record, RecordStore
from freelib.run.runner import Run, known_record
from freelib.run.units import Unit
from freelib.run.worker import Job, Worker
from freelib.storage import plain

Plan = list[tuple[Profile, list[Unit]]]
"""Units, each part with the profile that they run in."""


class GridError(RuntimeError):
    """Some units of a grid failed; the records of the others are written."""


def run_grid(
    units: Sequence[Unit],
    profile: Profile,
    store: RecordStore,
    *,
    workers: int | None = None,
    cache: str | Path | None = None,
) -> list[Record]:
    """The units' records, in their order; those that stand are read, the others made, the longest first.

    workers: processes at a time; `Profile.processes` if None. Where there are fewer runs to be made, each
      has so many episodes at once, see `freelib.fast.threads`; the results are the same bits.

    With FREELIB_RUNS=none in the environment nothing is made: the records that stand are given.

    Raises ValueError and MissingDataError before anything runs: also where a data set can't fill the episodes
    or the store can't be written. GridError at the end, naming the units that failed or have no record.
    """
    if nothing_is_made():
        return _some([(units, profile, store)])
    known = {unit.name: known_record(Run(unit, profile, cache), store) for unit in units}
    missing = [unit for unit in units if known[unit.name] is None]
    if missing:
        shots = dict.fromkeys((*profile.shots, *(unit.n_shot for unit in missing)))  # its first stays first
        served = replace(profile, shots=tuple(shots))
        _check(missing, served, store, cache)
        _make_pools(missing, profile, cache)
        trainings = {Run(unit, profile).trained_as.name: unit for unit in missing}  # one may serve many units
        ordered = _longest_first(list(trainings.values()), store)
        _run_all(ordered, served, store, workers or profile.processes, cache)
    records = [known[unit.name] or known_record(Run(unit, profile, cache), store) for unit in units]
    if lost := [unit.name for unit, record in zip(units, records, strict=True) if record is None]:
        raise GridError(f"{len(lost)} of {len(units)} units ended without a record: {'; '.join(lost)}")
    return [record for record in records if record is not None]


def run_plan(plan: Plan, results: str | Path, *, cache: str | Path | None = None) -> list[Record]:
    """The records of all units of a plan, kept in `<results>/<profile>/records`; see `run_grid`."""
    grids = [(units, p, RecordStore(Path(results) / p.name / "records")) for p, units in plan]
    if nothing_is_made():
        return _some(grids)
    return [record for each in grids for record in run_grid(*each, cache=cache)]


def _some(grids: Sequence[tuple[Sequence[Unit], Profile, RecordStore]]) -> list[Record]:
    """The records that stand of one grid or several. Raises ValueError where there is none at all."""
    found = [record for each in grids for record in standing(*each)]
    if not found:
        n, root = sum(len(units) for units, *_ in grids), grids[0][2].root
        raise ValueError(f"none of the {n} runs has a record in {root}, and none is made")
    return found


def standing(units: Sequence[Unit], profile: Profile, store: RecordStore) -> list[Record]:
    """The records of those units that have one, in their order; none is made, and no data is needed."""
    there = [record for experiment in store.experiments() for record in store.all(experiment)]
    found = (record_of(unit, profile, there) for unit in units)
    return [record for record in found if record is not None]


def record_of(unit: Unit, profile: Profile, there: Iterable[Record]) -> Record | None:
    """The first of some records that is a unit's, under the unit's experiment; no data is read."""
    wanted = plain(Run(unit, profile).settings)
    for record in there:
        same = all(record[name] == wanted[name] for name in wanted)
        if same and is_the_pool(record["pool"], unit.dataset, profile, unit.seed):
            return dict(record, experiment=unit.experiment)
    return None


def _check(units: Iterable[Unit], profile: Profile, store: RecordStore, cache: str | Path | None) -> None:
    """Raises ValueError where a unit would fail after its training: once for each distinct setting."""
    runs = [Run(unit, profile, cache) for unit in units]
    settings = {(r.unit.dataset, r.unit.n_shot, r.shares_training, r.unit.selection): r for r in runs}
    for run in settings.values():
        run.check()
    for experiment in {run.unit.experiment for run in runs}:
        store.check_writable(experiment)


def _make_pools(units: Iterable[Unit], profile: Profile, cache: str | Path | None) -> None:
    """Pre-train the pools that the units need, before they run: with all workers on one pool at a time."""
    for dataset, seed in sorted({(unit.dataset, pool_seed(profile, unit.seed)) for unit in units}):
        with Progress(f"pool of {dataset}") as progress:
            get_pool(dataset, profile, seed, cache=cache, progress=progress)


def _longest_first(units: Sequence[Unit], store: RecordStore) -> list[Unit]:
    """The units by the time that their methods took before; those not seen before lead, in the order given.

    A long unit that starts last leaves the other cores idle at the end.
    """
    spent: dict[str, float] = {}
    for experiment in store.experiments():
        for record in store.all(experiment):
            seconds = (record["seconds"] or {}).get("training", 0.0)
            spent[record["method"]] = max(spent.get(record["method"], 0.0), seconds)
    return sorted(units, key=lambda unit: -spent.get(unit.method, math.inf))


def _run_all(
    units: Sequence[Unit], profile: Profile, store: RecordStore, workers: int, cache: str | Path | None
) -> None:
    failures: dict[str, str] = {}
    idle: SimpleQueue[tuple[Worker | None, str | None]] = SimpleQueue()  # None: one may be started; its GPU
    busy: list[Worker] = []
    gpus = accelerators() if profile.device == "cuda" else []
    episode_threads = max(1, workers // len(units))  # where there are fewer runs than cores
    workers = min(workers, len(units))
    for i in range(workers):
        idle.put((None, gpus[i % len(gpus)] if gpus else None))

    def do(unit: Unit) -> str | None:
        worker, gpu = idle.get()
        try:
            if worker is None:
                worker = Worker(profile.threads, gpu)
                busy.append(worker)
            return _error(*worker.run(Job(unit, profile, store.root, cache, episode_threads), progress.note))
        except Exception as error:  # no process to be had, no room for a note: this unit's failure alone
            if worker is not None:
                with suppress(ValueError):  # the end of the grid may have closed it
                    busy.remove(worker)
                    worker.close()  # it may be in the middle of a job, whose notes are not the next one's
            worker = None
            return f"{type(error).__name__}: {error}"
        finally:  # whoever waits for a place goes on
            idle.put((worker if worker and worker.alive else None, gpu))

    with Progress(units[0].experiment) as progress, ThreadPoolExecutor(workers) as executor:
        progress(0, len(units))
        jobs: dict[Future, Unit] = {executor.submit(do, unit): unit for unit in units}
        try:
            for done, job in enumerate(as_completed(jobs), start=1):
                if (error := job.result()) is not None:
                    failures[jobs[job].name] = error
                progress(done, len(units))
        finally:  # also an interrupt: what waits is dropped, what runs is ended
            executor.shutdown(wait=False, cancel_futures=True)
            while busy:  # each is closed by whoever takes it out
                busy.pop().close()
    if failures:
        reports = "\n\n".join(f"{name}\n{error}" for name, error in sorted(failures.items()))
        raise GridError(
            f"{len(failures)} of {len(units)} units failed, the others' records stand:\n\n{reports}"
        )


def _error(status: int, written: str) -> str | None:
    """None for a unit that went well, else the end of what it wrote on standard error."""
    if status == 0:
        if written:  # a warning, such as that of a damaged record
            sys.stderr.write(written + "\n")
        return None
    if status < 0:
        written = f"{written}\nended by signal {-status}".strip()
        written += " (memory ran out?)" if status == -9 else ""
    return "\n".join(written.splitlines()[-15:])

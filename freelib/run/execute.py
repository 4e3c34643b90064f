"""Many units: those without a record are run, several side by side in a process each."""

import math
import os
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import SimpleQueue

from freelib.datasets import MissingDataError
from freelib.environment import accelerators, end_with_parent, keep_freed_memory, process_context, torch_threads
from freelib.fast.threads import episode_threads
from freelib.folders import check_writable
from freelib.progress import Progress
from freelib.run.pools import get_pool, pool_seed
from freelib.run.profiles import Profile
from freelib.run.records import Record, RecordStore
from freelib.run.runner import Run, run_unit
from freelib.run.units import Unit

Job = tuple[Unit, Profile, RecordStore, int]
_asked: ContextVar[list[tuple[Unit, Profile]] | None] = ContextVar("asked", default=None)


class GridError(RuntimeError):
    """Some units failed; the records of the others are written."""


@contextmanager
def listing() -> Iterator[list[tuple[Unit, Profile]]]:
    """In the body `run_units` runs nothing and gives no records: what it is asked for is put into this list."""
    asked: list[tuple[Unit, Profile]] = []
    token = _asked.set(asked)
    try:
        yield asked
    finally:
        _asked.reset(token)


def run_units(
    units: Sequence[Unit], profile: Profile, results: str | Path, *, workers: int | None = None
) -> list[Record]:
    """The units' records, in their order: those in `<results>/<profile>/records` are read, the others made.

    Records are found by all that determines a result but for the data itself, so that reading them needs no
    data. Missing ones are made, the longest first: side by side in a process each, so that a crash takes one
    unit alone; in this process where only one runs at a time. The results are the same bits either way.

    workers: runs side by side; `Profile.processes` if None. Where there are fewer runs, each takes more
      episodes at once.

    Raises ValueError and MissingDataError before anything runs, also where the data is not that of the
    records that are there. GridError at the end, naming the units that failed.

    >>> from freelib.run import get_profile, table_units
    >>> profile = get_profile("cpu")
    >>> units = table_units("table1", profile, ["free"], datasets=["cub"], shots=[1])
    >>> (record,) = run_units(units, profile, "results")  # read from the checkout's records
    >>> f"{record['accuracy']:.1f} ± {record['accuracy_ci95']:.1f} %"
    '37.9 ± 0.8 %'
    """
    if (asked := _asked.get()) is not None:
        asked += [(unit, profile) for unit in units]
        return []
    store = RecordStore(Path(results) / profile.name / "records")
    runs = [Run(unit, profile) for unit in units]
    known = _found(runs, store.all())
    missing = [run.unit for run, record in zip(runs, known, strict=True) if record is None]
    if missing:
        shots = dict.fromkeys((*profile.shots, *(unit.n_shot for unit in missing)))  # its first stays first
        served = replace(profile, shots=tuple(shots))
        _check([Run(unit, served) for unit in missing], store, known)
        for dataset, seed in sorted({(unit.dataset, pool_seed(profile, unit.seed)) for unit in missing}):
            with Progress(f"pool of {dataset}") as progress:
                get_pool(dataset, profile, seed, progress=progress)
        trainings = {Run(unit, served).trained_as.name: unit for unit in missing}  # one may serve many units
        ordered = _longest_first(trainings.values(), store.all())
        _run_all(ordered, served, store, workers or profile.processes)
        known = _found(runs, store.all())
    if lost := [run.unit.name for run, record in zip(runs, known, strict=True) if record is None]:
        raise GridError(f"{len(lost)} of {len(units)} units ended without a record: {'; '.join(lost)}")
    return [record for record in known if record is not None]


def _found(runs: Sequence[Run], records: Iterable[Record]) -> list[Record | None]:
    by_method: dict[str, list[Record]] = {}
    for record in records:
        by_method.setdefault(record["method"], []).append(record)
    return [next((r for r in by_method.get(run.unit.method, ()) if run.is_served_by(r)), None) for run in runs]


def _check(runs: Sequence[Run], store: RecordStore, known: Iterable[Record | None]) -> None:
    """Raises what would otherwise be raised after a training: once for each distinct setting."""
    there = [record for record in known if record is not None]
    digests = {r["dataset"]: r["data_digest"] for r in there if not r["config"].get("unlabelled")}
    settings = {(r.unit.dataset, r.unit.n_shot, r.shares_training, r.unit.selection, *r.seen): r for r in runs}
    for run in settings.values():
        run.check()
        known_as = not run.seen and digests.get(run.unit.dataset)
        if known_as and known_as != run.keyed["data_digest"]:
            raise ValueError(
                f"the records in {store.root} were made from other images of {run.unit.dataset} than those "
                "at hand: choose another results folder"
            )
    for experiment in {run.unit.experiment for run in runs}:
        check_writable(store.root / experiment)


def _longest_first(units: Iterable[Unit], records: Iterable[Record]) -> list[Unit]:
    """The units by the time that their methods took before; those not seen before lead, in the order given.

    A long unit that starts last leaves the other cores idle at the end.
    """
    spent: dict[str, float] = {}
    for record in records:
        seconds = (record["seconds"] or {}).get("training", 0.0)
        spent[record["method"]] = max(spent.get(record["method"], 0.0), seconds)
    return sorted(units, key=lambda unit: -spent.get(unit.method, math.inf))


def _run_all(units: Sequence[Unit], profile: Profile, store: RecordStore, workers: int) -> None:
    at_once = max(1, workers // len(units))  # episodes, where there are fewer runs than cores
    workers = min(workers, len(units))
    gpus = accelerators() if profile.device == "cuda" else []
    places: SimpleQueue[str | None] = SimpleQueue()
    for i in range(workers):
        places.put(gpus[i % len(gpus)] if gpus else None)
    running: set[BaseProcess] = set()
    failures: dict[str, str] = {}

    with Progress(units[0].experiment) as progress, ThreadPoolExecutor(workers) as executor:
        progress(0, len(units))

        def one(unit: Unit) -> str | None:
            job = (unit, profile, store, at_once)
            if workers == 1:
                try:
                    _run_one(*job, progress.note)
                except (ArithmeticError, ValueError, RuntimeError, OSError) as error:
                    return f"{type(error).__name__}: {error}"
                return None
            gpu = places.get()
            try:
                return _in_a_process(job, gpu, progress.note, running)
            finally:
                places.put(gpu)

        try:
            if workers == 1:  # in this thread, so that an interrupt reaches the run
                results: Iterable[tuple[Unit, str | None]] = ((unit, one(unit)) for unit in units)
            else:
                jobs = {executor.submit(one, unit): unit for unit in units}
                results = ((jobs[job], job.result()) for job in as_completed(jobs))
            for done, (unit, error) in enumerate(results, start=1):
                if error is not None:
                    failures[unit.name] = error
                progress(done, len(units))
        finally:  # also at an interrupt: what waits is dropped, what runs is ended
            executor.shutdown(wait=False, cancel_futures=True)
            for process in tuple(running):
                process.terminate()
    if failures:
        reports = "\n\n".join(f"{name}\n{error}" for name, error in sorted(failures.items()))
        raise GridError(f"{len(failures)} of {len(units)} units failed, the others' records stand:\n\n{reports}")


def _run_one(unit: Unit, profile: Profile, store: RecordStore, at_once: int, note: Callable[[str], None]) -> None:
    with torch_threads(profile.threads), episode_threads(at_once):
        run_unit(unit, profile, store, message=note)


def _in_a_process(job: Job, gpu: str | None, note: Callable[[str], None], running: set[BaseProcess]) -> str | None:
    """Runs a unit in a process of its own; gives None, or what went wrong."""
    receive, send = process_context().Pipe(duplex=False)
    # What children are forked from began earlier: it does not know what has been set since.
    settings = {name: value for name, value in os.environ.items() if name.startswith("FREELIB_")}
    if gpu is not None:
        settings["CUDA_VISIBLE_DEVICES"] = gpu
    process = process_context().Process(target=_child, args=(send, settings, job), daemon=True)  # type: ignore[attr-defined]
    process.start()
    running.add(process)
    send.close()
    error = None
    try:
        while True:
            kind, text = receive.recv()
            if kind == "error":
                error = text
            else:
                note(text)
    except (EOFError, OSError):  # the child has ended
        process.join()
    running.discard(process)
    if error is None and process.exitcode:
        killed = " (memory ran out?)" if process.exitcode == -9 else ""
        error = f"its process ended with {process.exitcode}{killed}"
    return error


def _child(send: Connection, settings: dict[str, str], job: Job) -> None:
    """In the process: the unit's record; notes and errors go to the parent, without whom it ends."""
    end_with_parent()
    os.environ.update(settings)
    keep_freed_memory()
    try:
        _run_one(*job, lambda text: send.send(("note", text)))
    except MissingDataError as error:
        send.send(("error", str(error)))
    except Exception:
        send.send(("error", "\n".join(traceback.format_exc().splitlines()[-15:])))

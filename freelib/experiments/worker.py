"""A process that makes one unit's record: `python -m freelib.experiments.worker`, started by `run_grid`.

Standard input: a pickled `Job`, then nothing until the parent ends; standard output: notes, one a line.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from freelib.experiments.units import Unit
from freelib.profiles import Profile


@dataclass(frozen=True)
class Job:
    """What a worker is told."""

    unit: Unit
    profile: Profile
    records: Path
    cache: str | Path | None


def _end_with_parent() -> None:
    # Returns when the parent's end of the pipe is closed: by it, or by its death. Not through sys.stdin: the
    # interpreter could not shut down while a thread holds its lock.
    while os.read(0, 1):
        pass
    os._exit(1)


def main() -> None:
    """Run the job that standard input holds."""
    import torch

    from freelib.environment import keep_freed_memory
    from freelib.experiments.runner import run_unit
    from freelib.records import RecordStore

    job: Job = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(job.profile.threads)
    keep_freed_memory()

    def note(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    run_unit(job.unit, job.profile, RecordStore(job.records), cache=job.cache, message=note)


if __name__ == "__main__":
    main()

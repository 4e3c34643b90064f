"""Processes that make units' records: `python -m freelib.run.worker LIFELINE`, started by `run_grid`.

Such a process imports torch once and forks a child for each job, so that a unit has a process of its own
without the seconds that imports take. Standard input: pickled jobs; standard output: notes, one a line, and
after each job a line of `END` and the child's exit status. LIFELINE: a file descriptor whose other end closes
when the parent is gone.
"""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from freelib.run.profiles import Profile
from freelib.run.units import Unit

END = "\0"


@dataclass(frozen=True)
class Job:
    """What a worker is told; episode_threads: see `freelib.fast.threads`."""

    unit: Unit
    profile: Profile
    records: Path
    cache: str | Path | None
    episode_threads: int = 1


class Worker:
    """A process that takes one job after the other, each in a child; `close` ends it and what it does.

    threads: of each child; gpu: the one that it may use, as `CUDA_VISIBLE_DEVICES` names it
    """

    def __init__(self, threads: int, gpu: str | None = None) -> None:
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "OPENBLAS_NUM_THREADS": "1",  # no threads of NumPy's where the process forks
            # methods that lie beside a user's own script are found from here too
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),  # noqa: PTH109
        }
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        lifeline, self._lifeline = os.pipe()
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "freelib.run.worker", str(lifeline)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            pass_fds=(lifeline,),
            env=environment,
        )
        os.close(lifeline)

    def run(self, job: Job, note: Callable[[str], None]) -> tuple[int, str]:
        """Do a job: (exit status, negative for a signal; what it wrote on standard error)."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._errors.seek(0)
        self._errors.truncate()
        with suppress(BrokenPipeError):  # it has ended: its return code says so
            self.process.stdin.write(pickle.dumps(job))
            self.process.stdin.flush()
        status = None
        for line in self.process.stdout:
            text = line.decode(errors="replace").rstrip("\n")
            if text.startswith(END):
                status = int(text.removeprefix(END))
                break
            note(text)
        if status is None:
            status = self.process.wait()
        self._errors.seek(0)
        return status, self._errors.read().strip()

    @property
    def alive(self) -> bool:
        """Whether it can take another job."""
        return self.process.poll() is None

    def close(self) -> None:
        """End it, and the child that is at work."""
        os.close(self._lifeline)
        self.process.terminate()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):  # after its end: a thread may still read
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()
        self._errors.close()


def _end_with_parent(lifeline: int) -> None:
    # Returns when the parent's end of the pipe is closed: by it, or by its death.
    while os.read(lifeline, 1):
        pass
    os._exit(1)


def _do(job: Job, lifeline: int) -> None:
    """In the child: the job's record."""
    import torch

    from freelib.environment import keep_freed_memory
    from freelib.fast import episode_threads
    from freelib.run.records import RecordStore
    from freelib.run.runner import run_unit

    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    torch.set_num_threads(job.profile.threads)
    keep_freed_memory()

    def note(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    with episode_threads(job.episode_threads):
        run_unit(job.unit, job.profile, RecordStore(job.records), cache=job.cache, message=note)


def main() -> None:
    """Do the jobs that standard input holds, until it ends."""
    importlib.import_module("torch._dynamo")  # an optimiser's first step would, in more than a second
    importlib.import_module("freelib.run.runner")

    lifeline = int(sys.argv[1])
    while True:
        try:
            job: Job = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        child = os.fork()  # this process has one thread, and has computed nothing
        if child == 0:
            _do(job, lifeline)
            return
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{END}{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

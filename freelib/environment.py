"""What a record says about the machine and the code that made it."""

import ctypes
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import torch

from freelib import __version__

PACKAGE = Path(__file__).parent


def environment() -> dict[str, Any]:
    """Version, commit, interpreter, processor, threads and time, under a record's names for them."""
    return {
        "freelib_version": __version__,
        "git_commit": git_commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def git_commit() -> str | None:
    """Commit of the checkout that freelib runs from, "-dirty" appended if its code was changed; else None."""
    try:
        # an installed package may lie inside another repository: only a tracked file proves that it is ours
        _git("ls-files", "--error-unmatch", "environment.py")
        commit = _git("rev-parse", "HEAD")
        return commit + ("-dirty" if _git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(PACKAGE), *arguments], capture_output=True, text=True, check=True,
                          env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"})  # fmt: skip
    return done.stdout.strip()


@cache
def cpu_model() -> str:
    """Name of the processor; on x86-64 with family and model, since a virtual machine may hide the rest."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
    except OSError:
        lines = []
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = found.get("model name") or platform.processor() or platform.machine()
    numbers = [f"{n} {found[key]}" for n, key in (("family", "cpu family"), ("model", "model")) if key in found]
    return f"{name} ({', '.join(numbers)})" if numbers else name


def device_name(device: str | torch.device) -> str:
    """Name of a torch device as a record has it: "cpu", or the accelerator's product name."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def accelerators() -> list[str]:
    """What `CUDA_VISIBLE_DEVICES` may name here, one by one: as it is set, else all GPUs; none without."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(i) for i in range(torch.cuda.device_count())]
    return [name.strip() for name in visible.split(",") if name.strip()]


def peak_memory_mib() -> float | None:
    """The largest resident size of this process so far, in MiB; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


@cache
def process_context() -> BaseContext:
    """How to start child processes: forked from one that has imported torch, or (Windows) started anew."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo"])  # an optimiser's first step imports it
    resource_tracker.ensure_running()  # it would lift the block as it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited: Ctrl-C is for the parent alone
    forkserver.ensure_running()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def keep_freed_memory() -> bool:
    """Makes this process keep the memory that it frees, for its next tensors; True where libc can (glibc).

    By default glibc returns large blocks at once and gets them again a page fault at a time: up to a fifth of a
    training step's time. It holds for the whole process: only processes of our own call it, as they start.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    trim_threshold, mmap_max = -1, -4  # names and numbers: malloc.h
    return bool(mallopt(trim_threshold, 2**31 - 1)) and bool(mallopt(mmap_max, 0))


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """Torch computes with n threads in the body: the bits of a result depend on their number.

    On a GPU cuDNN takes deterministic algorithms there, and no TF32, whose ten bits second-order MAML would see.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_num_threads(before)


def end_with_parent() -> None:
    """Ends this process when the one that started it is gone, however that one ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

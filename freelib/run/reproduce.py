"""The reproduction in batch: notebooks through papermill, in order, and one page with what came out."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbclient.client import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_output
from papermill import PapermillExecutionError, execute_notebook

from freelib.run.notebooks import (
    KERNEL,
    check_parameters,
    clean,
    find_notebooks,
    parameters,
    read_notebook,
    write_notebook,
)
from freelib.run.profiles import Profile, get_profile
from freelib.run.report import write_index
from freelib.run.units import check_choices

# a kernel warns at each start that its local connection is not encrypted
QUIET = ["--IPKernelApp.log_level=40"]

DIED = "DeadKernelError: the kernel died (memory ran out?)"


@dataclass(frozen=True)
class Failure:
    """A notebook that broke off: where its executed part lies, and the error."""

    name: str
    path: Path
    error: str


def reproduce(
    profile: str,
    *,
    results: str | Path = "results",
    notebooks: str | Path = "notebooks",
    only: Sequence[str] = (),
    offered: Mapping[str, Any] | None = None,
    required: Mapping[str, Any] | None = None,
    index_only: bool = False,
    standing: bool = False,
) -> tuple[Path, list[Failure]]:
    """Run the notebooks into `<results>/<profile>/notebooks`, write the index page: (its path, what failed).

    only: names of notebooks, all if empty; index_only: run none
    standing: notebooks show the records that stand, and make none
    offered: parameters for those notebooks that have them; required: parameters that each chosen notebook
    must have

    Raises ValueError, before anything runs, for an unknown profile, notebook or parameter, one of another
    type, and a data set or method that there is not; PROFILE and RESULTS are given as arguments alone.
    """
    settings, folder = get_profile(profile), Path(results) / profile
    check_choices({**(offered or {}), **(required or {})})
    everything = find_notebooks(notebooks)
    # relative, so that no machine's paths get into executed notebooks
    fixed = {"PROFILE": profile, "RESULTS": Path(os.path.relpath(results, notebooks)).as_posix()}
    plan: list[tuple[Path, dict[str, Any]]] = []
    for path in [] if index_only else find_notebooks(notebooks, tuple(only)):
        defaults = parameters(read_notebook(path), path.name)
        given = {name: value for name, value in (offered or {}).items() if name in defaults}
        given = fixed | given | dict(required or {})
        check_parameters(given, defaults, path.name)
        plan.append((path, given))
    failures = []
    for number, (path, given) in enumerate(plan, start=1):
        sys.stderr.write(f"[{number}/{len(plan)}] {path.name}\n")
        output = folder / "notebooks" / path.name
        if (failure := _run(path, output, given, settings, standing=standing)) is not None:
            failures.append(failure)
            sys.stderr.write(f"{failure.name} failed; what it did until then is kept in {failure.path}\n")
    return write_index(folder, notebooks=[path.stem for path in everything]), failures


def _run(
    path: Path, output: Path, given: dict[str, Any], profile: Profile, *, standing: bool
) -> Failure | None:
    output.parent.mkdir(parents=True, exist_ok=True)
    error, begun = None, list[int]()
    with kernel_environment(profile, standing=standing):
        try:
            execute_notebook(
                str(path),
                str(output),
                given,
                kernel_name=KERNEL["name"],
                language=KERNEL["language"],
                cwd=str(path.parent),
                progress_bar=False,
                extra_arguments=QUIET,
                on_cell_execute=lambda cell, cell_index: begun.append(cell_index),
            )
        except PapermillExecutionError as raised:
            error = f"{raised.ename}: {raised.evalue}"
        except DeadKernelError:
            error = DIED
    notebook = clean(read_notebook(output))
    if error == DIED:
        show_death(notebook, begun)
    write_notebook(notebook, output)
    return None if error is None else Failure(path.stem, output, error)


def show_death(notebook: NotebookNode, begun: Sequence[int]) -> None:
    """Writes into a notebook where its kernel died, as it would have written an error itself.

    begun: the indices of the cells that were executed, the last of them not to its end
    """
    name, value = DIED.split(": ")
    first = next(i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    output = new_output("error", ename=name, evalue=value, traceback=[DIED])
    notebook.cells[begun[-1] if begun else first].outputs.append(output)


def execute_in_place(
    folder: str | Path, only: Sequence[str] = (), *, results: str | Path = "results"
) -> list[Failure]:
    """Execute notebooks with their own parameters and write outputs and execution counts into them.

    A notebook that breaks off stays as it was; what it did until then goes into `<results>/failed`.
    """
    failures = []
    for path in find_notebooks(folder, tuple(only)):
        sys.stderr.write(f"{path.name}\n")
        notebook = read_notebook(path)
        profile = get_profile(parameters(notebook, path.name).get("PROFILE", "smoke"))
        error, begun = None, list[int]()
        client = NotebookClient(
            notebook,
            timeout=None,
            kernel_name=KERNEL["name"],
            resources={"metadata": {"path": str(path.parent)}},
            extra_arguments=QUIET,
            on_cell_execute=lambda cell, cell_index, begun=begun: begun.append(cell_index),
        )
        with kernel_environment(profile):
            try:
                client.execute()
            except CellExecutionError as raised:
                error = f"{raised.ename}: {raised.evalue}"
            except DeadKernelError:
                error = DIED
                show_death(notebook, begun)
        target = path if error is None else Path(results) / "failed" / path.name
        write_notebook(clean(notebook), target)
        if error is not None:
            failures.append(Failure(path.stem, target, error))
    return failures


@contextmanager
def kernel_environment(profile: Profile, *, standing: bool = False) -> Iterator[None]:
    """The environment that a notebook's kernel starts in; this process's own is put back afterwards.

    A fixed number of threads, figures inline, and progress into a file whose lines are shown on standard
    error: in a notebook they would be one more output that changes from run to run.
    """
    with tempfile.TemporaryDirectory() as folder:
        progress = Path(folder) / "progress"
        progress.touch()
        changes = {
            "OMP_NUM_THREADS": str(profile.threads),
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "FREELIB_PROGRESS": os.environ.get("FREELIB_PROGRESS") or str(progress),
        }
        if standing:
            changes["FREELIB_RUNS"] = "none"
        before = {name: os.environ.get(name) for name in changes}
        done = threading.Event()
        follower = threading.Thread(target=_follow, args=(progress, done), daemon=True)
        follower.start()
        os.environ.update(changes)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
            done.set()
            follower.join()


def _follow(path: Path, done: threading.Event) -> None:
    """Write what is appended to a file to standard error, until `done`."""
    with path.open(encoding="utf-8") as file:
        while not done.wait(0.5):
            sys.stderr.write(file.read())
            sys.stderr.flush()
        sys.stderr.write(file.read())

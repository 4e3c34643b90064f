"""A notebook as a file: its parameters, its execution in a kernel of its own, and what is kept of it."""

import ast
import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import nbformat
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbformat import NotebookNode
from papermill import PapermillExecutionError, execute_notebook
from papermill.translators import PythonTranslator

from freelib.storage import read_limited, write_atomically

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
DIED = ("DeadKernelError", "the kernel died (memory ran out?)")


def find_notebooks(folder: str | Path, only: tuple[str, ...] = ()) -> list[Path]:
    """The folder's notebooks in the order of their numbers; `only` those names (with or without `.ipynb`).

    Raises FileNotFoundError where there is none, ValueError for a name that none of them has.
    """
    found = {path.stem: path for path in sorted(Path(folder).glob("[0-9][0-9]_*.ipynb"))}
    if not found:
        raise FileNotFoundError(
            f"there are no notebooks in {folder}: run this in a checkout of the project, or name their folder"
        )
    wanted = [name.removesuffix(".ipynb") for name in only]
    if unknown := [name for name in wanted if name not in found]:
        raise ValueError(f"there is no notebook {', '.join(unknown)} in {folder}; there are {', '.join(found)}")
    return [path for name, path in found.items() if not wanted or name in wanted]


def parameters(path: Path) -> dict[str, Any]:
    """Names and defaults in the notebook's cell that is tagged `parameters`, as papermill reads it.

    Raises ValueError where the file is no notebook, or a default is no plain literal.
    """
    try:
        cells = nbformat.reads(read_limited(path, 2**27).decode(), as_version=4).cells
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError, nbformat.ValidationError) as error:
        raise ValueError(f"{path} can't be read as a notebook ({error})") from error
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    defaults = {}
    # as papermill's inspect_notebook does, which also wants a kernel's name in the file
    for parameter in PythonTranslator.inspect(tagged[0]) if tagged else []:
        try:
            defaults[parameter.name] = ast.literal_eval(parameter.default)
        except (ValueError, SyntaxError):
            raise ValueError(f"{path.name}: the parameter {parameter.name} is no plain literal") from None
    return defaults


def check_parameters(given: Mapping[str, Any], defaults: Mapping[str, Any], name: str) -> None:
    """Raises ValueError unless the notebook has each parameter, with a default of the same type (or None).

    papermill itself only warns of a parameter that a notebook does not know, and then runs for hours without it.
    """
    if unknown := sorted(set(given) - set(defaults)):
        raise ValueError(f"{name} has no parameter {', '.join(unknown)}; it has {', '.join(defaults)}")
    for parameter, value in given.items():
        default = defaults[parameter]
        if default is not None and value is not None:
            try:
                msgspec.convert(value, type(default))
            except msgspec.ValidationError as error:
                raise ValueError(f"{name}: {parameter} is {value!r}: {error}, as in {default!r}") from error


def execute(path: Path, given: Mapping[str, Any], *, threads: int) -> tuple[NotebookNode, str | None]:
    """The notebook executed with parameters, cleaned, and the error that it broke off with, or None.

    It runs in its own folder, in a kernel with `threads` threads. Its progress is shown on standard error; in
    the notebook it would be one more output that changes from run to run.
    """
    begun: list[int] = []
    error, asked = None, os.environ.get("FREELIB_PROGRESS", "")
    with tempfile.TemporaryDirectory() as scratch:
        output, progress = Path(scratch) / "executed.ipynb", Path(scratch) / "progress"
        environment = {
            "OMP_NUM_THREADS": str(threads),
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "FREELIB_METHODS": os.environ.get("FREELIB_METHODS", str(Path.cwd())),
            "FREELIB_PROGRESS": "off" if asked == "off" else str(Path(asked or progress).resolve()),
        }
        try:
            with shown(progress):
                execute_notebook(
                    path,
                    output,
                    dict(given),
                    kernel_name=KERNEL["name"],
                    language=KERNEL["language"],
                    kernel_manager_class=own_kernel(environment),
                    cwd=path.parent,
                    progress_bar=False,
                    on_cell_execute=lambda cell, cell_index: begun.append(cell_index),
                )
        except PapermillExecutionError as raised:
            error = f"{raised.ename}: {raised.evalue}"
        except RuntimeError:  # nbclient's, of a kernel that died or did not start
            error = ": ".join(DIED)
        notebook = clean(nbformat.read(output, as_version=4))
    if error == ": ".join(DIED):  # said in the cell that was executed, as the kernel would have done
        code = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
        last = notebook.cells[[*code[:1], *begun][-1]]
        last.outputs.append(nbformat.v4.new_output("error", ename=DIED[0], evalue=DIED[1], traceback=[error]))
    return notebook, error


def own_kernel(environment: dict[str, str]) -> type[AsyncKernelManager]:
    """A manager of kernels of this interpreter, with some environment variables set.

    Jupyter would take the first kernel that is called python3 on JUPYTER_PATH or in the user's folders: of
    another Python, perhaps, that has no freelib or another one. `log_level` silences a warning at each start
    (the local connection is not encrypted) and a complaint at an interrupt.
    """
    spec = KernelSpec(**get_kernel_dict(["--IPKernelApp.log_level=50"]), env=environment)

    class OwnKernel(AsyncKernelManager):
        kernel_spec = spec

    return OwnKernel


@contextmanager
def shown(file: Path) -> Iterator[None]:
    """Meanwhile, what is appended to a file is written to standard error."""
    file.touch()
    done = threading.Event()

    def follow() -> None:
        with file.open(encoding="utf-8") as lines:
            while not done.wait(0.5):
                sys.stderr.write(lines.read())
                sys.stderr.flush()
            sys.stderr.write(lines.read())

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield
    finally:
        done.set()
        follower.join()


def clean(notebook: NotebookNode) -> NotebookNode:
    """The notebook without what changes from run to run: times, paths, widget states, versions."""
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if "injected-parameters" in (tags or []):
            cell.id = "injected-parameters"
    return notebook


def write_notebook(notebook: NotebookNode, path: str | Path) -> None:
    """Writes a notebook, whole or not at all."""
    write_atomically(Path(path), (nbformat.writes(notebook).rstrip("\n") + "\n").encode())

"""Notebooks as files: their parameters, and what is kept of an executed one."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from freelib.storage import write_atomically

ARTEFACTS = {
    "Table 1": "01_table1",
    "Table 2": "02_table2",
    "Table 3": "03_table3",
    "Table 4": "04_table4",
    "Table 5": "05_table5",
    "Figure 1": "11_figure1",
    "Figure 2": "12_figure2",
    "Figure 3": "13_figure3",
    "Figure 4": "14_figure4",
    "Figure 5": "15_figure5",
    "Figure 6": "16_figure6",
    "Figure 7": "17_figure7",
    "Lemma 1, Theorem 1": "21_lemma1_theorem1",
}
"""What the paper holds, each with the one notebook that reproduces it."""

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


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
    unknown = [name for name in wanted if name not in found]
    if unknown:
        raise ValueError(
            f"there is no notebook {', '.join(unknown)} in {folder}; there are {', '.join(found)}"
        )
    return [path for name, path in found.items() if not wanted or name in wanted]


def missing_artefacts(folder: str | Path) -> list[str]:
    """The artefacts of the paper that have no notebook in a folder.

    Raises ValueError where one has two: ARTEFACTS names the one.
    """
    names = [path.stem for path in find_notebooks(folder)]
    one = {name.partition("_")[2]: name for name in ARTEFACTS.values()}
    twice = [name for name in names if one.get(name.partition("_")[2], name) != name]
    if twice:
        raise ValueError(f"{', '.join(twice)}: that artefact's notebook has another number, see ARTEFACTS")
    return [artefact for artefact, name in ARTEFACTS.items() if name not in names]


def read_notebook(path: str | Path) -> NotebookNode:
    """A notebook in format 4. Raises ValueError where the file is not one."""
    try:
        return nbformat.read(path, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, KeyError) as error:
        raise ValueError(f"{path} is not a notebook ({error})") from error


def parameters(notebook: NotebookNode, name: str) -> dict[str, Any]:
    """Names and defaults in the cell that is tagged `parameters`.

    Raises ValueError where there is not exactly one such cell, or it holds more than names and plain
    literals.
    """
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ValueError(f"{name} has {len(cells)} cells tagged 'parameters', expected one")
    defaults: dict[str, Any] = {}
    for statement in ast.parse(cells[0].source).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=target)], value=value):
                try:
                    defaults[target] = ast.literal_eval(value)
                except ValueError:
                    raise ValueError(f"{name}: the parameter {target} is no plain literal") from None
            case _:
                raise ValueError(f"{name}: its parameters cell holds more than `NAME = literal` lines")
    return defaults


def check_parameters(given: Mapping[str, Any], defaults: Mapping[str, Any], name: str) -> None:
    """Raise ValueError unless the notebook has each parameter, with a default of the same type (or None).

    papermill itself only warns of a parameter that a notebook does not know, and then runs for hours without
    it.
    """
    unknown = sorted(set(given) - set(defaults))
    if unknown:
        raise ValueError(f"{name} has no parameter {', '.join(unknown)}; it has {', '.join(defaults)}")
    for parameter, value in given.items():
        default = defaults[parameter]
        fits = type(value) is type(default) or (type(default) is float and type(value) is int)
        if default is not None and value is not None and not fits:
            raise ValueError(
                f"{name}: {parameter} is {value!r}, expected {type(default).__name__} as in {default!r}"
            )


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
    """Write a notebook, whole or not at all."""
    write_atomically(Path(path), (nbformat.writes(notebook).rstrip("\n") + "\n").encode())

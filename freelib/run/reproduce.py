"""The reproduction in batch: the notebooks through papermill, one after another."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from freelib.datasets.class_lists import NATIVE_SIZE
from freelib.datasets.own import dataset_names
from freelib.folders import check_writable
from freelib.methods import get_method
from freelib.progress import printable
from freelib.run.notebooks import check_parameters, execute, find_notebooks, parameters, write_notebook
from freelib.run.profiles import get_profile

CHOICES: dict[str, Any] = {
    "DATASETS": Annotated[list[str], Meta(min_length=1)],
    "METHODS": Annotated[list[str], Meta(min_length=1)],
    "SHOTS": Annotated[list[Annotated[int, Meta(ge=1)]], Meta(min_length=1)],
    "SEEDS": Annotated[list[Annotated[int, Meta(ge=0, lt=2**32)]], Meta(min_length=1)],
}
"""The parameters that notebooks share, and what each may be beside None, the profile's own choice."""


@dataclass(frozen=True)
class Outcome:
    """Where an executed notebook lies, and the error that it broke off with, or None."""

    name: str
    path: Path
    error: str | None


def reproduce(
    profile: str,
    only: Sequence[str] = (),
    *,
    notebooks: str | Path = "notebooks",
    results: str | Path = "results",
    offered: Mapping[str, Any] | None = None,
    required: Mapping[str, Any] | None = None,
) -> list[Outcome]:
    """Runs the notebooks into `<results>/<profile>/notebooks`; one that fails does not stop the others.

    `only` are names of notebooks, all if empty. `offered` are parameters for those notebooks that have them,
    `required` those that each chosen notebook must have.

    Raises ValueError, before anything runs, for an unknown profile, notebook or parameter, one of another
    type, a data set or method that there is not, and results that can't be written; PROFILE and RESULTS are
    given as arguments alone.
    """
    offered, required = dict(offered or {}), dict(required or {})
    check_choices(offered | required)
    chosen = get_profile(profile)
    folder = Path(results) / chosen.name / "notebooks"
    check_writable(folder)
    # relative, so that no machine's paths get into executed notebooks
    fixed = {"PROFILE": chosen.name, "RESULTS": Path(os.path.relpath(results, notebooks)).as_posix()}
    plan: list[tuple[Path, dict[str, Any]]] = []
    for path in find_notebooks(notebooks, tuple(only)):
        defaults = parameters(path)
        given = fixed | {name: value for name, value in offered.items() if name in defaults} | required
        check_parameters(given, defaults, path.name)
        plan.append((path, given))
    outcomes = []
    for number, (path, given) in enumerate(plan, start=1):
        sys.stderr.write(f"[{number}/{len(plan)}] {printable(path.name)}\n")
        notebook, error = execute(path, given, threads=chosen.threads)
        write_notebook(notebook, folder / path.name)
        outcomes.append(Outcome(path.stem, folder / path.name, error))
    return outcomes


def execute_in_place(
    only: Sequence[str] = (), *, notebooks: str | Path = "notebooks", results: str | Path = "results"
) -> list[Outcome]:
    """Executes notebooks with their own parameters and writes outputs and execution counts into them.

    A notebook that breaks off stays as it was; what it did until then goes into `<results>/failed`.
    """
    outcomes = []
    for path in find_notebooks(notebooks, tuple(only)):
        sys.stderr.write(f"{printable(path.name)}\n")
        profile = get_profile(parameters(path).get("PROFILE", "cpu"))
        notebook, error = execute(path, {}, threads=profile.threads)
        target = path if error is None else Path(results) / "failed" / path.name
        write_notebook(notebook, target)
        outcomes.append(Outcome(path.stem, target, error))
    return outcomes


def check_choices(given: Mapping[str, Any]) -> None:
    """Raises ValueError for a parameter in CHOICES that can't be meant, and for PROFILE and RESULTS."""
    for name, values in given.items():
        if name in ("PROFILE", "RESULTS"):
            raise ValueError(f"{name} is no parameter to be set here: use --{name.lower()}")
        if name not in CHOICES or values is None:
            continue
        try:
            msgspec.convert(values, CHOICES[name])
        except msgspec.ValidationError as error:
            written = ", written as [a, b]" if "`array`" in str(error) else ""
            raise ValueError(f"{name} is {values!r}: {error}{written}") from error
    for method in given.get("METHODS") or ():
        get_method(method)
    known = {*NATIVE_SIZE, *dataset_names()}
    for dataset in given.get("DATASETS") or ():
        if not set(dataset.split("+")) <= known:
            raise ValueError(f"DATASETS has {dataset!r}, expected some of {', '.join(sorted(known))}")

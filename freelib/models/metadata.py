"""What is known of a model beside its weights: the values that it may have, and its JSON file."""

from collections.abc import Callable, Collection, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

from freelib.models.transform import INTERPOLATIONS
from freelib.settings import MOST_WIDE
from freelib.storage import read_json


def _is_list(value: Any) -> bool:
    return hasattr(value, "__len__") and not isinstance(value, str | Mapping) and len(value) > 0


def _are_names(value: Any) -> bool:
    return _is_list(value) and len({str(name) for name in value} - {""}) == len(value) > 1


def _are_numbers(value: Any, low: float, high: float) -> bool:
    return _is_list(value) and all(hasattr(x, "__float__") and low <= x <= high for x in value)


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and value is not True and 0 < int(value) <= MOST_WIDE


_EXPECTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "arch": (lambda v: isinstance(v, str), "a name"),
    "class_names": (_are_names, "a list of at least two different names"),
    "mean": (lambda v: _are_numbers(v, 0, 1), "a list of numbers in [0, 1], for images in [0, 1]"),
    "std": (lambda v: _are_numbers(v, 1e-6, 1e6), "a list of numbers above 0, for images in [0, 1]"),
    "image_size": (_is_count, f"a whole number from 1 to {MOST_WIDE}"),
    "domain": (lambda v: isinstance(v, str), "a name"),
    "accuracy": (lambda v: v is None or _are_numbers([v], 0, 1), "a number in [0, 1]"),
    "width": (lambda v: v is None or _is_count(v), f"a whole number from 1 to {MOST_WIDE}"),
    "interpolation": (lambda v: v in INTERPOLATIONS, f"one of {', '.join(INTERPOLATIONS)}"),
    "options": (lambda v: isinstance(v, dict), "an object: arguments of the network's builder"),
    "seconds": (lambda v: v is None or isinstance(v, int | float), "a number"),
    "training": (lambda v: v is None or isinstance(v, dict), "an object"),
}


def check_metadata(owner: object, about: Mapping[str, Any]) -> None:
    """Raises ValueError, naming the owner, where the metadata of a model have a value that cannot be."""
    for name, (fits, expected) in _EXPECTED.items():
        if name in about and not fits(about[name]):
            raise ValueError(f"{owner}: {name} must be {expected}, got {about[name]!r:.100}.")
    if len(about["mean"]) != len(about["std"]):
        raise ValueError(f"{owner}: mean and std need one number for each channel.")


def read_metadata(file: Path, needed: Collection[str] = ()) -> dict[str, Any]:
    """The JSON object in a file. Raises ValueError where it is none, or lacks a name that is needed."""
    try:
        about = read_json(file)
    except ValueError as error:
        raise ValueError(f"{file} is no JSON object ({error}): replace or delete it.") from error
    if not isinstance(about, dict):
        raise ValueError(f"{file} is no JSON object ({type(about).__name__}): replace or delete it.")
    if missing := sorted(set(needed) - set(about)):
        raise ValueError(f"{file} does not describe a model: it lacks {', '.join(missing)}.")
    return about

"""Units of work: one method, meta-trained and tested once; a table is a grid of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from freelib.datasets import DATASETS, NATIVE_SIZE
from freelib.methods import get_method
from freelib.methods.base import MethodConfig
from freelib.run.profiles import Profile


@dataclass(frozen=True)
class Unit:
    """One run: `method` meta-trained on `dataset`'s pool with `seed`, tested with `n_shot` images a class.

    dataset: one, or several joined by "+": one pool of models of each, and a test on each
    overrides: fields of the method's config, over the profile's
    selection: of the round that is tested: "validation" (best on the meta-validation classes), "last" (truly
      data-free) or "test" (what the public release does: shown for comparison, never the default)
    """

    experiment: str
    method: str
    dataset: str
    n_shot: int
    seed: int
    overrides: Mapping[str, Any] = field(default_factory=dict, hash=False)
    selection: str = "validation"

    def __post_init__(self) -> None:
        if self.selection not in ("last", "validation", "test"):
            raise ValueError(f"selection is last, validation or test, got {self.selection!r}")

    @property
    def domains(self) -> tuple[str, ...]:
        """The data sets that it learns from and is tested on."""
        return domains(self.dataset)

    @property
    def name(self) -> str:
        """How messages call it: "table1: free on glyphs, 1-shot, seed 0 (adapt_steps=3)"."""
        settings = dict(self.overrides)
        if self.selection != "validation":
            settings["selection"] = self.selection
        extra = ", ".join(f"{key}={value}" for key, value in sorted(settings.items()))
        return (f"{self.experiment}: {self.method} on {self.dataset}, {self.n_shot}-shot, seed {self.seed}"
                + (f" ({extra})" if extra else ""))  # fmt: skip


def domains(dataset: str) -> tuple[str, ...]:
    """The data sets that a unit's `dataset` names: "cifar-fs+cub" is two of them."""
    return tuple(dataset.split("+"))


_CHOICES: dict[str, tuple[type, str, Callable[[Any], Any]]] = {
    "DATASETS": (str, f"data sets ({', '.join(DATASETS)})", lambda name: {*domains(name)} <= {*NATIVE_SIZE}),
    "METHODS": (str, "methods", get_method),  # which says itself what is wrong
    "SHOTS": (int, "numbers of shots, from 1 on", lambda n_shot: n_shot > 0),
    "SEEDS": (int, "seeds, from 0 on", lambda seed: seed >= 0),
}


def check_choices(given: Mapping[str, Any]) -> None:
    """Raises ValueError for parameters of notebooks that can't be meant, of those that all notebooks share.

    None is the profile's own choice.
    """
    for name, values in given.items():
        if name in ("PROFILE", "RESULTS"):
            raise ValueError(f"{name} is no parameter to be set here: use --{name.lower()}")
        if name not in _CHOICES or values is None:
            continue
        kind, words, known = _CHOICES[name]
        if not (isinstance(values, list | tuple) and values and all(type(v) is kind for v in values)):
            raise ValueError(f"{name} is {values!r}, expected a list of {words}")
        if wrong := [value for value in values if not known(value)]:
            raise ValueError(f"{name} has {wrong[0]!r}, expected {words}")


def grid(
    experiment: str,
    methods: Iterable[str],
    datasets: Iterable[str],
    shots: Iterable[int],
    seeds: Iterable[int],
    overrides: Mapping[str, Any] | None = None,
) -> list[Unit]:
    """All combinations, the last argument running fastest."""
    shots, seeds, methods = tuple(shots), tuple(seeds), tuple(methods)
    return [
        Unit(experiment, method, dataset, n_shot, seed, dict(overrides or {}))
        for dataset in datasets
        for method in methods
        for n_shot in shots
        for seed in seeds
    ]


def without_repeats(units: Iterable[Unit], profile: Profile) -> list[Unit]:
    """The units; where all seeds share a pool, what draws nothing only with each data set's first seed."""
    units = list(units)
    if profile.pool_seed is None:
        return units
    first = {unit.dataset: unit.seed for unit in reversed(units)}
    return [unit for unit in units if get_method(unit.method).uses_seed or unit.seed == first[unit.dataset]]


def unit_config(unit: Unit, profile: Profile) -> MethodConfig:
    """The config that a unit runs with: the method's defaults, the profile's fields, the unit's overrides.

    Raises ValueError for an override that the method has no field for, or of the wrong type.
    """
    config_class = get_method(unit.method).Config
    known = {item.name for item in fields(config_class)}
    shared = {
        "n_way": profile.n_way,
        "n_shot": unit.n_shot,
        "n_query": profile.n_query,
        "device": profile.device,
        "precision": profile.precision,
        "monitor_every": profile.monitor_every,
        **profile.overrides.get("*", {}),
    }
    given = {name: value for name, value in shared.items() if name in known}
    return make_config(
        unit.method, given | profile.method_fields(unit.method, unit.n_shot) | dict(unit.overrides)
    )


def make_config(method: str, overrides: Mapping[str, Any]) -> MethodConfig:
    """A method's config with these fields, each checked against the field's type.

    Raises ValueError for a field that the method does not have, naming those it has, and for a wrong type.
    """
    config_class = get_method(method).Config
    return config_class(**checked_fields(config_class, overrides, f"method {method}"))


@cache
def _hints(config_class: type) -> dict[str, Any]:
    return get_type_hints(config_class)


def checked_fields(config_class: type, overrides: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """`overrides` as arguments of a flat dataclass. Raises ValueError for unknown names and wrong types."""
    hints = _hints(config_class)
    known = [item.name for item in fields(config_class)]
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise ValueError(f"{owner} has no field {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    return {name: _fitting(value, hints[name], f"{owner}: {name}") for name, value in overrides.items()}


def _fitting(value: Any, hint: Any, what: str) -> Any:
    """`value` as the type `hint`, exactly or by int -> float and list -> tuple; else ValueError."""
    origin, options = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value is None and type(None) in options:
            return None
        kinds: list[Any] = [option for option in options if option is not type(None)]
        errors: list[str] = []
        for kind in sorted(kinds, key=lambda kind: type(value) not in (kind, get_origin(kind))):
            try:  # its own type first
                return _fitting(value, kind, what)
            except ValueError as error:
                errors.append(str(error))
        raise ValueError(errors[0] + "".join(f" or{e.rpartition(', expected')[2]}" for e in errors[1:]))
    if origin is Literal:
        if value in options:
            return value
        raise ValueError(f"{what} is {value!r}, expected one of {', '.join(map(repr, options))}")
    if (origin or hint) is tuple and isinstance(value, list | tuple):
        return tuple(value)
    if hint is float and (type(value) is int or value in ("inf", "-inf")):  # the latter: as `plain` has them
        return float(value)
    if type(value) is not (origin or hint):  # not isinstance: True is no whole number here
        raise ValueError(f"{what} is {value!r}, expected {getattr(hint, '__name__', hint)}")
    return value


def parse_overrides(settings: Iterable[str]) -> dict[str, Any]:
    """`field=value` words as a dictionary, values read as YAML. Raises ValueError for other words."""
    overrides: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise ValueError(f"expected field=value, got {setting!r}")
        overrides[name.strip()] = parse_value(value)
    return overrides


def parse_value(text: str) -> Any:
    """What a word on the command line stands for: YAML, but 1e-3 is a number there too, and None is null."""
    if text == "None":
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{text!r} is no value in YAML: is a bracket or a quote left open?") from error

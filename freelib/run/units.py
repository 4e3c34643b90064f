"""Units of work: one method, meta-trained and tested once. A table is a grid of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from itertools import product
from typing import Any

from freelib.methods import get_method
from freelib.methods.base import MethodConfig
from freelib.run.profiles import Profile, fitted, read_yaml
from freelib.settings import check_seed

SELECTIONS = ("validation", "last", "test")


@dataclass(frozen=True)
class Unit:
    """One run: `method` meta-trained on `dataset`'s pool with `seed`, tested with `n_shot` images a class.

    experiment: the folder of the store that its record is written into; the result does not depend on it.
    dataset: one, or several joined by "+": one pool of models of each, and a test on each.
    overrides: fields of the method's config, over the profile's.
    selection: of the checkpoint that is tested: "validation" (best on the meta-validation classes), "last"
      (truly data-free) or "test" (what the public release does: for comparison, never the default).

    Raises ValueError for another selection, and a seed out of range.
    """

    experiment: str
    method: str
    dataset: str
    n_shot: int
    seed: int
    overrides: Mapping[str, Any] = field(default_factory=dict, hash=False)
    selection: str = "validation"

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.selection not in SELECTIONS:
            raise ValueError(f"selection is one of {', '.join(SELECTIONS)}, got {self.selection!r}")

    @property
    def domains(self) -> tuple[str, ...]:
        """The data sets that it learns from and is tested on: "cifar-fs+cub" is two of them."""
        return tuple(self.dataset.split("+"))

    @property
    def name(self) -> str:
        """How messages call it, such as "table1: free on glyphs, 1-shot, seed 0 (adapt_steps=3)"."""
        settings = dict(self.overrides)
        if self.selection != "validation":
            settings["selection"] = self.selection
        extra = ", ".join(f"{key}={value}" for key, value in sorted(settings.items()))
        text = f"{self.experiment}: {self.method} on {self.dataset}, {self.n_shot}-shot, seed {self.seed}"
        return f"{text} ({extra})" if extra else text


def grid(
    experiment: str,
    methods: Iterable[str],
    datasets: Iterable[str],
    shots: Iterable[int],
    seeds: Iterable[int],
    **overrides: Any,
) -> list[Unit]:
    """A unit for each combination, the seed running fastest; overrides: fields of the method's config."""
    each = product(datasets, methods, shots, seeds)
    return [Unit(experiment, method, dataset, n_shot, seed, overrides) for dataset, method, n_shot, seed in each]


def table_units(
    experiment: str,
    profile: Profile,
    methods: Iterable[str] | None = None,
    *,
    datasets: Iterable[str] | None = None,
    shots: Iterable[int] | None = None,
    seeds: Iterable[int] | None = None,
    **overrides: Any,
) -> list[Unit]:
    """The grid of a table: the profile's own methods, data sets, shots and seeds where None.

    A deterministic method, of which all seeds share a pool, has one unit for each data set and number of shots.
    """
    shots, seeds, methods = tuple(shots or profile.shots), tuple(seeds or ()), tuple(methods or profile.methods)
    units = []
    for dataset in datasets or profile.datasets:
        own_seeds = seeds or profile.seeds_for(dataset)
        for method in methods:
            once = profile.pool_seed is not None and not get_method(method).uses_seed
            units += grid(experiment, [method], [dataset], shots, own_seeds[:1] if once else own_seeds, **overrides)
    return units


def unit_config(unit: Unit, profile: Profile) -> MethodConfig:
    """The config that a unit runs with: the method's defaults, the profile's fields, the unit's overrides.

    Raises ValueError for an override that the method has no field for, or of a wrong type, and for an oracle on
    several data sets: it would see the images of the first alone.
    """
    if len(unit.domains) > 1 and get_method(unit.method).oracle:
        raise ValueError(f"{unit.method} learns from the images of one data set, not of {unit.dataset}.")
    known = {item.name for item in fields(get_method(unit.method).Config)}
    shared = {
        "n_way": profile.n_way,
        "n_shot": unit.n_shot,
        "n_query": profile.n_query,
        "device": profile.device,
        "precision": profile.precision,
        "monitor_every": profile.monitor_every,
        **profile.method_fields("*", unit.n_shot),
    }
    given = {name: value for name, value in shared.items() if name in known}
    return make_config(unit.method, {**given, **profile.method_fields(unit.method, unit.n_shot), **unit.overrides})


def make_config(method: str, overrides: Mapping[str, Any]) -> MethodConfig:
    """A method's config with these fields. Raises ValueError for unknown fields and wrong types."""
    return fitted(get_method(method).Config, overrides, f"method {method}")


def parse_overrides(settings: Iterable[str]) -> dict[str, Any]:
    """`field=value` words as a dictionary, values read as YAML. Raises ValueError for other words."""
    overrides: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise ValueError(f"expected field=value, got {setting!r}")
        overrides[name.strip()] = read_yaml(value)
    return overrides

"""Profiles: how large the experiments are, as plain YAML files (`freelib/profiles/*.yaml`)."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import msgspec
import yaml

from freelib.methods import METHODS
from freelib.settings import check_at_least, check_numbers
from freelib.storage import check_file_name, read_limited

FOLDER = Path(__file__).parents[1] / "profiles"
Config = TypeVar("Config")
PROFILES = ("smoke", "cpu", "paper")
Settings = Mapping[str, Any]


TABLE1 = (
    "random", "average", "ota", "dro", "purer", "bidf_mkd", "best_teacher", "pool_features", "pool_opinions", "free",
    "pool_distillation", "oracle_maml", "oracle_protonet",
)  # fmt: skip
"""The methods of table 1, where a profile names no others."""


@dataclass(frozen=True)
class Profile:
    """How large an experiment is. A notebook takes a profile's name as its parameter PROFILE.

    datasets, methods, shots, seeds: what tables are made of; seeds_by_dataset: the same for one data set only.
    n_way, n_query, n_episodes, validation_episodes: of the episodes in tests and in validation checks.
    image_size: side of the images in pixels, None for each data set's native size; image_size_by_dataset.
    pool: fields of PoolConfig; pool_by_dataset: the same for one data set only.
    pool_parts: the parts of a mixed pool: for each, fields of PoolConfig over those, and `take`, the number
      of its models that are in the pool, the first ones (all if it is not there).
    pool_seed: one pool for all seeds of the methods, or None: each seed has a pool of its own.
    students: networks that table 3 gives to the student, each with the config fields that it needs.
    sensitivity: the values that figure 7 and others try, by setting.
    monitor_every: rounds between two validation checks.
    workers, threads: runs side by side, and torch's threads in each.
    device, precision: of all runs whose method's overrides do not say otherwise.
    overrides: by method, fields of its config; those under "*" go to every method that has the field. A method of one's
      own goes by its path, "module:Class". overrides_by_shots: the same at one number of shots only.
    measurements: by name, the sizes of the measurements behind figure 1, table 5 and what grows (notebook 52).
    experiments: by experiment, fields of this class that it sets for itself; see `get_profile`.

    Raises ValueError for numbers out of range, for no data set, method, shots or seed, and for overrides of
    what is no method.
    """

    name: str
    datasets: tuple[str, ...]
    methods: tuple[str, ...] = TABLE1
    shots: tuple[int, ...] = (1, 5)
    seeds: tuple[int, ...] = (0,)
    seeds_by_dataset: Mapping[str, tuple[int, ...]] = field(default_factory=dict, hash=False)
    n_way: int = 5
    n_query: int = 15
    n_episodes: int = 600
    validation_episodes: int = 100
    image_size: int | None = None
    image_size_by_dataset: Mapping[str, int] = field(default_factory=dict, hash=False)
    pool: Settings = field(default_factory=dict, hash=False)
    pool_by_dataset: Mapping[str, Settings] = field(default_factory=dict, hash=False)
    pool_parts: tuple[Settings, ...] = field(default=(), hash=False)
    pool_seed: int | None = None
    students: Mapping[str, Settings] = field(default_factory=lambda: {"conv4": {}}, hash=False)
    sensitivity: Mapping[str, tuple[int, ...]] = field(default_factory=dict, hash=False)
    monitor_every: int = 10
    workers: int = 2
    threads: int = 1
    device: str = "cpu"
    precision: str = "float32"
    overrides: Mapping[str, Settings] = field(default_factory=dict, hash=False)
    overrides_by_shots: Mapping[int, Mapping[str, Settings]] = field(default_factory=dict, hash=False)
    measurements: Mapping[str, Settings] = field(default_factory=dict, hash=False)
    experiments: Mapping[str, Settings] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check_at_least(self, n_way=2, n_query=1, n_episodes=1, validation_episodes=1, monitor_every=0)
        check_at_least(self, image_size=1, workers=1, threads=1)
        check_numbers(self)
        check_file_name(self.name)
        shots = min(self.shots, default=0) > 0
        if not all((shots, self.datasets, self.methods, self.seeds, *self.seeds_by_dataset.values())):
            raise ValueError(f"{self.name} needs a data set, a method, a seed, and shots from 1 on.")
        for name in {*self.overrides, *(m for own in self.overrides_by_shots.values() for m in own)} - {"*"}:
            if name not in METHODS and ":" not in name:
                raise ValueError(f"overrides has {name!r}, no method ({', '.join(METHODS)}, module:Class).")

    def seeds_for(self, dataset: str) -> tuple[int, ...]:
        """The seeds that methods run with on a data set."""
        return self.seeds_by_dataset.get(dataset, self.seeds)

    def size_of(self, dataset: str) -> int | None:
        """Side of a data set's images in pixels, None for its native size."""
        return self.image_size_by_dataset.get(dataset, self.image_size)

    def pool_fields(self, dataset: str) -> dict[str, Any]:
        """The fields of PoolConfig that this profile sets for a data set."""
        return {**self.pool, **self.pool_by_dataset.get(dataset, {})}

    def method_fields(self, method: str, n_shot: int | None = None) -> dict[str, Any]:
        """The fields of a method's config that this profile sets, without those for every method."""
        by_shots = self.overrides_by_shots.get(n_shot, {}) if n_shot is not None else {}
        return {**self.overrides.get(method, {}), **by_shots.get(method, {})}

    @property
    def processes(self) -> int:
        """Runs side by side: $FREELIB_WORKERS where that is set, else `workers`.

        Raises ValueError where the variable is no whole number from 1 to 9999.
        """
        given = os.environ.get("FREELIB_WORKERS", "")
        if given and not (given.isdecimal() and len(given) < 5 and int(given) > 0):
            raise ValueError(f"FREELIB_WORKERS is {given!r}, expected a whole number from 1 to 9999")
        return int(given) if given else self.workers


def get_profile(name: str | Path | Profile, experiment: str | None = None) -> Profile:
    """The profile of that name ("smoke", "cpu", "paper"), or the one in a YAML file of one's own.

    experiment: what the profile's `experiments` sets for it, if anything, is laid over the rest, however
      deep; a section that `extends` another one is laid over that.

    Raises ValueError for an unknown name, a file that is no YAML, and unknown fields or values of a wrong type.

    >>> get_profile("cpu").seeds, get_profile("cpu", "table4").datasets
    ((0, 1, 2), ('cifar-fs',))
    """
    if isinstance(name, Profile):
        profile = name
    else:
        file = FOLDER / f"{name}.yaml" if name in PROFILES else Path(name)
        if file.suffix not in (".yaml", ".yml"):
            raise ValueError(f"there is no profile {str(name)!r}; choose {', '.join(PROFILES)}, or a YAML file")
        profile = fitted(Profile, {"name": file.stem, **_read(file)}, str(file))
    changes = _section(profile, experiment) if experiment else {}
    if not changes:
        return profile
    settings = {item.name: getattr(profile, item.name) for item in fields(profile)}
    return fitted(Profile, _laid_over(settings, changes), f"{profile.name}, {experiment}")


class _Plain(yaml.SafeLoader):
    """YAML as people mean it: 1e-3 is a number, None is null, and 0x10, 017, 1:30, yes and dates are words."""

    forms: ClassVar = {
        "null": r"null|None|~|",
        "bool": r"true|false|True|False",
        "int": r"[-+]?(0|[1-9][0-9]*)",
        "float": r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.?inf|\.?nan",
    }
    yaml_implicit_resolvers: ClassVar = {  # type: ignore[misc]
        None: [(f"tag:yaml.org,2002:{kind}", re.compile(f"({form})$")) for kind, form in forms.items()]
    }


def read_yaml(text: str) -> Any:
    """The value of a text in YAML. Raises ValueError for what is none, has aliases, or is nested too deeply."""
    try:
        if text.count("[") + text.count("{") > 1000:  # scanning takes their number squared
            raise ValueError("it has too many brackets")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):  # a few lines can be gigabytes
            raise ValueError("it has aliases")
        return yaml.load(text, _Plain)
    except yaml.YAMLError as error:
        raise ValueError(f"{text[:50]!r} is no value in YAML: is a bracket or a quote left open?") from error
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _read(file: Path) -> dict[str, Any]:
    try:
        found = read_yaml(read_limited(file, 2**20).decode())
        if not isinstance(found, dict):
            raise ValueError("it is no mapping of settings")
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is no profile: {error}") from error
    return found


def fitted(config_class: type[Config], settings: Mapping[str, Any], owner: str) -> Config:
    """An object of a flat dataclass, from settings as YAML or JSON have them.

    Raises ValueError, naming the owner, for a field that the class does not have and for a wrong type.
    """
    known = [item.name for item in fields(config_class)]  # type: ignore[arg-type]
    if unknown := sorted(set(settings) - set(known)):
        raise ValueError(f"{owner} has no field {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    # JSON has no infinity: `plain` writes it as a word
    given = {n: float(v) if v in ("inf", "-inf") else v for n, v in settings.items()}
    try:
        return msgspec.convert(given, config_class)
    except msgspec.ValidationError as error:
        kinds = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "a word"}
        found = re.fullmatch(r"Expected `(\w+)(?: \| null)?`, got `\w+` - at `\$\.(\w+)`", str(error))
        if found and found[1] in kinds:
            raise ValueError(f"{owner}: {found[2]} is {kinds[found[1]]}, got {given[found[2]]!r}") from error
        raise ValueError(f"{owner}: {error}") from error


def _section(profile: Profile, experiment: str, *above: str) -> dict[str, Any]:
    own = dict(profile.experiments.get(experiment, {}))
    base = own.pop("extends", None)
    if base is None:
        return own
    if base in above or base not in profile.experiments:
        raise ValueError(f"{profile.name}: {experiment} extends {base!r}, which is no section above it")
    return _laid_over(_section(profile, base, *above, experiment), own)


def _laid_over(usual: Any, new: Any) -> Any:
    """`new`; of two mappings, the usual one with what the new one names, however deep."""
    if not (isinstance(usual, Mapping) and isinstance(new, Mapping)):
        return new
    return {**usual, **{key: _laid_over(usual.get(key), value) for key, value in new.items()}}

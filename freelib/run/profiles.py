"""Three sizes of the same experiments: `smoke`, `cpu` and `paper`.

A profile is one dataclass; notebooks take its name as a parameter and never branch on it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from freelib.methods import METHODS
from freelib.run.sizes import CPU, PAPER, SMOKE
from freelib.settings import check_at_least


@dataclass(frozen=True)
class Profile:
    """How large an experiment is.

    methods: the rows of table 1
    seeds: of the methods' runs; seeds_by_dataset: the same for one data set only
    image_size: side of the images in pixels, None for each data set's native size; image_size_by_dataset: the
      same for one data set only
    pool: fields of PoolConfig; pool_by_dataset: the same for one data set only
    pool_parts: of a mixed pool: for each part fields of PoolConfig over those, and `take`, how many of its
      first models are in the pool (all, if it is not there)
    students: networks that table 3 gives to the student, each with the fields that it needs
    sensitivity: the values that figure 7 tries, by setting
    experiments: by experiment, fields of this class that it sets for itself; see `for_experiment`
    pool_seed: one pool for all seeds of the methods, or None: each seed has a pool of its own
    monitor_every: rounds between two scores on the meta-validation classes
    overrides: by method, fields of its config; those under "*" go to every method that has the field, those
      under "free 5" to that method with 5 shots; "recovery_cost" and "meta_training" are measurements;
      a method of one's own goes by its path, "module:Class"
    workers: runs side by side, each a process of `threads` threads

    Raises ValueError for numbers out of range, for no data set, method, shots or seed, and for a key of
    `overrides` that is none of those.
    """

    name: str
    datasets: tuple[str, ...]
    methods: tuple[str, ...] = tuple(METHODS)
    shots: tuple[int, ...] = (1, 5)
    seeds: tuple[int, ...] = (0,)
    seeds_by_dataset: Mapping[str, tuple[int, ...]] = field(default_factory=dict, hash=False)
    n_way: int = 5
    n_query: int = 15
    n_episodes: int = 600
    validation_episodes: int = 100
    image_size: int | None = None
    image_size_by_dataset: Mapping[str, int] = field(default_factory=dict, hash=False)
    pool: Mapping[str, Any] = field(default_factory=dict, hash=False)
    pool_by_dataset: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    pool_parts: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    pool_seed: int | None = None
    students: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"conv4": {}}, hash=False)
    monitor_every: int = 10
    workers: int = 2
    threads: int = 1
    device: str = "cpu"
    precision: str = "float32"
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    sensitivity: Mapping[str, tuple[int, ...]] = field(default_factory=dict, hash=False)
    experiments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check_at_least(self, n_way=2, n_query=1, n_episodes=1, validation_episodes=1, monitor_every=0)
        check_at_least(self, image_size=1, workers=1, threads=1)
        shots = min(self.shots, default=0) > 0
        if not all((shots, self.datasets, self.methods, self.seeds, *self.seeds_by_dataset.values())):
            raise ValueError(f"{self.name} needs a data set, a method, a seed, and shots from 1 on.")
        for key in self.overrides.keys() - {"*", "recovery_cost", "meta_training"}:
            name, _, n_shot = key.partition(" ")
            if not (name in METHODS or ":" in name) or not (n_shot.isdecimal() or name == key):
                raise ValueError(f"overrides has {key!r}, no method ({', '.join(METHODS)}, module:Class).")

    def seeds_for(self, dataset: str) -> tuple[int, ...]:
        """The seeds that methods run with on a data set."""
        return self.seeds_by_dataset.get(dataset, self.seeds)

    def for_experiment(self, experiment: str) -> Profile:
        """The profile as an experiment wants it: what it sets for itself is laid over the rest."""
        changes = self.experiments.get(experiment, {})
        return replace(self, **{name: _laid_over(getattr(self, name), new) for name, new in changes.items()})

    @property
    def processes(self) -> int:
        """Runs side by side: $FREELIB_WORKERS where that is set, else `workers`.

        Raises ValueError where it is no whole number above zero.
        """
        given = os.environ.get("FREELIB_WORKERS", "")
        if given and not (given.isdecimal() and int(given) > 0):
            raise ValueError(f"FREELIB_WORKERS is {given!r}, expected a whole number above zero")
        return int(given) if given else self.workers

    def size_of(self, dataset: str) -> int | None:
        """Side of a data set's images in pixels, None for its native size."""
        return self.image_size_by_dataset.get(dataset, self.image_size)

    def pool_fields(self, dataset: str) -> dict[str, Any]:
        """The fields of PoolConfig that this profile sets for a data set."""
        return {**self.pool, **self.pool_by_dataset.get(dataset, {})}

    def method_fields(self, method: str, n_shot: int | None = None) -> dict[str, Any]:
        """The fields of a method's config that this profile sets, without those for every method."""
        return {**self.overrides.get(method, {}), **self.overrides.get(f"{method} {n_shot}", {})}


def _laid_over(usual: Any, new: Any) -> Any:
    """`new`; of two mappings, the usual one with what the new one names, however deep."""
    if not (isinstance(usual, Mapping) and isinstance(new, Mapping)):
        return new
    return {**usual, **{key: _laid_over(usual.get(key), value) for key, value in new.items()}}


PROFILES: dict[str, Profile] = {
    "smoke": Profile(
        name="smoke",
        datasets=("glyphs",),
        shots=(1,),
        n_episodes=200,
        validation_episodes=30,
        pool={"n_models": 10, "epochs": 4, "width": 16},
        monitor_every=5,
        overrides={
            "*": {"width": 16},
            "free": {
                "warmup_rounds": 5,
                "rounds": 14,
                "ngf": 8,
                "images_per_class": 10,
                "lambda_bn": 0.05,
                "augment_flip": False,  # a mirrored character is another character
                "augment_padding": 2,
                "kd_heads": "per_model",
                "align_lr": 6e-3,
                "align_sweeps": 12,
                "replay_batches": 6,
                "replay_episodes": 2,
                "replay_patience": 0,
                "measure_every": 1,  # figure 5
            },
            # FREE's seconds at most for each of the others: the whole table in three minutes of two cores.
            "dro": {"rounds": 10, "round_steps": 20, "monitor_every": 10},
            "purer": {
                "rounds": 16,
                "meta_batch": 4,
                "episodes": 2,
                "jitter": 1,
                "eci_start": 6,
                "icfil_images": 2,
                "icfil_inversion_steps": 3,
                "monitor_every": 0,
            },
            "bidf_mkd": {
                "rounds": 2,
                "adapt_steps": 40,
                "ngf": 8,
                "images_per_class": 10,
                "distill_steps": 5,
                "augment_flip": False,
                "augment_padding": 2,
                "adversarial_from": 8,
                "replay_batches": 8,
                "replay_episodes": 2,
                "replay_patience": 0,
                "monitor_every": 0,
            },
            "recovery_cost": {"rounds": 15, "held_out": 3, "steps": 60},
            "meta_training": {"rounds": 6, "every": 2, "held_out": 2, "rates": (1.0, 0.3), "steps": 15},
            "oracle_maml": {"rounds": 5, "round_batches": 4, "monitor_every": 0},
            "oracle_protonet": {"rounds": 10, "round_batches": 10},
            "pool_distillation": {
                "recovered": 400,
                "procedural": 1600,
                "mixed": 2000,
                "warmup_rounds": 5,
                "ngf": 8,
                "images_per_class": 10,
                "augment_flip": False,
                "augment_padding": 2,
                "flip": False,
                "epochs": 6,
            },
        },
        experiments=SMOKE,
    ),
    "cpu": Profile(
        name="cpu",
        datasets=("cifar-fs", "mini-imagenet", "cub"),
        seeds=(0, 1, 2),
        seeds_by_dataset={"mini-imagenet": (0,), "cub": (0,)},
        image_size=32,  # mini-ImageNet and CUB too: at 84 pixels a round costs seven times as much
        pool={"n_models": 40, "epochs": 30, "augment": True, "precision": "bfloat16"},
        pool_seed=0,
        validation_episodes=100,
        monitor_every=20,
        overrides={
            # A tenth of the public release's rounds: what each of them is worth had to rise. λ_bn gives the
            # images the colours of photographs; a head a model and more sweeps make distillation learn.
            "free": {
                "warmup_rounds": 10,
                "rounds": 100,
                "ngf": 32,
                "precision": "bfloat16",
                "lambda_bn": 0.05,
                "kd_heads": "per_model",
                "align_lr": 3e-3,
                "align_sweeps": 12,
                "replay_batches": 3,
                "replay_episodes": 2,
                "replay_patience": 0,
                "checkpoint_every": 10,
                "measure_every": 10,  # figure 5
            },
            # FREE's seconds at most for each of the others, at 1 shot (the lines without a number) and at 5,
            # as an episode costs twice as much there. PURER and BiDf-MKD fill most of them; DRO and OTA, at
            # settings of their own, end after some seconds; table 1 says who took longer, and who less than
            # half. Within them each keeps its paper's settings (models a round, weights of the losses); what
            # sets in after some batches does so after the same share of all. Each has five looks at the
            # validation classes. BiDf-MKD's generators take 50 passes, not 200: it meets 20 models then in
            # place of 5.
            "purer": {
                "rounds": 740,
                "eci_start": 296,
                "precision": "bfloat16",
                "monitor_every": 148,
                "checkpoint_every": 20,
            },
            "purer 5": {"rounds": 365, "eci_start": 146, "monitor_every": 73},
            "bidf_mkd": {
                "rounds": 20,
                "adapt_steps": 50,
                "ngf": 32,
                "images_per_class": 20,
                "precision": "bfloat16",
                "adversarial_from": 200,
                "replay_batches": 25,
                "replay_patience": 0,
                "monitor_every": 4,
                "checkpoint_every": 4,
            },
            "bidf_mkd 5": {"adversarial_from": 120, "replay_batches": 15},
            "oracle_maml": {"rounds": 120, "monitor_every": 24},
            "oracle_maml 5": {"rounds": 75, "monitor_every": 15},
            "oracle_protonet": {"rounds": 240, "precision": "bfloat16", "monitor_every": 48},
            "dro": {"monitor_every": 10},
            "pool_distillation": {"precision": "bfloat16"},
            "pool_opinions": {"precision": "bfloat16"},
        },
        experiments=CPU,
    ),
    "paper": Profile(
        name="paper",
        datasets=("cifar-fs", "mini-imagenet", "cub"),
        pool={"n_models": 100, "epochs": 60},
        pool_by_dataset={"cub": {"epochs": 100}},
        validation_episodes=600,
        monitor_every=10,
        device="cuda",
        experiments=PAPER,
    ),
}


def get_profile(name: str | Profile) -> Profile:
    """The profile of that name; a Profile is given back as it is. Raises ValueError for an unknown name."""
    if isinstance(name, Profile):
        return name
    if name not in PROFILES:
        raise ValueError(f"there is no profile {name!r}; choose one of {', '.join(PROFILES)}")
    return PROFILES[name]

"""What a figure looks at: one data set of a profile, its pool, and a meta-generator warmed up on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, TypeVar

import torch

from freelib.datasets import FewShotDataset
from freelib.generator import MetaGenerator, synthesise_round
from freelib.methods.free import FreeConfig, build_meta_generator
from freelib.models.pool import ModelPool
from freelib.run.pools import get_pool
from freelib.run.profiles import Profile, get_profile
from freelib.run.records import RecordStore
from freelib.run.runner import Run
from freelib.run.units import Unit

WARMUP_ROUNDS = 5
SceneType = TypeVar("SceneType", bound="Scene")


@dataclass(frozen=True)
class Scene:
    """One data set, number of shots and seed of a profile; `unit` is FREE's run on it."""

    experiment: ClassVar[str] = "scene"
    unit: Unit
    profile: Profile
    results: Path

    @classmethod
    def of(
        cls: type[SceneType],
        profile: str | Profile,
        *,
        results: str | Path,
        datasets: Sequence[str] | None = None,
        shots: Sequence[int] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> SceneType:
        """The first of each; the profile's own where None. Raises ValueError for an unknown profile."""
        profile = get_profile(profile)
        dataset, n_shot = (datasets or profile.datasets)[0], (shots or profile.shots)[0]
        unit = Unit(cls.experiment, "free", dataset, n_shot, (seeds or profile.seeds)[0])
        return cls(unit, profile, Path(results))

    @cached_property
    def run(self) -> Run:
        """FREE's run."""
        return Run(self.unit, self.profile)

    @property
    def config(self) -> FreeConfig:
        """FREE's settings."""
        config = self.run.settings["config"]
        assert isinstance(config, FreeConfig)
        return config

    @property
    def store(self) -> RecordStore:
        """The profile's records."""
        return RecordStore(self.results / self.profile.name / "records")

    def dataset(self, split: str, domain: str = "") -> FewShotDataset:
        """The split of a domain, of the first by default. Raises MissingDataError where one is not there."""
        found = self.run.datasets(split)
        return next((each for each in found if each.name == domain), found[0])

    @cached_property
    def pool(self) -> ModelPool:
        """The pool, pre-trained first where the cache lacks it."""
        return get_pool(self.unit.dataset, self.profile, self.unit.seed)

    def rng(self) -> torch.Generator:
        """Random numbers from the unit's seed on."""
        return torch.Generator().manual_seed(self.unit.seed)

    def warm_generator(self, rng: torch.Generator, *, rounds: int = WARMUP_ROUNDS) -> MetaGenerator:
        """A meta-generator after some warm-up rounds on the pool, as FREE begins."""
        config, pool = self.config, self.pool
        generator = build_meta_generator(pool, config, seed=self.unit.seed)
        for _ in range(rounds):
            synthesise_round(generator, pool.sample(config.meta_batch, rng), rng)
        return generator

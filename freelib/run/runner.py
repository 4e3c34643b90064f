"""From a unit to its record: pool, meta-training, the selected checkpoint, one test at the end."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from freelib.datasets import SPLITS, FewShotDataset, load_dataset
from freelib.datasets.cache import one_at_a_time
from freelib.datasets.episodes import EpisodeSampler
from freelib.datasets.unlabelled import images_of
from freelib.environment import device_name, environment, peak_memory_mib
from freelib.fast.threads import threads_at_work
from freelib.folders import cache_folder, check_writable
from freelib.meta_learner import MetaLearner
from freelib.methods import get_method
from freelib.methods.base import Monitor
from freelib.methods.training import TrainingLog, clocks
from freelib.models.pretraining import pretraining_seconds
from freelib.run.evaluation import Score, evaluate
from freelib.run.pools import get_pool, parts_of, pool_parts, pool_seed
from freelib.run.profiles import Profile
from freelib.run.records import Record, RecordStore, complete, config_digest
from freelib.run.units import Unit, unit_config
from freelib.storage import Checkpoint, digest_of, plain, save_tensors, tensors_digest

TEST_SEED, VALIDATION_SEED = 1, 2
"""One for all methods, shots and seeds of a profile: all are compared on the same episodes."""

Message = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """A unit with all that determines its result."""

    unit: Unit
    profile: Profile

    @property
    def shares_training(self) -> bool:
        """Whether one training serves all numbers of shots: it does not use n_shot, nor settings that go by it."""
        by_shots = {method for own in self.profile.overrides_by_shots.values() for method in own}
        own = get_method(self.unit.method).uses_shots or self.unit.selection == "test"
        return not own and by_shots.isdisjoint({self.unit.method, "*"})

    @property
    def trained_as(self) -> Unit:
        """The unit whose training serves this one: where it is shared, that of the profile's first n_shot."""
        return replace(self.unit, n_shot=self.profile.shots[0]) if self.shares_training else self.unit

    @property
    def served(self) -> list["Run"]:
        """The runs that its training serves, this one first."""
        shots = (self.unit.n_shot, *self.profile.shots) if self.shares_training else (self.unit.n_shot,)
        return [replace(self, unit=replace(self.unit, n_shot=n_shot)) for n_shot in dict.fromkeys(shots)]

    def datasets(self, split: str) -> list[FewShotDataset]:
        """One split of each data set at the profile's size. Raises MissingDataError where one lacks."""
        return [load_dataset(name, split, size=self.profile.size_of(name)) for name in self.unit.domains]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The keyed fields of the record but for the data and the pool: they need no data to be known."""
        unit, profile = self.unit, self.profile
        config = unit_config(unit, profile)
        sizes = [profile.size_of(name) for name in unit.domains]
        return {
            "method": unit.method,
            "method_revision": get_method(unit.method).revision,
            "config": config,
            "dataset": unit.dataset,
            "seed": unit.seed,
            "n_way": profile.n_way,
            "n_shot": unit.n_shot,
            "n_query": profile.n_query,
            "split": "test",
            "n_episodes": profile.n_episodes * len(unit.domains),
            "evaluation": {
                "selection": unit.selection,
                "seed": TEST_SEED,
                "validation_seed": VALIDATION_SEED,
                "validation_shots": self.trained_as.n_shot,
                "validation_episodes": profile.validation_episodes,
                "image_size": sizes[0] if len(sizes) == 1 else sizes,
            },
            "precision": config.precision,
        }

    @cached_property
    def keyed(self) -> dict[str, Any]:
        """All fields that determine the result. Raises MissingDataError where the data set is not there."""
        unit, profile = self.unit, self.profile
        splits = {split: self.datasets(split) for split in SPLITS}
        trains, seed = {train.name: train for train in splits["train"]}, pool_seed(profile, unit.seed)
        parts = [part.identity(trains[part.dataset], seed) for part in pool_parts(unit.dataset, profile)]
        return self.settings | {
            "data_digest": digest_of([each.digest for split in splits.values() for each in split] + self.seen),
            "pool": parts[0] if len(parts) == 1 else {"parts": parts},
        }

    def unlabelled(self) -> dict[str, Tensor]:
        """The unlabelled images that the config asks for, as an argument of `Method.meta_train`."""
        train, config = self.datasets("train")[0], self.settings["config"]
        return images_of(config, size=train.image_size, channels=train.channels, seed=self.unit.seed)

    @cached_property
    def seen(self) -> list[str]:
        """The digest of the unlabelled images, if there are any."""
        return [tensors_digest({"images": images}) for images in self.unlabelled().values()]

    @property
    def digest(self) -> str:
        """The digest of the unit's record."""
        return config_digest(self.keyed)

    def is_served_by(self, record: Record) -> bool:
        """Whether a record is the unit's, as far as that can be said without the data."""
        same = all(record[name] == value for name, value in self._wanted.items())
        return same and self.has_the_pool_of(record)

    @cached_property
    def _wanted(self) -> dict[str, Any]:
        return plain(self.settings)

    def has_the_pool_of(self, record: Record) -> bool:
        """Whether a record is of this run's pool, as far as that can be said without the data."""
        wanted, there = pool_parts(self.unit.dataset, self.profile), parts_of(record)
        seed = pool_seed(self.profile, self.unit.seed)
        return len(wanted) == len(there) and all(part.matches(p, seed) for part, p in zip(wanted, there, strict=True))

    def samplers(self, split: str) -> list[EpisodeSampler]:
        """The episodes of a test, or of a validation check, on each of the unit's data sets."""
        unit = self.trained_as if split == "validation" else self.unit
        seed = VALIDATION_SEED if split == "validation" else TEST_SEED
        shape = {"n_way": self.profile.n_way, "n_shot": unit.n_shot, "n_query": self.profile.n_query}
        return [EpisodeSampler(dataset, **shape, seed=seed) for dataset in self.datasets(split)]

    def check(self) -> None:
        """Raises ValueError where a data set can't fill the episodes of a validation check or of a test."""
        self.monitor(lambda text: None)
        for each in self.served:
            each.samplers("test")

    def monitor(self, message: Message) -> Monitor:
        """Scores a learner, in percent, on the meta-validation classes (selection="test": on the test's)."""
        split = "test" if self.unit.selection == "test" else "validation"
        samplers = self.samplers(split)

        def score(round_number: int, learner: MetaLearner) -> float:
            accuracy = _scored(learner, samplers, self.profile.validation_episodes).mean
            message(f"{self.unit.name}: round {round_number}, {split} accuracy {accuracy:.1f} %")
            return accuracy

        return score


def run_unit(unit: Unit, profile: Profile, store: RecordStore, *, message: Message = lambda text: None) -> Record:
    """The unit's record: read where it is there, else made, written and returned.

    Where the method's training does not use n_shot, the records of the profile's other shots come with it. A
    run that was killed goes on from its checkpoint; of two processes with the same unit one computes, the
    other waits and takes its record. message: called with a line of text now and then.

    Raises, before anything is trained, ValueError for a config that does not fit the method, episodes that
    the data can't fill and a store that can't be written, MissingDataError where the data is not there.
    """
    run = Run(unit, profile)
    if (record := store.get(run.digest)) is not None:
        return record
    run.check()
    check_writable(store.root / unit.experiment)
    training = replace(run, unit=run.trained_as).digest
    with one_at_a_time(training):
        if (record := store.get(run.digest)) is None:
            checkpoint = Checkpoint(cache_folder() / "checkpoints" / f"{training}.pt")
            missing = [each for each in run.served if store.get(each.digest) is None]
            records = [complete(fields) for fields in _execute(missing, checkpoint, message)]
            for made in reversed(records):  # its own at the end: a run that is killed before goes on
                store.put(made)
            record = records[0]
            checkpoint.remove()
    return record


def learner_file(digest: str) -> Path:
    """Where the parameters of a record's trained learner are kept."""
    return cache_folder() / "learners" / f"{digest}.safetensors"


def _execute(runs: Sequence[Run], checkpoint: Checkpoint, message: Message) -> list[dict[str, Any]]:
    """Trains once, as the first run says, and tests all that the training serves; their records' fields."""
    run = runs[0]
    unit, profile = run.unit, run.profile
    # The checkpoint knows its config: the same one, whichever number of shots is asked for first.
    config = replace(run, unit=run.trained_as).settings["config"]
    method, captured = get_method(unit.method), environment() | {"threads": threads_at_work()}
    pool = get_pool(unit.dataset, profile, unit.seed)
    began = clocks()
    real_data: dict[str, Any] = {"dataset": run.datasets("train")[0]} if method.oracle else run.unlabelled()
    learner = method.meta_train(
        pool, config, seed=unit.seed, monitor=run.monitor(message), checkpoint=checkpoint, **real_data
    )
    log = learner.log or TrainingLog()
    seconds = times(log, began, config.device)
    if (before := pretraining_seconds(pool)) is not None:
        seconds["pretraining"] = before
    split = "test" if unit.selection == "test" else "validation"
    shared = {
        **captured,
        "experiment": unit.experiment,
        "profile": profile.name,
        "pool_digest": pool.digest,
        "selection": unit.selection,
        "history": None if learner.log is None else _history(log.history, split),
        "passes": None if learner.log is None else log.iterations,
        "device": device_name(config.device),
        "extra": {"selected_round": learner.selected_round},
    }
    seconds = {name: round(value, 3) for name, value in seconds.items()}
    return [_tested(each, learner, shared, seconds, message) for each in runs]


def times(log: TrainingLog, began: dict[str, float], device: str) -> dict[str, float]:
    """Seconds of a training and its phases, as a record has them; CPU time only of one on the CPU.

    began: what the `clocks` read when this sitting began.
    """
    on_cpu = torch.device(device).type == "cpu"
    return {name: s for name, s in {**log.seconds, **log.spent(began)}.items() if on_cpu or not name.endswith("_cpu")}


def _tested(
    run: Run, learner: MetaLearner, shared: dict[str, Any], seconds: dict[str, float], message: Message
) -> dict[str, Any]:
    """One run's test with a trained learner: the fields of its record; the learner is kept in the cache."""
    message(f"{run.unit.name}: testing")
    start = time.perf_counter()
    selected, last = _test(run, learner)
    score = last if run.unit.selection == "last" else selected
    save_tensors(learner_file(run.digest), learner.backbone.state_dict())
    return {
        **run.keyed,
        **shared,
        "accuracy": score.mean,
        "accuracy_ci95": score.ci95,
        "accuracy_last": last.mean,
        "episode_accuracies": [round(value, 2) for value in score.accuracies.tolist()],
        "seconds": {**seconds, "test": round(time.perf_counter() - start, 3)},
        "peak_memory_mib": peak_memory_mib(),
    }


def _scored(learner: MetaLearner, samplers: Sequence[EpisodeSampler], n_episodes: int) -> Score:
    """Accuracies on the first n_episodes of each sampler, one sampler's after the other's."""
    scores = [evaluate(learner, sampler, n_episodes).accuracies for sampler in samplers]
    return Score(torch.cat(scores), strata=len(scores))


def _test(run: Run, learner: MetaLearner) -> tuple[Score, Score]:
    """Scores on the meta-test episodes of the selected checkpoint and of the last round."""
    samplers = run.samplers("test")
    selected = _scored(learner, samplers, run.profile.n_episodes)
    last = learner.last_params
    if last is None or all(torch.equal(value, last[name]) for name, value in learner.params.items()):
        return selected, selected
    kept = {name: value.detach().clone() for name, value in learner.params.items()}
    learner.load_params(last)
    score = _scored(learner, samplers, run.profile.n_episodes)
    if run.unit.selection != "last":
        learner.load_params(kept)
    return selected, score


def _history(columns: dict[str, list[float]], split: str) -> dict[str, list[float | None]]:
    """A training log's columns to six digits; what is not finite is None, for a record is JSON."""
    names = {"monitor_round": f"{split}_round", "monitor_score": f"{split}_accuracy"}
    return {
        names.get(name, name): [float(f"{v:.6g}") if math.isfinite(v) else None for v in column]
        for name, column in columns.items()
    }

"""What a long meta-training run keeps: its log, the round to be kept, and its checkpoints."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from freelib import fast
from freelib.memory import TaskMemory
from freelib.meta_learner import MetaLearner
from freelib.methods.base import Monitor
from freelib.models.pool import ModelPool, check_batchnorm
from freelib.replay import EpisodeShape, ReplayConfig, check_replay, replay
from freelib.storage import Checkpoint, digest_of, tensors_digest

SAVE_AFTER = 5.0
"""Seconds after which a state is saved at the end of a round; a hundred times what saving takes, if more."""


def clocks() -> dict[str, float]:
    """Readings in seconds: "training" of the wall's clock, "training_cpu" of this process's, all threads."""
    return {"training": time.perf_counter(), "training_cpu": time.process_time()}


@dataclass
class TrainingLog:
    """What happened while a learner was trained; part of its checkpoint and of its record.

    history: a list of numbers for each column; seconds: by phase; iterations: generator iterations
    earlier: seconds, under the names of `clocks`, of a killed run's sittings before, up to their checkpoint
    """

    history: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    iterations: int = 0
    earlier: dict[str, float] = field(default_factory=dict)
    began: dict[str, float] = field(default_factory=clocks)

    def append(self, **values: float | int | Tensor) -> None:
        """Adds one number to each named column."""
        for name, value in values.items():
            self.history.setdefault(name, []).append(float(value))

    @contextmanager
    def phase(self, name: str, *, processor: bool = False) -> Iterator[None]:
        """Adds the wall-clock time of its body to a phase; processor: its own too, as `<name>_cpu`."""
        start, start_cpu, cpu = time.perf_counter(), time.process_time(), f"{name}_cpu"
        # An older checkpoint has the wall's only.
        processor &= cpu in self.seconds or name not in self.seconds
        try:
            yield
        finally:
            if torch.cuda.is_initialized():  # a GPU works on when a call has returned: wait for it
                torch.cuda.synchronize()
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
            if processor:
                self.seconds[cpu] = self.seconds.get(cpu, 0.0) + time.process_time() - start_cpu

    def spent(self, began: Mapping[str, float] | None = None) -> dict[str, float]:
        """Seconds, under the names of `clocks`, of the whole training: those of earlier sittings count too.

        began: what the clocks read when this sitting began, if not with this log
        """
        began = began or self.began
        return {name: now - began[name] + self.earlier.get(name, 0.0) for name, now in clocks().items()}

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "history": self.history,
            "seconds": self.seconds,
            "passes": self.iterations,
            "spent": self.spent(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to a state that `state_dict` gave."""
        self.history, self.seconds, self.iterations = state["history"], state["seconds"], state["passes"]
        self.earlier = state.get("spent", {})  # an older checkpoint has none


class Selection:
    """Shows the learner to the monitor now and then, and keeps θ of the round that it scored highest."""

    def __init__(
        self, learner: MetaLearner, monitor: Monitor | None, log: TrainingLog, *, every: int
    ) -> None:
        self.learner, self.monitor, self.log, self.every = learner, monitor, log, every
        self.best_score: float | None = None
        self.best_round: int | None = None
        self.best: dict[str, Tensor] | None = None

    def consider(self, round_number: int, *, last: bool = False) -> None:
        """Calls the monitor after rounds `every`, 2 · `every`, … (0: none of them) and after the last one."""
        due = last or (self.every > 0 and round_number % self.every == 0)
        if self.monitor is None or not due:
            return
        with self.log.phase("monitor", processor=True):
            score = self.monitor(round_number, self.learner)
        if score is None:
            return
        self.log.append(monitor_round=round_number, monitor_score=score)
        if self.best_score is None or score > self.best_score:
            self.best_score, self.best_round = score, round_number
            self.best = {name: p.detach().clone() for name, p in self.learner.params.items()}

    def finish(self) -> MetaLearner:
        """The learner with θ of the selected round; the last round's is kept as `learner.last_params`."""
        self.learner.log = self.log
        self.learner.selected_round = self.best_round
        if self.best is not None:
            self.learner.last_params = {name: p.detach().clone() for name, p in self.learner.params.items()}
            self.learner.load_params(self.best)
        return self.learner

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"score": self.best_score, "round": self.best_round, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to a state that `state_dict` gave."""
        self.best_score, self.best_round, self.best = state["score"], state["round"], state["best"]


class RunConfig(Protocol):
    """How often a run is looked at and saved, in rounds; 0: never."""

    @property
    def monitor_every(self) -> int: ...
    @property
    def checkpoint_every(self) -> int: ...


_OURS = {"run", "parts", "recovered"}  # one of them is in every state, in those of older versions too


def state_of_run(checkpoint: Checkpoint | None, run: str) -> dict[str, Any] | None:
    """The checkpoint's state, if it has one. Raises ValueError for that of another run, or of no training."""
    state = checkpoint.load() if checkpoint else None
    if checkpoint and state is not None and not (isinstance(state, dict) and _OURS & state.keys()):
        raise ValueError(f"{checkpoint.file} is no state of a training: choose another file.")
    if checkpoint and state and state.get("run", run) != run:
        raise ValueError(
            f"{checkpoint.file} is of a run with another config, seed or pool: each needs a file of its own."
        )
    return state


class TrainingRun:
    """The rounds of a training that can be killed at any time; a method adds what happens in them.

    parts: by name, all but the student that the rest of a run depends on, each with a `state_dict`; rng: what
      the rounds draw from
    config: see `Selection` for monitor_every; checkpoint_every: rounds between saved states (0: never); one
      is saved sooner after a round that ends SAVE_AFTER later than the last

    pool: what the run learns from, if it is a pool

    Where the checkpoint has a state of these parts, the run goes on from it, else it begins at the start.
    Raises ValueError where that state is of a run with another config, seed or pool.
    """

    def __init__(
        self,
        learner: MetaLearner,
        parts: Mapping[str, Any],
        rng: torch.Generator,
        config: RunConfig,
        *,
        pool: ModelPool | None = None,
        monitor: Monitor | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.log = TrainingLog()
        self.selection = Selection(learner, monitor, self.log, every=config.monitor_every)
        self.rng, self.checkpoint, self.every, self.done = rng, checkpoint, config.checkpoint_every, 0
        self.due = time.monotonic() + SAVE_AFTER
        self.parts = {"student": learner.backbone, **parts, "selection": self.selection, "log": self.log}
        start = tensors_digest({**learner.backbone.state_dict(), "rng": rng.get_state()})
        self.run = digest_of([config, start, pool.digest if pool else None])
        state = state_of_run(checkpoint, self.run) or {}
        if state.get("parts", {}).keys() == self.parts.keys():
            for name, part in self.parts.items():
                part.load_state_dict(state["parts"][name])
            rng.set_state(state["rng"])
            self.done = state["round"]

    def rounds(self, n: int, *, warmup: int = 0) -> Iterator[int]:
        """The numbers of the rounds that are left of n; after them, the monitor looks and the state is saved.

        warmup: rounds at the start that teach the student nothing, so that nobody looks at it
        """
        for round_number in range(self.done + 1, n + 1):
            yield round_number
            if round_number > warmup:
                self.selection.consider(round_number, last=round_number == n)
            late = (now := time.monotonic()) > self.due
            if self.checkpoint and self.every and (late or round_number % self.every == 0):
                states = {name: part.state_dict() for name, part in self.parts.items()}
                state = {"round": round_number, "rng": self.rng.get_state(), "parts": states, "run": self.run}
                self.checkpoint.save(state)
                self.due = time.monotonic() + max(SAVE_AFTER, 100 * (time.monotonic() - now))

    def finish(self) -> MetaLearner:
        """The learner, see `Selection.finish`."""
        return self.selection.finish()


def check_pool(pool: ModelPool, config: Any) -> None:
    """Raises ValueError where a run with replay would learn less from this pool than its config says.

    config: with the fields of `InversionConfig`, `MethodConfig` and `ReplayConfig`
    """
    if config.lambda_bn:
        check_batchnorm(pool)
    check_replay(pool, config)


def replay_and_log(
    log: TrainingLog,
    learner: MetaLearner,
    memory: TaskMemory,
    config: ReplayConfig,
    optimizer: torch.optim.Optimizer,
    rng: torch.Generator,
    shape: EpisodeShape,
) -> None:
    """`replay`, as a phase of the log, with the number of its batches and what the last of them brought."""
    with log.phase("replay"):
        history = replay(learner, memory, config, optimizer, rng, shape, maml_step=fast.maml_step)
    if history:
        loss, accuracy = history[-1]
        log.append(replay_batches=len(history), replay_loss=loss, replay_accuracy=accuracy)

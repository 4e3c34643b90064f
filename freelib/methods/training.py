"""One meta-training: its log, its rounds, the selected checkpoint, and how a killed one goes on."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from freelib import fast
from freelib.alignment import make_optimizer
from freelib.memory import TaskMemory
from freelib.meta_learner import MetaLearner
from freelib.models.pool import ModelPool, check_batchnorm
from freelib.replay import check_replay, replay
from freelib.settings import check_weights
from freelib.storage import Checkpoint, digest_of, tensors_digest

SAVE_AFTER = 5.0
"""Seconds after which a state is saved at the end of a round; a hundred times what saving takes, if more."""

LOGGER = logging.getLogger(__name__)  # is told every value of a log, at level INFO

Monitor = Callable[[int, MetaLearner], float | None]
"""A validation check: scores the learner after a round, the higher the better; None: no score."""


def clocks() -> dict[str, float]:
    """Seconds of two clocks: "training", the wall's, and "training_cpu", this process's CPU time."""
    return {"training": time.perf_counter(), "training_cpu": time.process_time()}


class Kept:
    """What later rounds depend on: some attributes, by the names that they have in a checkpoint."""

    kept: ClassVar[dict[str, str]]

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, attribute) for name, attribute in self.kept.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, attribute in self.kept.items():
            setattr(self, attribute, state[name])


@dataclass
class TrainingLog(Kept):
    """What happened while a learner was trained; part of its checkpoint and of its record.

    history: a list of numbers for each column; seconds: by phase; iterations: generator iterations
    earlier: seconds of both `clocks` that a killed run had taken until its checkpoint
    """

    history: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    iterations: int = 0
    earlier: dict[str, float] = field(default_factory=dict)
    began: dict[str, float] = field(default_factory=clocks)
    kept: ClassVar = {"history": "history", "seconds": "seconds", "passes": "iterations"}

    def append(self, **values: float | int | Tensor) -> None:
        """Adds one number to each named column."""
        for name, value in values.items():
            self.history.setdefault(name, []).append(float(value))
        LOGGER.info("%s", {name: self.history[name][-1] for name in values})

    @contextmanager
    def phase(self, name: str, *, processor: bool = False) -> Iterator[None]:
        """Adds the wall-clock time of its body to a phase; processor: the CPU time too, as `<name>_cpu`."""
        start, start_cpu, cpu = time.perf_counter(), time.process_time(), f"{name}_cpu"
        # An older checkpoint has the wall-clock time only.
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
        """Seconds of both `clocks` since `began` (by default since the log was made), and those `earlier`."""
        began = began or self.began
        return {name: now - began[name] + self.earlier.get(name, 0.0) for name, now in clocks().items()}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "spent": self.spent()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.earlier = state.get("spent", {})  # an older checkpoint has none


_OURS = {"run", "parts", "recovered"}  # one of them is in every state, in those of older versions too


def state_of_run(checkpoint: Checkpoint | None, run: str, last: int) -> dict[str, Any] | None:
    """The checkpoint's state, if any. Raises ValueError for another run's, and a round that is none of 0 to last."""
    if checkpoint is None or (state := checkpoint.load()) is None:
        return None
    if not (isinstance(state, dict) and _OURS & state.keys()):
        raise ValueError(f"{checkpoint.file} is no state of a training: choose another file.")
    if state.get("run", run) != run:
        raise ValueError(
            f"{checkpoint.file} is of a run with another config, seed or pool: each needs a file of its own."
        )
    done = state.get("round", state.get("epochs", 0))
    if not (isinstance(done, int) and 0 <= done <= last):
        raise ValueError(f"{checkpoint.file} is said to be of round {done!r} of {last}: delete it.")
    return state


@dataclass
class TrainingRun(Kept):
    """All that one meta-training works with; what a method does in a round is the body of a loop on `rounds`.

    learner: the student; pool: the models, on its device; config: the method's; seed: for `stream_seed`
    rng: what the rounds draw from, and the only random numbers that a checkpoint keeps
    monitor, checkpoint, images: see `Method.meta_train`; log: what happens, which a method adds to
    best_score, best_round, best_params: the highest score so far, its round and θ; None before the first one
    """

    learner: MetaLearner
    pool: ModelPool
    config: Any
    rng: torch.Generator
    seed: int
    monitor: Monitor | None = None
    checkpoint: Checkpoint | None = None
    images: Tensor | None = None
    log: TrainingLog = field(default_factory=TrainingLog)
    best_score: float | None = None
    best_round: int | None = None
    best_params: dict[str, Tensor] | None = None
    kept: ClassVar = {"score": "best_score", "round": "best_round", "best": "best_params"}

    def rounds(self, n: int, *, warmup: int = 0, **parts: Any) -> Iterator[int]:
        """The numbers of the rounds that are left of n.

        After every monitor_every-th round (0: none of them) and after the last one comes a validation check.
        Then, after every checkpoint_every-th round, the state is saved: sooner where a round ends SAVE_AFTER
        later than the last state; 0: never.

        warmup: rounds at the start that teach the student nothing: they are not checked
        parts: by name, all but the student that later rounds depend on, each with a `state_dict`; where the
          checkpoint has a state of these parts, the run goes on from it, else it begins at round 1

        Raises ValueError where that state is of a run with another config, seed or pool, or is not whole;
        FloatingPointError where θ has diverged: before it would be checked or saved.
        """
        parts = {"student": self.learner.backbone, **parts, "selection": self, "log": self.log}
        start = tensors_digest({**self.learner.backbone.state_dict(), "rng": self.rng.get_state()})
        seen = [] if self.images is None else [tensors_digest({"images": self.images})]
        run = digest_of([self.config, start, self.pool.digest, *seen])
        done, due = self._restore(run, parts, n), time.monotonic() + SAVE_AFTER
        check_every, save_every = self.config.monitor_every, self.config.checkpoint_every
        for number in range(done + 1, n + 1):
            yield number
            if number > warmup and (number == n or (check_every and number % check_every == 0)):
                self.check(number)
            now = time.monotonic()
            if self.checkpoint and save_every and (now > due or number % save_every == 0):
                self.check_weights(number)
                states = {name: part.state_dict() for name, part in parts.items()}
                state = {"round": number, "rng": self.rng.get_state(), "parts": states, "run": run}
                self.checkpoint.save(state)
                due = time.monotonic() + max(SAVE_AFTER, 100 * (time.monotonic() - now))

    def _restore(self, run: str, parts: Mapping[str, Any], last: int) -> int:
        """Puts the parts, and rng, into their saved state; gives the number of rounds that are done."""
        state = state_of_run(self.checkpoint, run, last) or {}
        if state.get("parts", {}).keys() != parts.keys():
            return 0
        try:
            for name, part in parts.items():
                part.load_state_dict(state["parts"][name])
            self.rng.set_state(state["rng"])
            return state["round"]
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            file = getattr(self.checkpoint, "file", None)
            raise ValueError(f"{file} does not fit this run ({error}): delete it.") from error

    def check_weights(self, round_number: int) -> None:
        """Raises FloatingPointError where θ has diverged."""
        check_weights(self.learner.params.values(), self.config, f"round {round_number}")

    def check(self, round_number: int) -> None:
        """A validation check, if there is a monitor: θ of the round with the highest score is remembered."""
        self.check_weights(round_number)
        if self.monitor is None:
            return
        with self.log.phase("monitor", processor=True):
            score = self.monitor(round_number, self.learner)
        if score is None:
            return
        self.log.append(monitor_round=round_number, monitor_score=score)
        if self.best_score is None or score > self.best_score:
            self.best_score, self.best_round = score, round_number
            self.best_params = {name: p.detach().clone() for name, p in self.learner.params.items()}

    def finish(self) -> MetaLearner:
        """The learner with θ of the selected round; the last round's is kept as `learner.last_params`."""
        learner = self.learner
        learner.log, learner.selected_round = self.log, self.best_round
        if self.best_params is not None:
            learner.last_params = {name: p.detach().clone() for name, p in learner.params.items()}
            learner.load_params(self.best_params)
        return learner


class CrossTaskReplay:
    """The memory of a run's synthesised tasks, and the student's MAML steps on episodes from it.

    run: its config has the fields of `MethodConfig`, `InversionConfig` and `ReplayConfig`
    optimizer: of the outer step, a new Adam if None; parts: what it adds to those of `TrainingRun.rounds`

    Raises ValueError where the memory could never fill an episode, or a model lacks the statistics of λ_bn.
    """

    def __init__(self, run: TrainingRun, optimizer: torch.optim.Optimizer | None = None) -> None:
        pool, config, batches = run.pool, run.config, run.config.memory_batches
        if config.lambda_bn:
            check_batchnorm(pool)
        check_replay(pool, config)
        self.run = run
        self.memory = TaskMemory(image_size=pool.image_size, batches_per_class=batches, device=config.device)
        self.optimizer = optimizer or make_optimizer("adam", list(run.learner.params.values()), config.replay_lr)
        self.parts: dict[str, Any] = {"replay_optimizer": self.optimizer, "memory": self.memory}

    def step(self, round_number: int) -> None:
        """A replay every `replay_every` rounds; logged are its number of batches and the last one's loss."""
        learner, memory, config, rng = self.run.learner, self.memory, self.run.config, self.run.rng
        if round_number % config.replay_every:
            return
        with self.run.log.phase("replay"):
            history = replay(learner, memory, config, self.optimizer, rng, maml_step=fast.maml_step)
        if history:
            loss, accuracy = history[-1]
            self.run.log.append(replay_batches=len(history), replay_loss=loss, replay_accuracy=accuracy)

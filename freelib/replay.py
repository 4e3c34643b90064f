"""Cross-task replay: the student takes MAML steps on episodes that mix the classes of different models."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from freelib.datasets.episodes import Episode
from freelib.memory import TaskMemory
from freelib.meta_learner import MetaLearner
from freelib.models.pool import ModelPool
from freelib.settings import check_at_least, check_one_of, later


@dataclass(frozen=True)
class ReplayConfig:
    """How the memory is replayed; as by the public release, but for memory_tasks, replay_batches and replay_loss.

    memory_batches: how many batches of a class the memory keeps; memory_tasks: "all" of a round's tasks enter
      it, or the "last" alone
    replay_scope: "cross" mixes models, "within" takes a model's own classes, "none" leaves replay out
    replay_lr: of the outer step's Adam; replay_episodes: the meta-batch size, episodes a batch
    replay_patience: stop when so many batches in a row brought no better accuracy; 0: always `replay_batches`
    replay_batches: the most batches a round; the release has no such limit
    replay_every: rounds from one replay to the next
    second_order: MAML's outer gradient goes through the inner steps
    replay_loss: "mean" of a batch's episodes, or their "sum", as in the public release
    """

    memory_batches: int = 20
    memory_tasks: str = "all"
    replay_scope: str = "cross"
    replay_lr: float = 1e-3
    replay_episodes: int = 10
    replay_patience: int = 10
    replay_batches: int = 100
    replay_every: int = 1
    second_order: bool = True
    replay_loss: str = later("mean")

    def __post_init__(self) -> None:
        check_at_least(self, replay_every=1, replay_episodes=1, replay_patience=0, replay_batches=0, memory_batches=1)
        check_one_of(self, replay_scope=("cross", "within", "none"), memory_tasks=("all", "last"))
        check_one_of(self, replay_loss=("mean", "sum"))


def maml_step(
    learner: MetaLearner,
    episodes: Sequence[Episode],
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    second_order: bool = True,
    total: bool = False,
) -> tuple[Tensor, Tensor]:
    """MAML's outer step: one step of the optimizer on the mean of the episodes' `MetaLearner.query_loss`.

    steps: of the inner loop, at least 0; second_order: whether the gradient goes through them; total: the sum in
      place of the mean

    Gives the mean loss and the mean accuracy in [0, 1] on the queries, two scalars (Finn et al., 2017).
    """
    totals, n = torch.zeros(2, device=learner.device), len(episodes)
    for episode in episodes:
        loss, accuracy = learner.query_loss(episode, steps=steps, second_order=second_order)
        (loss / (1 if total else n)).backward()
        totals += torch.stack([loss.detach(), accuracy]) / n
    optimizer.step()
    optimizer.zero_grad()
    return totals[0], totals[1]


def replay(
    learner: MetaLearner,
    memory: TaskMemory,
    config: Any,
    optimizer: torch.optim.Optimizer,
    rng: torch.Generator,
    *,
    maml_step: Callable[..., tuple[Tensor, Tensor]] = maml_step,
) -> list[tuple[float, float]]:
    """Cross-task replay: batches of MAML on episodes from the memory, until their accuracy stalls.

    config: with the fields of `ReplayConfig` and `MethodConfig`
    optimizer: the outer step's; rng: what episodes are drawn from; maml_step: learns a batch

    Gives each batch's (loss, accuracy in [0, 1]); none where the memory holds too little, or the config says
    to leave replay out.
    """
    history: list[tuple[Tensor, Tensor]] = []
    size = (config.n_way, config.n_shot, config.n_query)
    if config.replay_scope == "none" or not memory.ready(*size, scope=config.replay_scope):
        return []
    rule = {"second_order": config.second_order, "total": config.replay_loss == "sum"}
    best, stalled = -1.0, 0
    while len(history) < config.replay_batches:
        episodes = [memory.episode(*size, rng, scope=config.replay_scope) for _ in range(config.replay_episodes)]
        history.append(maml_step(learner, episodes, optimizer, steps=config.inner_steps, **rule))
        if config.replay_patience:  # else nothing here waits for the device
            accuracy = float(history[-1][1])
            stalled = 0 if accuracy > best else stalled + 1
            best = max(best, accuracy)
            if stalled >= config.replay_patience:
                break
    return [(float(loss), float(accuracy)) for loss, accuracy in history]


def check_replay(pool: ModelPool, config: Any) -> None:
    """Raises ValueError where the memory could never fill an episode.

    `config` has the fields of `ReplayConfig` and `MethodConfig`, and images_per_class.
    """
    if config.replay_scope == "none":
        return
    widest = max(len(description["class_names"]) for description in pool.descriptions)
    there = widest if config.replay_scope == "within" else len(pool.classes)
    if there < config.n_way:
        where = "the pool's widest model" if config.replay_scope == "within" else "the pool"
        raise ValueError(
            f"{config.n_way}-way episodes are to be replayed, but {where} has {there} classes: set "
            f"n_way={there}, or replay_scope=none."
        )
    held, wanted = config.memory_batches * config.images_per_class, config.n_shot + config.n_query
    if held < wanted:
        raise ValueError(
            f"An episode takes n_shot + n_query = {wanted} images of a class, but the memory keeps only "
            f"memory_batches × images_per_class = {held}."
        )

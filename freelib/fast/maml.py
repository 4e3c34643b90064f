"""MAML's outer step as fast as the device lets it be."""

from collections.abc import Sequence

import torch
from torch import Tensor

from freelib.datasets.episodes import Episode
from freelib.fast.conv4_derivatives import query_loss
from freelib.fast.threads import in_threads
from freelib.fast.vmap import TRAINED_AT_ONCE, batches_episodes, query_losses
from freelib.generator import add_gradients
from freelib.meta_learner import MetaLearner
from freelib.replay import maml_step as one_by_one


def maml_step(
    learner: MetaLearner,
    episodes: Sequence[Episode],
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    second_order: bool = True,
    total: bool = False,
) -> tuple[Tensor, Tensor]:
    """`freelib.replay.maml_step`: on an accelerator many episodes in one call, on a CPU one a thread."""
    if type(learner).query_loss is not MetaLearner.query_loss:  # one with a loss of its own
        return one_by_one(learner, episodes, optimizer, steps=steps, second_order=second_order, total=total)
    totals, n = torch.zeros(2, device=learner.device), len(episodes)
    over = 1 if total else n
    weights = list(learner.params.values())

    def share(own: MetaLearner, episode: Episode) -> tuple[tuple[Tensor | None, ...], Tensor]:
        loss, accuracy = query_loss(own, episode, steps=steps, second_order=second_order)
        gradients = torch.autograd.grad(loss / over, weights, allow_unused=True)
        return gradients, torch.stack([loss.detach(), accuracy]) / n

    if batches_episodes(learner):
        for chunk in (episodes[i : i + TRAINED_AT_ONCE] for i in range(0, n, TRAINED_AT_ONCE)):
            losses, accuracies = query_losses(learner, chunk, steps=steps, second_order=second_order)
            (losses.sum() / over).backward()
            totals += torch.stack([losses.detach().sum(), accuracies.sum()]) / n
    else:
        for gradients, values in in_threads(learner, share, episodes):
            add_gradients(weights, gradients)
            totals += values
    optimizer.step()
    optimizer.zero_grad()
    return totals[0], totals[1]

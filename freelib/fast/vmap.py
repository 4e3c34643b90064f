"""Episodes side by side: the inner loops of many episodes in one call, by `torch.func.vmap`.

An accelerator is idle while it waits for the small kernels of one episode. A CPU is not: there episodes are
adapted one after the other, with Conv4's derivatives written out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from freelib.datasets.episodes import Episode
from freelib.distillation import at_least_float32
from freelib.meta_learner import MetaLearner

AT_ONCE, TRAINED_AT_ONCE = 16, 5
"""Episodes of one call, in tests and in training (where every inner step's graph stays in memory until the
backward pass). Not tuned: no accelerator was at hand."""


def pays(learner: object) -> TypeGuard[MetaLearner]:
    """Whether a learner's episodes are taken side by side.

    It learns by gradients, on an accelerator, and each of its BatchNorm layers either has fixed statistics or
    is a two-dimensional one that `with_written_out_norms` can replace.
    """
    if not isinstance(learner, MetaLearner) or learner.head == "prototypes" or learner.device.type == "cpu":
        return False
    norms = [m for m in learner.backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return all(_replaceable(norm) or _fixed(norm) for norm in norms)


def _replaceable(norm: nn.Module) -> bool:
    return isinstance(norm, nn.BatchNorm2d) and norm.running_mean is None and norm.affine


def _fixed(norm: nn.modules.batchnorm._BatchNorm) -> bool:
    return norm.running_mean is not None and not norm.training


class BatchNorm(nn.Module):
    """Batch normalisation with the batch's own statistics, written out.

    PyTorch's own gives wrong second derivatives under vmap (found with 2.14); a test holds this to the loop.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """Images `(n, C, H, W)`, each channel of mean 0 and variance 1, then scaled and moved."""
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
        scale = self.weight.view(1, -1, 1, 1) * (variance + self.eps).rsqrt()
        return (x - mean) * scale + self.bias.view(1, -1, 1, 1)


def with_written_out_norms(network: nn.Module) -> nn.Module:
    """The same network, its tensors shared and named as there, with our `BatchNorm` for batch statistics."""
    network = copy.deepcopy(network, {id(t): t for t in (*network.parameters(), *network.buffers())})
    for module in list(network.modules()):
        for name, child in module.named_children():
            if _replaceable(child):
                setattr(module, name, BatchNorm(child))  # type: ignore[arg-type]
    return network


Forward = Callable[[dict[str, Tensor], Tensor], Tensor]


def _adapted(
    learner: MetaLearner,
    forward: Forward,
    params: dict[str, Tensor],
    inputs: Tensor,
    labels: Tensor,
    steps: int,
    second_order: bool,
) -> dict[str, Tensor]:
    """`MetaLearner.inner_loop` as a function that vmap takes; forward: logits by weights and inputs."""
    moving = {name: p for name, p in params.items() if learner.head == "maml" or name.startswith("head.")}

    def loss(moving: dict[str, Tensor]) -> Tensor:
        logits = forward({**params, **moving}, inputs)
        return F.cross_entropy(at_least_float32(logits), labels)

    for _ in range(steps):
        gradients = grad(loss)(moving)
        if not second_order:
            gradients = {name: gradient.detach() for name, gradient in gradients.items()}
        moving = {name: p - learner.inner_lr * gradients[name] for name, p in moving.items()}
    return {**params, **moving}


def _inputs(learner: MetaLearner, images: Sequence[Tensor]) -> Tensor:
    """Images of several episodes as the network's inputs, `(episodes, n, C, H, W)`."""
    return torch.stack([learner.transform(each) for each in images])


def query_losses(
    learner: MetaLearner, episodes: Sequence[Episode], *, steps: int, second_order: bool = True
) -> tuple[Tensor, Tensor]:
    """Each episode's `MetaLearner.query_loss`: losses and accuracies in [0, 1], `(n,)` each.

    episodes: of one size
    """
    network = with_written_out_norms(learner.backbone)

    def forward(params: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return functional_call(network, params, (inputs,))

    def one(support: Tensor, labels: Tensor, query: Tensor, query_labels: Tensor) -> tuple[Tensor, Tensor]:
        params = _adapted(learner, forward, learner.params, support, labels, steps, second_order)
        logits = at_least_float32(forward(params, query))
        hits = (logits.argmax(1) == query_labels).float().mean()
        return F.cross_entropy(logits, query_labels), hits

    return vmap(one)(
        _inputs(learner, [episode.support for episode in episodes]),
        torch.stack([episode.support_labels for episode in episodes]),
        _inputs(learner, [episode.query for episode in episodes]),
        torch.stack([episode.query_labels for episode in episodes]),
    )


@torch.no_grad()
def predictions(learner: MetaLearner, episodes: Sequence[Episode], *, steps: int) -> Tensor:
    """The classes that the adapted learner gives each episode's queries, `(episodes, n_query)` int64.

    episodes: of one size, images float in [0, 1] or uint8

    Raises ValueError where images and labels differ in number or a label is out of range.
    """
    n_way = 1 + max(learner.check_support(each.support, each.support_labels) for each in episodes)
    params = {name: p.detach() for name, p in learner.params.items()}

    def one(support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        adapted = _adapted(learner, learner.forward, params, support, labels, steps, second_order=False)
        return learner.forward(adapted, query)[:, :n_way].argmax(1)

    return vmap(one)(
        torch.stack([learner.prepare(episode.support) for episode in episodes]),
        torch.stack([episode.support_labels.to(learner.device) for episode in episodes]),
        torch.stack([learner.prepare(episode.query) for episode in episodes]),
    )

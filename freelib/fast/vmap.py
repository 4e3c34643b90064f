"""The inner loops of many episodes in one call, by `torch.func.vmap`, for accelerators.

An accelerator is idle while it waits for the small kernels of one episode. A CPU is not: there episodes are
adapted one by one.
"""

from collections.abc import Callable, Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.func import grad, vmap

from freelib.datasets.episodes import Episode
from freelib.fast.threads import with_own_modules
from freelib.meta_learner import MetaLearner, Params

AT_ONCE, TRAINED_AT_ONCE = 16, 5
"""Episodes of one call, in tests and in training (where every inner step's graph stays in memory until the
backward pass). Not tuned: no accelerator was at hand."""


def batches_episodes(learner: object) -> TypeGuard[MetaLearner]:
    """Whether a learner's episodes are taken many in one call.

    It learns by gradients, on an accelerator, and each of its BatchNorm layers either has fixed statistics or
    is a two-dimensional one that `VmapLearner` can replace.
    """
    if not isinstance(learner, MetaLearner) or learner.head == "prototypes" or learner.device.type == "cpu":
        return False
    norms = [m for m in learner.backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return all(_replaceable(norm) or (norm.running_mean is not None and not norm.training) for norm in norms)


def _replaceable(norm: nn.Module) -> bool:
    return isinstance(norm, nn.BatchNorm2d) and norm.running_mean is None and norm.affine


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


class VmapLearner(MetaLearner):
    """A learner's θ and rule in modules of its own, which `vmap` can take."""

    def __init__(self, learner: MetaLearner) -> None:
        vars(self).update(vars(with_own_modules(learner)))
        for module in list(self.backbone.modules()):
            for name, child in module.named_children():
                if _replaceable(child):
                    setattr(module, name, BatchNorm(child))  # type: ignore[arg-type]

    def gradient(self, loss: Callable[[Params], Tensor], params: Params, create_graph: bool) -> Params:
        """`MetaLearner.gradient` by torch.func: vmap bears no `torch.autograd.grad` inside."""
        gradients = grad(loss)(params)
        return gradients if create_graph else {name: g.detach() for name, g in gradients.items()}


def query_losses(
    learner: MetaLearner, episodes: Sequence[Episode], *, steps: int, second_order: bool = True
) -> tuple[Tensor, Tensor]:
    """Each episode's `MetaLearner.query_loss`: losses and accuracies in [0, 1], `(n,)` each.

    episodes: of one size
    """
    own = VmapLearner(learner)

    def one(*parts: Tensor) -> tuple[Tensor, Tensor]:
        return own.query_loss(Episode(*parts), steps=steps, second_order=second_order)

    return vmap(one)(*map(torch.stack, zip(*(vars(episode).values() for episode in episodes), strict=True)))


@torch.no_grad()
def predictions(learner: MetaLearner, episodes: Sequence[Episode], *, steps: int) -> Tensor:
    """The classes that the adapted learner gives each episode's queries, `(episodes, n_query)` int64.

    episodes: of one size, images float in [0, 1] or uint8

    Raises ValueError where images and labels differ in number or a label is out of range.
    """
    n_way = 1 + max(learner.check_support(each.support, each.support_labels) for each in episodes)
    own, device = VmapLearner(learner), learner.device

    def one(support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        adapted = own.inner_loop(support, labels, steps=steps)
        return own.forward(adapted, query)[:, :n_way].argmax(1)

    parts = ((own.prepare(e.support), e.support_labels.to(device), own.prepare(e.query)) for e in episodes)
    return vmap(one)(*map(torch.stack, zip(*parts, strict=True)))

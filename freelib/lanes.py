"""Lanes: several of one run's episodes at once, a core each, with the bits of one after the other.

Episodes share nothing but θ, which none of them changes. PyTorch lets go of Python's lock in each operation,
so that two of Python's threads, with one of torch's each, keep two cores busy: more than one operation of
Conv4's size does that is split over two.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from queue import SimpleQueue
from typing import Any, TypeVar

import torch
from torch import Tensor

from freelib.environment import lanes
from freelib.meta_learner import MetaLearner

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 8
"""Items that a lane is given at a time: so many wait in memory, and so seldom a lane for the others."""


def twin(learner: MetaLearner) -> MetaLearner:
    """A learner with the same weights, not copies of them, in modules of its own.

    `functional_call` puts other weights into a module for as long as it runs: two threads need two modules.
    """
    held = chain(learner.backbone.parameters(), learner.backbone.buffers())
    own = copy.copy(learner)
    own.backbone = copy.deepcopy(learner.backbone, {id(tensor): tensor for tensor in held})
    return own


def in_lanes(learner: Any, work: Callable[[Any, Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`work(learner, item)` of each item, in the items' order, `lanes` of them at once.

    Each lane has a `twin` of the learner. What is no `MetaLearner` on a CPU, or is of a class derived from
    it, may hold anything: it gets one lane.
    """
    n = lanes()
    if n == 1 or type(learner) is not MetaLearner or learner.device.type != "cpu":
        yield from (work(learner, item) for item in items)
        return
    free: SimpleQueue[MetaLearner] = SimpleQueue()
    for _ in range(n):
        free.put(twin(learner))
    gradients = torch.is_grad_enabled()  # a new thread does not know

    def do(item: Item) -> Result:
        own = free.get()
        try:
            with torch.set_grad_enabled(gradients):
                return work(own, item)
        finally:
            free.put(own)

    source = iter(items)
    with ThreadPoolExecutor(n) as executor:
        while chunk := list(islice(source, n * AHEAD)):
            yield from executor.map(do, chunk)


def backward_of_each(
    learner: MetaLearner, losses: Callable[[MetaLearner, Item], tuple[Tensor, Tensor]], items: Iterable[Item]
) -> Iterator[tuple[Tensor, Tensor]]:
    """`loss.backward()` for each item's `loss, value = losses(learner, item)`, see `in_lanes`.

    The gradients are added up in the items' order, whatever the number of lanes. Gives the pairs, detached.
    """
    weights = list(learner.params.values())

    def work(own: MetaLearner, item: Item) -> tuple[tuple[Tensor | None, ...], Tensor, Tensor]:
        loss, value = losses(own, item)
        return torch.autograd.grad(loss, weights, allow_unused=True), loss.detach(), value.detach()

    for gradients, loss, value in in_lanes(learner, work, items):
        for weight, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                weight.grad = gradient if weight.grad is None else weight.grad + gradient
        yield loss, value

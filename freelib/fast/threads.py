"""Lanes: several of one run's episodes or recovered tasks at once, a core each, with the bits of one lane.

They share nothing but θ and θ_G, which none of them changes. PyTorch lets go of Python's lock in each
operation, so that two of Python's threads, with one of torch's each, keep two cores busy: more than one
operation of Conv4's size does that is split over two.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from freelib.environment import lanes, set_lanes
from freelib.meta_learner import MetaLearner
from freelib.models.pool import PretrainedModel

if TYPE_CHECKING:
    from freelib.generator import MetaGenerator, Student, SynthesisedTask, TaskSynthesis

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


def adapt_each(
    generator: TaskSynthesis,
    models: Sequence[PretrainedModel],
    students: Sequence[Student | None],
    rng: torch.Generator,
) -> list[SynthesisedTask]:
    """`generator.adapt(model, student, rng)` of each model, in their order, `lanes` of them at once.

    A `MetaGenerator` on a CPU, and models that share no layer: else one after the other. Students have to
    stand being called at once, as `DistillationHeads.logits` does. Gradients are added up in the models'
    order.
    """
    from freelib.generator import MetaGenerator

    n, pairs = lanes(), list(zip(models, students, strict=True))
    layers = [id(layer) for model in models for layer in model.module.modules()]
    one = n == 1 or len(set(layers)) < len(layers)
    if one or not isinstance(generator, MetaGenerator) or generator.device.type != "cpu":
        return [generator.adapt(model, student, rng) for model, student in pairs]
    own = [(_apart(generator), _ahead(generator, model, rng)) for model in models]
    with ThreadPoolExecutor(n) as executor:
        jobs = [executor.submit(g.adapt, *pair, r) for (g, r), pair in zip(own, pairs, strict=True)]
        tasks = [job.result() for job in jobs]
    for each, _ in own:
        generator.passes += each.passes
        for weight, alike in zip(generator.generator.parameters(), each.generator.parameters(), strict=True):
            assert alike.grad is not None
            weight.grad = alike.grad if weight.grad is None else weight.grad + alike.grad
    return tasks


def _apart(generator: MetaGenerator) -> MetaGenerator:
    """A copy of θ_G to adapt from, with no gradients and no passes yet."""
    own = copy.copy(generator)
    own.generator, own.passes = copy.deepcopy(generator.generator), 0
    return own


def _ahead(generator: MetaGenerator, model: PretrainedModel, rng: torch.Generator) -> torch.Generator:
    """What a model's adaptation draws from; rng itself is moved on to where that ends."""
    own = torch.Generator().set_state(rng.get_state())
    n = model.n_way * generator.config.images_per_class
    torch.randn(n, generator.config.z_dim, generator=rng)
    for _ in range(generator.config.adapt_steps):
        generator.augment(torch.empty(n, 1, 1, 1), rng)
    return own


@contextmanager
def episode_threads(n: int) -> Iterator[None]:
    """So many episodes at once in the body."""
    before = lanes()
    set_lanes(n)
    try:
        yield
    finally:
        set_lanes(before)

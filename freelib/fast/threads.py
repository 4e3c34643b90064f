"""Several of one run's episodes or synthesised tasks at once, a core each: the bits stay the same.

They share nothing but θ and θ_G, which none of them changes. PyTorch lets go of Python's lock in each
operation, so that two of Python's threads, with one of torch's each, keep two cores busy: more than one
operation of Conv4's size does that is split over two.
"""

import copy
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import chain, islice
from typing import Any, TypeVar

import torch

from freelib.alignment import DistillationHeads
from freelib.generator import MetaGenerator, ScratchGenerator, SynthesisedTask, add_gradients
from freelib.generator import adapt_each as one_after_the_other
from freelib.inversion import Student
from freelib.meta_learner import MetaLearner
from freelib.models.pool import PretrainedModel

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 8
"""Items that a thread is given at a time: so many wait in memory, and so seldom a thread for the others."""
_threads: ContextVar[int] = ContextVar("episode_threads", default=1)


@contextmanager
def episode_threads(n: int) -> Iterator[None]:
    """Within its body, n episodes or models at once; outside of any it is 1. Raises ValueError for less."""
    if n < 1:
        raise ValueError(f"Episodes take at least 1 thread, got {n}.")
    token = _threads.set(n)
    try:
        yield
    finally:
        _threads.reset(token)


def threads_at_work() -> int:
    """How many threads a run keeps busy here: torch's, times those that episodes are shared out to."""
    return torch.get_num_threads() * _threads.get()


def with_own_modules(learner: MetaLearner) -> MetaLearner:
    """A learner that shares the weights, which are not copied, but has modules of its own.

    `functional_call` puts other weights into a module for as long as it runs: two threads need two modules.
    """
    held = chain(learner.backbone.parameters(), learner.backbone.buffers())
    own = copy.copy(learner)
    own.backbone = copy.deepcopy(learner.backbone, {id(tensor): tensor for tensor in held})
    return own


def student_for(heads: DistillationHeads, model: PretrainedModel) -> Student:
    """`DistillationHeads.logits` for a model's images, by modules of its own, as `adapt_each` needs it."""
    own = copy.copy(heads)
    own.learner = with_own_modules(heads.learner)
    return partial(own.logits, model=model)


def in_threads(learner: Any, work: Callable[[Any, Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`work(learner, item)` of each item, in the items' order, `episode_threads` of them at once.

    Each thread has modules of its own. A learner that is no `MetaLearner` on a CPU, or is of a class derived
    from it, may hold anything: it gets one thread.
    """
    n, own, gradients = _threads.get(), threading.local(), torch.is_grad_enabled()
    if n == 1 or type(learner) is not MetaLearner or learner.device.type != "cpu":
        yield from (work(learner, item) for item in items)
        return

    def start() -> None:
        torch.set_grad_enabled(gradients)  # a new thread does not know
        own.learner = with_own_modules(learner)

    source = iter(items)
    with ThreadPoolExecutor(n, initializer=start) as executor:
        while chunk := list(islice(source, n * AHEAD)):
            yield from executor.map(lambda item: work(own.learner, item), chunk)


def one_by_one(models: Sequence[PretrainedModel]) -> bool:
    """Whether models have to wait for each other: outside of `episode_threads`, or where they share a layer."""
    layers = [id(layer) for model in models for layer in model.module.modules()]
    return _threads.get() == 1 or len(set(layers)) < len(layers)


def answers_of_each(models: Sequence[PretrainedModel], ask: Callable[[PretrainedModel], Result]) -> list[Result]:
    """`ask(model)` of each model, `episode_threads` of them at once."""
    if one_by_one(models):
        return [ask(model) for model in models]
    with ThreadPoolExecutor(_threads.get()) as executor:
        return list(executor.map(ask, models))


def adapt_each(
    generator: MetaGenerator | ScratchGenerator,
    models: Sequence[PretrainedModel],
    students: Sequence[Student | None],
    rng: torch.Generator,
) -> list[SynthesisedTask]:
    """`freelib.generator.adapt_each`, `episode_threads` of the models at once.

    It takes a `MetaGenerator` on a CPU and models that share no layer: else one follows the other. Students
    are called at once, see `student_for`. Gradients are added up in the models' order.
    """
    if one_by_one(models) or not isinstance(generator, MetaGenerator) or generator.device.type != "cpu":
        return one_after_the_other(generator, models, students, rng)
    own, draws = [_apart(generator) for _ in models], [_ahead(generator, model, rng) for model in models]
    with ThreadPoolExecutor(_threads.get()) as executor:
        work = zip(own, models, students, draws, strict=True)
        tasks = list(executor.map(lambda parts: MetaGenerator.adapt(*parts), work))
    for each in own:
        generator.iterations += each.iterations
        add_gradients(list(generator.generator.parameters()), [p.grad for p in each.generator.parameters()])
    return tasks


def _apart(generator: MetaGenerator) -> MetaGenerator:
    """A copy of θ_G to adapt from, with no gradients and no iterations yet."""
    own = copy.copy(generator)
    own.generator, own.iterations = copy.deepcopy(generator.generator), 0
    return own


def _ahead(generator: MetaGenerator, model: PretrainedModel, rng: torch.Generator) -> torch.Generator:
    """What a model's adaptation draws from; rng itself is moved on to where that ends."""
    own = torch.Generator().set_state(rng.get_state())
    n = len(generator.labels(model, rng))
    torch.randn(n, generator.config.z_dim, generator=rng)
    for _ in range(generator.config.adapt_steps):
        generator.augment(torch.empty(n, 1, 1, 1), rng)
    return own

"""`make bench-compiled`: two pieces of the benchmark as they are and by torch.compile, one thread, in turns.

It takes minutes of a quiet core and a C++ compiler; notebook 51 shows the records.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from freelib.datasets.episodes import images_to_float
from freelib.environment import keep_freed_memory
from freelib.fast.conv4_derivatives import SupportLoss, descend, pull_back, weight_names
from freelib.models.pretraining import PoolConfig
from freelib.run import RecordStore, computed
from studies.benchmark import Ours, Size, Work, in_processes, seconds_of, spread

PIECES = (("pretraining", "float32"), ("pretraining", "bfloat16"), ("replay", "float32"))
SIZE = Size(members=(), repeats=7)


def outer_gradient(
    weights: list[Tensor], support: Tensor, labels: Tensor, query: Tensor, query_labels: Tensor,
    *, n_way: int, eps: list[float], lr: float, steps: int,
) -> list[Tensor]:  # fmt: skip
    """MAML's outer gradient on one episode as one function of tensors, all of it by the written-out formulas.

    weights: as `SupportLoss` has them; images prepared; gives the gradients of the weights
    """
    losses, weights = descend(SupportLoss(support, labels, n_way, eps), weights, lr, steps)
    gradient = SupportLoss(query, query_labels, n_way, eps).gradient(weights)
    return pull_back(losses, gradient, lr)


def replay_piece(work: Work) -> tuple[Callable[..., list[Tensor]], tuple[Any, ...]]:
    """`outer_gradient` on the benchmark's episode, and its arguments."""
    learner, rng = work.student, torch.Generator().manual_seed(1)
    episode = Ours(work).memory.episode(5, 1, work.size.n_query, rng)
    names, params = weight_names(learner.backbone), learner.params
    assert names is not None
    inputs = (
        *(learner.transform(episode.support), episode.support_labels),
        *(learner.transform(episode.query), episode.query_labels),
    )
    eps = [m.eps for m in learner.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    piece = partial(outer_gradient, n_way=5, eps=eps, lr=learner.inner_lr, steps=5)
    return torch.no_grad()(piece), ([params[name].detach() for name in names], *inputs)


def pretraining_piece(work: Work, precision: str) -> tuple[Callable[[Tensor], Tensor], Callable[..., None]]:
    """A teacher's module, and a step of its training through that module or what it was compiled to."""
    module = copy.deepcopy(work.teachers[0].module).train().requires_grad_(True)
    config = PoolConfig()
    optimizer = torch.optim.Adam(module.parameters(), config.learning_rate, fused=True)
    images = images_to_float(work.images[: config.batch_size])
    batch = work.teachers[0].transform(images.contiguous(memory_format=torch.channels_last))
    labels = work.labels[: config.batch_size] % 5

    def step(network: Callable[[Tensor], Tensor]) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = F.cross_entropy(network(batch).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return module, step


def measure(size: Size, piece: str, precision: str, backend: str = "inductor") -> dict[str, Any]:
    """In this process: seconds as it is and compiled, and those of the first compiled call.

    Raises what torch.compile raises, where there is no C++ compiler for one.
    """
    torch._inductor.config.force_disable_caches = True  # else a second measurement compiles nothing
    torch.set_num_threads(1)
    keep_freed_memory()
    compiled = partial(torch.compile, backend=backend, dynamic=False)
    work = Work(size, Path())  # reads no files
    plain: Callable[[], Any]
    fast: Callable[[], Any]
    if piece == "replay":
        function, inputs = replay_piece(work)
        plain, fast = partial(function, *inputs), partial(compiled(function), *inputs)
    else:
        module, step = pretraining_piece(work, precision)
        plain, fast = partial(step, module), partial(step, compiled(module))
    for _ in range(3):
        plain()
    first = seconds_of(fast)
    for _ in range(3):
        fast()
    turns = [(seconds_of(plain), seconds_of(fast)) for _ in range(3 * size.repeats)]
    return {
        "piece": piece,
        "seconds": spread([a for a, _ in turns]),
        "compiled_seconds": spread([b for _, b in turns]),
        "ratio": spread([a / b for a, b in turns]),
        "first_call_seconds": first,
    }


def in_a_process(piece: str, precision: str) -> dict[str, Any]:
    """`measure` at full size in a process of its own."""
    (found,) = in_processes(partial(measure, SIZE, piece), precision)
    return found


def main() -> None:
    """Measures, writes the records in the place of those that are there, and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path(__file__).parents[1] / "results")
    options = parser.parse_args()
    for piece, precision in PIECES:
        name, settings, make = f"compiled_{piece}", asdict(SIZE), partial(in_a_process, piece, precision)
        with tempfile.TemporaryDirectory() as folder:
            record = computed("compiled", name, settings, make, folder, profile="cpu", precision=precision)
        RecordStore(options.results / "cpu" / "records").put(record)
        print(f"{piece}, {precision}: {record['extra']['ratio']['median']:.2f} times as fast compiled")


if __name__ == "__main__":
    main()

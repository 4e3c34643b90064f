"""What a piece of work costs, in operations and bytes, and what this machine reaches at its best."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import quantiles
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry


class Traffic(TorchDispatchMode):
    """Adds up the bytes of every operation's tensors, in and out: what caches would have to spare."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and func.namespace == "aten":
            leaves = tree_leaves((args, kwargs, out))
            self.bytes += sum(x.nbytes for x in leaves if isinstance(x, Tensor))
        return out


KINDS = ("kernels", "batch_norm", "pooling")


class Clock(TorchDispatchMode):
    """Adds up the seconds in PyTorch's large operations, by kind (one of KINDS).

    "kernels": convolutions and matrix products, the operations whose FLOP `cost` counts
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = dict.fromkeys(KINDS, 0.0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = time.perf_counter()
        out = func(*args, **(kwargs or {}))
        if (kind := _kind(func)) is not None:
            self.seconds[kind] += time.perf_counter() - start
        return out


def _kind(func: Any) -> str | None:
    if func._overloadpacket in flop_registry:
        return "kernels"
    name = str(func)
    return "batch_norm" if "batch_norm" in name else "pooling" if "pool2d" in name else None


def seconds_by_kind(piece: Callable[[], Any], repeats: int = 3) -> dict[str, float]:
    """Seconds of one run's large operations on a CPU, see `Clock`: of each kind the least of some runs.

    What is left of the run's time is small operations, and what calls them.
    """

    def once() -> dict[str, float]:
        with Clock() as clock:
            piece()
        return clock.seconds

    runs = [once() for _ in range(repeats)]
    return {kind: min(run[kind] for run in runs) for kind in KINDS}


def cost(piece: Callable[[], Any]) -> dict[str, float]:
    """Floating-point operations (multiply and add count two) and bytes of one run of a piece."""
    with FlopCounterMode(display=False) as counter:
        piece()
    with Traffic() as traffic:
        piece()
    return {"flops": float(counter.get_total_flops()), "bytes": float(traffic.bytes)}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high}


def peaks(repeats: int = 5) -> dict[str, float]:
    """What this process reaches: FLOP/s by precision, and bytes/s of a copy in memory.

    FLOP/s: of a matrix product or of a wide 3x3 convolution, whichever is faster; they come from two
    libraries, and on some processors one leaves the vector units half empty.
    """

    def best(run: Callable[[], Any]) -> float:
        return min(seconds_of(run) for _ in range(repeats + 1))

    found = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a = torch.ones(1024, 1024, dtype=dtype)
        x, w = (torch.ones(n, 128, k, k, dtype=dtype) for n, k in ((16, 32), (128, 3)))
        x, w = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, w))
        found[name] = max(
            2 * 1024**3 / best(partial(torch.mm, a, a)),
            2 * x.numel() * w[0].numel() / best(partial(torch.conv2d, x, w, padding=1)),
        )
    x = torch.ones(2**25)
    y = torch.empty_like(x)
    return found | {"bytes": 2 * x.nbytes / best(lambda: y.copy_(x))}


def seconds_of(run: Callable[[], Any]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start

"""What the settings of a config have to be: in range, finite, one of the values that there are."""

import math
from collections.abc import Collection, Iterable
from dataclasses import field, fields
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

MOST, MOST_WIDE = 10**7, 4096
"""The largest whole number of a setting; and of one that says how wide a tensor is, or how long one answer takes."""
WIDE = {
    "width", "n_way", "image_size", "inner_steps", "test_steps", "icfil_inversion_steps", "icfil_steps", "ngf", "z_dim",
    "embedding", "embedding_dim", "hidden", "rank", "workers", "threads",
}  # fmt: skip


def later(default: Any) -> Any:
    """A dataclass's field that came after the first records: no digest has it while it has its default."""
    return field(default=default, metadata={"later": True})


def check_at_least(config: Any, **least: float) -> None:
    """Raises ValueError where a named field of the config is below its bound; None passes."""
    for name, low in least.items():
        value = getattr(config, name)
        if value is not None and not value >= low:
            raise ValueError(f"{name} must be at least {low}, got {value}.")


def check_above_zero(config: Any, *names: str) -> None:
    """Raises ValueError where a named field of the config is not above 0."""
    for name in names:
        if not (value := getattr(config, name)) > 0:
            raise ValueError(f"{name} must be above 0, got {value}.")


def check_numbers(config: Any) -> None:
    """Raises ValueError where a number of a dataclass is too large, NaN, or infinite where its field bars that."""
    for item in fields(config):
        value, most = getattr(config, item.name), MOST_WIDE if item.name in WIDE else MOST
        if isinstance(value, float) and not math.isfinite(value) and value != item.metadata.get("allowed"):
            raise ValueError(f"{item.name} must be finite, got {value}.")
        if isinstance(value, int) and value > most:
            raise ValueError(f"{item.name} must be at most {most}, got {value}.")


def check_seed(seed: Any, most: int = 2**32 - 1) -> None:
    """Raises ValueError for a seed out of range: torch's generators take 32 bits, and seeds are not to meet."""
    if not isinstance(seed, Integral) or not 0 <= int(seed) <= most:
        raise ValueError(f"A seed is a whole number from 0 to {most}, got {seed!r}.")


def check_weights(weights: Iterable[Tensor], config: Any, when: str) -> None:
    """Raises FloatingPointError, naming rates of the config to lower, where a weight's square is not finite."""
    sums = [weight.detach().square().sum() for weight in weights]
    if not sums or bool(torch.stack(sums).isfinite().all()):
        return
    rates = [item for item in fields(config) if item.name.endswith(("lr", "learning_rate"))]
    raised = [item for item in rates if isinstance(item.default, float) and getattr(config, item.name) > item.default]
    named = ", ".join(f"{item.name}={getattr(config, item.name)}" for item in raised or rates)
    raise FloatingPointError(f"Training diverged: after {when} the weights are not finite; lower {named}.")


def check_device(device: str, *, here: bool = False) -> None:
    """Raises ValueError for a device that torch does not know; here: or that this machine does not have."""
    try:
        found = torch.device(device)
        if here:
            torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:  # the latter: torch without CUDA
        reason = str(error).splitlines()[0]
        raise ValueError(f"device is {device!r}, which torch does not find: {reason}") from error


def check_one_of(config: Any, **known: Collection[str]) -> None:
    """Raises ValueError where a named field of the config is none of the values that it can have."""
    for name, values in known.items():
        if (value := getattr(config, name)) not in values:
            raise ValueError(f"{name} is one of {', '.join(values)}, got {value!r}.")

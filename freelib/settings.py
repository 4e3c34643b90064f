"""What the settings of a config have to be: in range, finite, one of the values that there are."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import fields
from typing import Any

import torch


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


def check_finite(config: Any) -> None:
    """Raises ValueError where a number of a dataclass is NaN, or infinite and not what its field allows."""
    for item in fields(config):
        value = getattr(config, item.name)
        if isinstance(value, float) and not math.isfinite(value) and value != item.metadata.get("allowed"):
            raise ValueError(f"{item.name} must be finite, got {value}.")


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

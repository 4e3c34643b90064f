"""What trainings log, where TensorBoard finds it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from freelib.methods.training import LOGGER


@contextmanager
def tensorboard(folder: Path) -> Iterator[None]:
    """Meanwhile, what trainings log goes to a folder as well. Raises ValueError where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("--tensorboard needs TensorBoard: pip install tensorboard") from error
    step = 0

    def write(record: logging.LogRecord) -> bool:
        nonlocal step
        values: Any = record.args
        for name, value in values.items():
            if name.endswith(("round", "epoch")):
                step = int(value)
            else:
                writer.add_scalar(name, value, step)
        return False

    with SummaryWriter(folder) as writer:
        LOGGER.addFilter(write)
        LOGGER.setLevel(logging.INFO)
        try:
            yield
        finally:
            LOGGER.removeFilter(write)

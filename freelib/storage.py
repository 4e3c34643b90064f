"""Files that are whole or not there: atomic writes, and tensors as safetensors."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor


def write_atomically(file: Path, data: bytes) -> None:
    """Writes a file so that a reader, or a crash at any moment, finds the old content or the new, never a part."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def serialise_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as safetensors bytes; the same tensors give the same bytes."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())})


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits over names, shapes and values."""
    return hashlib.sha256(serialise_tensors(tensors)).hexdigest()[:16]


def save_tensors(file: Path, tensors: Mapping[str, Tensor]) -> str:
    """Writes tensors as safetensors, atomically; gives their digest."""
    data = serialise_tensors(tensors)
    write_atomically(file, data)
    return hashlib.sha256(data).hexdigest()[:16]


def load_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors file. Raises FileNotFoundError, or ValueError where it is damaged."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing.")
    try:
        return load(file.read_bytes())
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{file} is no whole safetensors file ({error}).") from error


class Checkpoint:
    """Where a long run keeps its state, so that it can be killed at any time and go on with the same bits.

    The state is a dictionary of tensors, numbers, strings and containers of them; it is read with `weights_only`.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def load(self) -> dict[str, Any] | None:
        """The last state, or None where there is none (a damaged file counts as none: the run starts over)."""
        if not self.file.is_file():
            return None
        try:
            return torch.load(self.file, weights_only=True)
        except Exception:  # torch.load raises many kinds; whatever is unreadable is of no use
            return None

    def save(self, state: dict[str, Any]) -> None:
        """Replaces the state by a new one, atomically."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.file.with_name(f".{self.file.name}.{os.getpid()}")
        torch.save(state, temporary)
        os.replace(temporary, self.file)

    def remove(self) -> None:
        """Deletes the state: the run is done."""
        self.file.unlink(missing_ok=True)

"""Files that are whole or not there, and tensors from files that may come from anyone."""

import glob
import hashlib
import io
import json
import math
import os
import re
import secrets
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

LARGEST = 2**32
"""Bytes of a file of weights that is read."""
NESTS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema", "shadow", "state_dict", "model_state_dict"),
    *("model_state", "model", "net", "network", "module", "teacher", "params", "state", "weights"),
)
"""Under what names training scripts keep the weights, beside optimisers and counters; averaged ones first."""


@contextmanager
def replacement(file: Path) -> Iterator[Path]:
    """A path beside a file; what is written there takes its place when the body is done, or OSError names it."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("r+b") as stream:
            os.fsync(stream.fileno())
        temporary.replace(file)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = isinstance(error, OSError) and not isinstance(error, FileNotFoundError) and error.strerror
        if "inline_container" in str(error):  # torch.save
            reason = "No space left on device"
        if reason:
            raise OSError(f"{file} can't be written ({reason}): what was there before stays.") from error
        raise


def check_file_name(name: str) -> str:
    """The same name, if it is that of a file. Raises ValueError where it is a path, which leads elsewhere."""
    if not name or name != Path(name).name or name == "..":
        raise ValueError(f"{name!r} is no name of a file in a folder.")
    return name


def read_limited(file: Path, most: int = 2**24) -> bytes:
    """The bytes of a file from anyone. Raises FileNotFoundError, ValueError for a pipe, a folder, or too many."""
    if not os.path.lexists(file):
        raise FileNotFoundError(f"{file} is missing.")
    if not file.is_file():
        raise ValueError(f"{file} is no regular file: it is not read.")
    if (size := file.stat().st_size) > most:
        raise ValueError(f"{file} has {size:,} bytes, more than the {most:,} that such a file may have.")
    return file.read_bytes()


def read_json(file: Path) -> Any:
    """The value in a JSON file from anyone. Raises as `read_limited`, and ValueError for what is no JSON."""
    try:
        return json.loads(read_limited(file))
    except RecursionError:
        raise ValueError(f"{file} is nested too deeply.") from None


def write_atomically(file: Path, data: bytes) -> None:
    """Writes a file so that a reader, or a crash at any moment, finds the old content or the new, whole."""
    with replacement(file) as temporary:
        temporary.write_bytes(data)


def set_aside(file: Path, why: object) -> None:
    """Renames a damaged file to `<name>.damaged`, or -2, -3 … where that is taken, with a warning."""
    aside, number = file.with_name(f"{file.name}.damaged"), 1
    while aside.exists():  # what was set aside earlier is kept
        number += 1
        aside = file.with_name(f"{file.name}.damaged-{number}")
    with suppress(FileNotFoundError):  # another process was quicker
        file.replace(aside)
    warnings.warn(f"{file} is damaged ({why}); moved to {aside.name}, will be computed again", stacklevel=4)


def serialise_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as safetensors bytes; the same tensors give the same bytes."""
    # Cloned, since safetensors refuses tensors that share memory, as tied weights do.
    layout = torch.contiguous_format
    return save({name: t.detach().cpu().clone(memory_format=layout) for name, t in sorted(tensors.items())})


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
    data = read_limited(file, LARGEST)
    try:
        return load(data)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{file} is no whole safetensors file ({error}).") from error


def load_state_file(file: Path | str) -> dict[str, Tensor]:
    """The weights in a file from anyone: `.safetensors`, or `.pt`/`.pth`/`.bin`, of which no code is run.

    A state dictionary on the CPU, alone or under one of the names in NESTS. Raises FileNotFoundError where
    there is no file, ValueError for another kind of file, a damaged one, one that wants code to be run or
    unpacks to more than it holds, or one without tensors by name.
    """
    file = Path(file)
    if file.suffix == ".safetensors":
        return load_tensors(file)
    if file.suffix not in (".pt", ".pth", ".bin"):
        raise ValueError(f"{file} is of no known kind: weights come as .safetensors, .pt, .pth or .bin.")
    data = read_limited(file, LARGEST)
    try:
        # torch.save packs nothing: an archive that grows, beyond packed code, is no file of weights.
        parts = ZipFile(io.BytesIO(data)).infolist() if data[:2] == b"PK" else []
        grows = sum(part.file_size for part in parts) > len(data) + 2**24
        found = None if grows else torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds
        raise ValueError(
            f"{file} is damaged, or holds more than tensors and was refused, since reading that runs code "
            "from the file. Ask for its state_dict, best as .safetensors."
        ) from error
    if grows:
        raise ValueError(f"{file} unpacks to more than it holds, which no file of torch.save does: it was refused.")
    if (state := _state_in(found)) is None:
        keys = f" with the keys {', '.join(map(str, found))}"[:300] if isinstance(found, Mapping) else ""
        raise ValueError(
            f"{file} holds no state dictionary (tensors by name) but a {type(found).__name__}{keys}: save "
            "network.state_dict() alone."
        )
    return {str(name): tensor.detach() for name, tensor in state.items()}


def _state_in(found: Any, depth: int = 3) -> Mapping | None:
    """The state dictionary that something from a file is, or has under a name of NESTS."""
    if not isinstance(found, Mapping) or depth == 0:
        return None
    if found and all(isinstance(value, Tensor) for value in found.values()):
        return found
    return next((state for name in NESTS if (state := _state_in(found.get(name), depth - 1))), None)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """A module's weights and buffers, without what it may keep beside tensors."""
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def load_weights(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Fills a module with a state dictionary, in the module's own types.

    Its names may have a prefix, such as "module." or "model.", and what torch.compile adds; what lacks the
    prefix, such as a loss or a counter, is left out. Of tied weights it may have one. Raises RuntimeError
    where names or shapes differ, ValueError where it holds several such networks.
    """
    own, state = tensors_of(module), {name.replace("_orig_mod.", ""): tensor for name, tensor in state.items()}
    prefixes = {name[: i + 1] for name in state for i, letter in enumerate(name) if letter == "."}
    fits = {prefix: sum(prefix + name in state for name in own) for prefix in ("", *sorted(prefixes))}
    best = [prefix for prefix, n in fits.items() if n == max(fits.values())]
    if len(best) > 1 and best[0] and fits[best[0]] == len(own):
        raise ValueError(f"it holds several such networks, under {', '.join(best)}: save the one that is meant")
    chosen = {name.removeprefix(best[0]): tensor for name, tensor in state.items() if name.startswith(best[0])}
    for name, tensor in own.items():
        tied = (other for other in chosen.keys() & own if own[other].data_ptr() == tensor.data_ptr())
        if name not in chosen and (twin := next(tied, None)) is not None:
            chosen[name] = chosen[twin]
    module.load_state_dict(chosen)


def plain(value: Any) -> Any:
    """`value` with dataclasses, tuples, paths, mappings and infinite numbers turned into what JSON knows.

    A field that is `later` than the first records is left out while it has its default: their digests stay.
    """
    if is_dataclass(value) and not isinstance(value, type):
        unset = {f.name for f in fields(value) if "later" in f.metadata and getattr(value, f.name) == f.default}
        value = {name: item for name, item in asdict(value).items() if name not in unset}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path) or (isinstance(value, float) and not math.isfinite(value)):
        return str(value)  # "inf" and "nan": JSON has no such numbers
    return value


def digest_of(value: Any) -> str:
    """First 16 hex digits of the sha256 of `value`'s canonical JSON (sorted keys, no spaces, no NaN)."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Checkpoint:
    """Where a long run keeps its state, so that it can be killed at any time and go on with the same bits.

    The state is a dictionary of tensors, numbers, strings and containers of them; it is read with `weights_only`.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def load(self) -> dict[str, Any] | None:
        """The last state, on the CPU; None where there is none: the run starts over.

        A damaged file is set aside and counts as none. Raises OSError where it can't be read, MemoryError or
        RuntimeError where there is no room for it: it may be whole.
        """
        if not self.file.is_file():
            return None
        data = self.file.read_bytes()
        try:
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises many kinds
            no_room = isinstance(error, MemoryError | torch.cuda.OutOfMemoryError)
            wanted = re.search(r"allocate (\d+) bytes", str(error))
            if no_room or ("DefaultCPUAllocator" in str(error) and not (wanted and int(wanted[1]) > len(data))):
                raise  # but more than the whole file has is wanted by a damaged one alone
            set_aside(self.file, type(error).__name__)
            return None

    def save(self, state: dict[str, Any]) -> None:
        """Replaces the state by a new one, atomically."""
        with replacement(self.file) as temporary:
            torch.save(state, temporary)

    def remove(self) -> None:
        """Deletes the state, and what a killed process left of a newer one: the run is done."""
        self.file.unlink(missing_ok=True)
        for part in self.file.parent.glob(f".{glob.escape(self.file.name)}.*"):
            part.unlink(missing_ok=True)

"""Records: one run, one JSON file, found again by a digest of what determines its result.

A record is `<root>/<experiment>/<digest>.json`. The digest covers the method and its revision, every field of
its config, the data, the pool, the seed and the settings of the evaluation: not the commit, not the number of threads,
not the experiment that asked for it first. So a record is never computed again, and one run serves several tables.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from freelib.storage import digest_of, plain, read_json, set_aside, write_atomically

SCHEMA = 1

Record = dict[str, Any]

_REQUIRED: dict[str, type] = {
    "schema": int, "experiment": str, "method": str, "method_revision": int, "dataset": str, "seed": int,
    "config": dict, "config_digest": str, "freelib_version": str, "python": str, "torch": str, "started": str,
}  # fmt: skip
_NULLABLE: dict[str, type] = {
    "profile": str, "n_way": int, "n_shot": int, "n_query": int, "split": str, "n_episodes": int,
    "accuracy": float, "accuracy_ci95": float, "accuracy_last": float, "episode_accuracies": list,
    "selection": str, "history": dict, "seconds": dict, "passes": float, "peak_memory_mib": float,
    "evaluation": dict, "data_digest": str, "pool": dict, "pool_digest": str, "precision": str,
    "git_commit": str, "device": str, "cpu": str, "threads": int, "instruction_set": str, "extra": dict,
}  # fmt: skip
_Form = msgspec.defstruct("Form", [*_REQUIRED.items(), *((name, kind | None) for name, kind in _NULLABLE.items())])
FIELDS = (*_REQUIRED, *_NULLABLE)
"""Every field of a record; one that does not apply is null, never left out.

seconds: wall-clock time by phase. A run has `training` (all sittings of a run that was killed, validation
  checks included) and `test`; where it was trained on the CPU also `training_cpu`, the CPU time of all
  threads, and of it `monitor_cpu`, that of the validation checks; and `pretraining`, the sum over the pool's
  models, where those tell it. Older records have no `monitor_cpu`, or no `training_cpu` either.
passes: generator iterations (generate, forward, backward). threads: torch's, of all episodes at once together.
"""

KEYED = (
    "method", "method_revision", "config", "dataset", "data_digest", "pool", "seed",
    "n_way", "n_shot", "n_query", "split", "n_episodes", "evaluation", "precision",
)  # fmt: skip
"""The fields that determine the result, and so the digest."""


class RecordError(ValueError):
    """A record does not have the form that this version of freelib reads and writes."""


class RecordSchemaError(RecordError):
    """A record was written under another schema."""


def config_digest(fields: Mapping[str, Any]) -> str:
    """The digest under which a record with these fields is kept; fields that do not determine it are ignored.

    Raises RecordError if one of `KEYED` is missing.
    """
    missing = [name for name in KEYED if name not in fields]
    if missing:
        raise RecordError(f"a record's digest needs {', '.join(missing)}; use null for what does not apply")
    return digest_of({name: fields[name] for name in KEYED})


def complete(fields: Mapping[str, Any]) -> Record:
    """A whole record from the fields that apply: the others null, schema and digest filled in.

    Raises RecordError for an unknown field, a missing one that is needed, one of the wrong type, or one that
    JSON has no form for.
    """
    record: Record = dict.fromkeys(FIELDS)
    unknown = sorted(set(fields) - set(FIELDS))
    if unknown:
        raise RecordError(f"a record has no field {', '.join(unknown)}; put it under 'extra'")
    record.update({name: plain(value) for name, value in fields.items()})
    record["schema"] = SCHEMA
    try:
        json.dumps(record)
    except TypeError as error:
        raise RecordError(f"a record holds numbers, strings, lists and mappings alone ({error})") from error
    record["config_digest"] = config_digest(record)
    validate(record)
    return record


def validate(record: Mapping[str, Any]) -> None:
    """Raises RecordError unless `record` has every field, each of its type, and the digest of its content."""
    try:
        msgspec.convert(record, _Form)
    except msgspec.ValidationError as error:
        raise RecordError(f"the record lacks a field, or has another type in it: {error}") from error
    if record["config_digest"] != config_digest(record):
        raise RecordError(f"the record's digest is {record['config_digest']}, its content's {config_digest(record)}")


class RecordStore:
    """The records of one profile, below `root` (by custom `results/<profile>/records`)."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def put(self, record: Mapping[str, Any]) -> Path:
        """Writes a whole record (see `complete`), gives its path. Raises RecordError where it is not one."""
        validate(record)
        path = self.root / record["experiment"] / f"{record['config_digest']}.json"
        lines = (f" {json.dumps(name)}: {json.dumps(record[name], allow_nan=False)}" for name in FIELDS)
        write_atomically(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())
        return path

    def get(self, digest: str) -> Record | None:
        """The record of that digest, whichever experiment made it, or None.

        A damaged file is set aside as `<digest>.json.damaged` with a warning and counts as missing. Raises
        RecordError for a record of another schema: that one is whole, but not ours to read.
        """
        found = (_read(path) for path in sorted(self.root.glob(f"*/{digest}.json")))
        return next((record for record in found if record is not None), None)

    def all(self) -> list[Record]:
        """All records, each once, in an order that depends on their content only."""
        found = (_read(path) for path in sorted(self.root.glob("*/*.json")))
        records = {record["config_digest"]: record for record in found if record is not None}
        return sorted(
            records.values(), key=lambda r: (r["dataset"], r["n_shot"] or 0, r["method"], r["seed"], r["config_digest"])
        )


def _read(path: Path) -> Record | None:
    try:
        record = read_json(path)
        if not isinstance(record, dict):
            raise RecordError("a record is a JSON object")
        if isinstance(schema := record.get("schema"), int) and schema != SCHEMA:
            raise RecordSchemaError(
                f"{path} has schema {schema}, this freelib reads schema {SCHEMA}: use the version that "
                "wrote it, or move the file away to have it computed again"
            )
        validate(record)
        if record["config_digest"] != path.stem:
            raise RecordError(f"the file holds the record {record['config_digest']}")
    except FileNotFoundError:
        return None
    except RecordSchemaError:
        raise
    except ValueError as error:  # no JSON, no UTF-8, and RecordError
        set_aside(path, error)
        return None
    return record


def training_seconds(record: Record, clock: str = "training") -> float:
    """Seconds of meta-training without its validation checks, NaN where they were not recorded.

    clock: "training" (wall-clock time) or "training_cpu" (CPU time of all threads). Where the CPU time of the
      validation checks was not recorded apart, the CPU time is an upper bound, see `is_upper_bound`.
    """
    seconds = record["seconds"] or {}
    if "training" not in seconds or clock not in seconds:
        return math.nan
    alone = seconds["training"] - seconds.get("monitor", 0.0)
    if clock == "training":
        return alone
    if is_upper_bound(record):
        return min(seconds["training_cpu"], alone * (record["threads"] or 1))
    return seconds["training_cpu"] - seconds.get("monitor_cpu", 0.0)


def is_upper_bound(record: Record) -> bool:
    """Whether there were validation checks whose own CPU time was not recorded."""
    seconds = record["seconds"] or {}
    return seconds.get("monitor", 0.0) > 0 and "monitor_cpu" not in seconds

"""Trained learners on disk: a folder with `learner.json` and, for a student, `learner.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from freelib.meta_learner import MetaLearner
from freelib.methods import get_method
from freelib.methods.base import MethodConfig, student_backbone
from freelib.models.backbones import Backbone
from freelib.models.pool import ModelPool
from freelib.run.units import make_config
from freelib.storage import load_tensors, plain, save_tensors, tensors_digest, write_atomically

NUMBER = int | float
_RULE = {"head": str, "inner_lr": NUMBER, "inner_steps": int, "centre": str, "precision": str}
_IMAGES = {"mean": [NUMBER], "std": [NUMBER], "image_size": int}
_KINDS = {
    **{"kind": str, "method": str, "config": dict, "seed": int, "rule": dict, "images": dict},
    "pool": str | None,
}


def save_learner(
    learner: MetaLearner,
    folder: str | Path,
    *,
    method: str,
    config: MethodConfig,
    seed: int,
    pool: ModelPool,
    pool_folder: str | Path | None = None,
) -> None:
    """Write a learner, so that `load_learner` gives it back; what the folder held is replaced.

    A student is kept by its weights; a learner that is made of the pool's models, all of them frozen, by the
    pool's folder, if it is one of `freelib pool`'s: else `load_learner` wants the pool. Of a student that is
    no network of freelib's only the weights are kept: `load_learner` says so.

    Raises ValueError for a config that is not the method's.
    """
    folder = Path(folder)
    own = isinstance(learner.backbone, Backbone)
    kind = "student" if own else "pool"
    if not own and any(p.requires_grad for p in learner.backbone.parameters()):
        kind = "custom"
    if kind != "custom" and type(config) is not get_method(method).Config:
        raise ValueError(f"a {type(config).__name__} is no config of {method}")
    weights = learner.backbone.state_dict() if kind != "pool" else {}
    description = {
        "kind": kind,
        "method": method,
        "config": plain(config),
        "seed": seed,
        "rule": {name: getattr(learner, name) for name in _RULE},
        "images": {"mean": list(pool.mean), "std": list(pool.std), "image_size": pool.image_size},
        "pool": None if pool_folder is None else str(Path(pool_folder).resolve()),
        "pool_digest": pool.digest,
        "weights_digest": tensors_digest(weights),
    }
    text = json.dumps(description, indent=1) + "\n"
    if weights:
        save_tensors(folder / "learner.safetensors", weights)
    write_atomically(folder / "learner.json", text.encode())


def check_room(
    folder: Path, *, method: str, config: MethodConfig, seed: int, pool: ModelPool | None = None
) -> None:
    """Makes the folder. Raises ValueError where it holds the learner of another run: it would be lost.

    pool: None where it is not there yet: all else is compared
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "learner.json").is_file():
        there = read_learner_description(folder)
        run = {"method": method, "config": plain(config), "seed": seed}
        run |= {} if pool is None else {"pool_digest": pool.digest}
        other = [name for name, value in run.items() if there.get(name) != value]
        if other:
            raise ValueError(
                f"{folder} holds the learner of a run with another {other[0]}: choose another folder"
            )


def read_learner_description(folder: str | Path) -> dict[str, Any]:
    """What `learner.json` says. Raises FileNotFoundError, ValueError where the file is missing or damaged."""
    file = Path(folder) / "learner.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no learner in {folder}: `freelib train --help` tells how to get one"
        )
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(description, dict):
            raise ValueError("no JSON object")
        wrong = misfits(description, _KINDS)
        wrong = wrong or misfits(description["rule"], _RULE) + misfits(description["images"], _IMAGES)
        if not wrong and description["kind"] not in ("student", "pool", "custom"):
            wrong = ["kind"]
    except ValueError as error:
        raise ValueError(f"{file} does not describe a learner ({error!r}): train it again") from error
    if wrong:
        raise ValueError(f"{file} does not describe a learner (see {', '.join(wrong)}): train it again")
    return description


def load_learner(folder: str | Path, *, pool: ModelPool | None = None) -> MetaLearner:
    """The learner in a folder.

    pool: what a learner that is made of the pool's models was made of, where it is not read from its folder

    Raises FileNotFoundError, ValueError where its files, or the pool that it is made of, are missing or
    damaged, and TypeError for a student that is no network of freelib's.
    """
    description = read_learner_description(folder)
    if description["kind"] == "custom":
        raise TypeError(
            f"{folder} holds the weights of a student that only {description['method']} can build: load "
            "learner.safetensors into its backbone"
        )
    method, seed = description["method"], description["seed"]
    try:
        config = make_config(method, description["config"])
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    if description["kind"] == "pool":
        if pool is None:
            try:
                pool = ModelPool.load(description["pool"] or "", device=config.device)
            except (ValueError, FileNotFoundError) as error:
                raise ValueError(
                    f"{folder} is made of a pool that can't be read ({error}): give load_learner that pool"
                ) from error
        if pool.digest != description["pool_digest"]:
            raise ValueError(
                f"the pool, from {description['pool']}, is not the one that {folder} was made from"
            )
        learner = get_method(method).meta_train(pool, config, seed=seed)
    else:
        try:
            student = _student(config, **description["images"], **description["rule"])
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{folder}: learner.json describes no student ({error}): train it again"
            ) from error
        learner = get_method(method).ready(student, config)
        weights = load_tensors(Path(folder) / "learner.safetensors")
        if description.get("weights_digest", digest := tensors_digest(weights)) != digest:
            raise ValueError(
                f"{folder}: learner.json and learner.safetensors are of two runs; train it again"
            )
        try:
            learner.backbone.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(
                f"{folder}: the weights are not those of the network in learner.json; train it again"
            ) from error
    return learner


def _student(
    config: MethodConfig, *, mean: list[float], std: list[float], image_size: int, **rule: Any
) -> MetaLearner:
    """A student as `build_student` makes it, but from what is stored instead of from a pool."""
    backbone = student_backbone(config, image_size=image_size, channels=len(mean))
    return MetaLearner(backbone, mean=mean, std=std, image_size=image_size, **rule)


def misfits(found: Mapping[str, Any], kinds: Mapping[str, Any]) -> list[str]:
    """Names under which there is nothing, or a value of another kind; the kind [T] is a list of T."""

    def fits(value: Any, kind: Any) -> bool:
        if isinstance(kind, list):
            return isinstance(value, list) and all(fits(item, kind[0]) for item in value)
        return isinstance(value, kind) and not isinstance(value, bool)

    return [name for name, kind in kinds.items() if not fits(found.get(name), kind)]

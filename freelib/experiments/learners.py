"""Trained learners on disk: a folder with `learner.json` and, for a student, `learner.safetensors`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from freelib.backbones import Backbone
from freelib.experiments.units import make_config
from freelib.meta_learner import MetaLearner
from freelib.methods import get_method
from freelib.methods.base import MethodConfig, student_backbone
from freelib.pool import ModelPool
from freelib.records import plain
from freelib.storage import load_tensors, save_tensors, write_atomically

_RULE = ("head", "inner_lr", "inner_steps", "centre", "precision")


def save_learner(
    learner: MetaLearner,
    folder: str | Path,
    *,
    method: str,
    config: MethodConfig,
    seed: int,
    pool: ModelPool,
    pool_folder: str | Path,
) -> None:
    """Write a learner, so that `load_learner` gives it back.

    A student is kept by its weights; a learner that is made of the pool's models, all of them frozen, by the
    pool's folder. Of a student that is no network of freelib's only the weights are kept: `load_learner` says
    so.
    """
    folder = Path(folder)
    own = isinstance(learner.backbone, Backbone)
    kind = "student" if own else "pool"
    if not own and any(p.requires_grad for p in learner.backbone.parameters()):
        kind = "custom"
    if kind != "pool":
        save_tensors(folder / "learner.safetensors", learner.backbone.state_dict())
    description = {
        "kind": kind,
        "method": method,
        "config": plain(config),
        "seed": seed,
        "rule": {name: getattr(learner, name) for name in _RULE},
        "images": {"mean": list(pool.mean), "std": list(pool.std), "image_size": pool.image_size},
        "pool": str(Path(pool_folder).resolve()),
        "pool_digest": pool.digest,
    }
    write_atomically(folder / "learner.json", (json.dumps(description, indent=1) + "\n").encode())


def read_learner_description(folder: str | Path) -> dict[str, Any]:
    """What `learner.json` says. Raises FileNotFoundError, ValueError where the file is missing or damaged."""
    file = Path(folder) / "learner.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no learner in {folder}: `freelib train --help` tells how to get one"
        )
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
        _ = [description[name] for name in ("kind", "method", "config", "seed", "rule", "images", "pool")]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file} does not describe a learner ({error!r}): train it again") from error
    return description


def load_learner(folder: str | Path) -> MetaLearner:
    """The learner in a folder.

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
    config = make_config(method, description["config"])
    if description["kind"] == "pool":
        pool = ModelPool.load(description["pool"], device=config.device)
        if pool.digest != description["pool_digest"]:
            raise ValueError(
                f"the pool in {description['pool']} is no longer the one that {folder} was made from"
            )
        learner = get_method(method).meta_train(pool, config, seed=seed)
    else:
        student = _student(config, **description["images"], **description["rule"])
        learner = get_method(method).ready(student, config)
        weights = load_tensors(Path(folder) / "learner.safetensors")
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

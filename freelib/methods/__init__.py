"""The registry of methods: `get_method` finds one by its name, or a user's own by its import path."""

import importlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from freelib.methods.base import Method, MethodConfig

METHODS: dict[str, str] = {
    "random": "freelib.methods.random:Random",
    "average": "freelib.methods.average:Average",
    "ota": "freelib.methods.ota:Ota",
    "dro": "freelib.methods.dro:Dro",
    "purer": "freelib.methods.purer:Purer",
    "bidf_mkd": "freelib.methods.bidf_mkd:BidfMkd",
    "best_teacher": "freelib.methods.prototypes:BestTeacher",
    "pool_features": "freelib.methods.prototypes:PoolFeatures",
    "pool_opinions": "freelib.methods.prototypes:PoolOpinions",
    "free": "freelib.methods.free:Free",
    "tgr": "freelib.methods.tgr:Tgr",
    "pool_distillation": "freelib.methods.pool_distillation:PoolDistillation",
    "ldfml": "freelib.methods.ldfml:Ldfml",
    "oracle_maml": "freelib.methods.oracles:OracleMaml",
    "oracle_protonet": "freelib.methods.oracles:OracleProtonet",
}
"""Name -> "module:Class"; imported when asked for."""

FACTS = ("title", "citation", "needs", "images", "same_architecture", "cost", "models_at_test", "oracle", "revision")
"""What `describe_methods` tells of a method, beside its name."""

__all__ = ["METHODS", "Method", "MethodConfig", "describe_methods", "get_method", "method_of_record"]


def get_method(name: str) -> Method:
    """The method of that name, or the class at an import path "package.module:Class", also in the current folder.

    Raises ValueError for an unknown name, a path that can't be imported, and a class that is not a Method or
    lacks something that a Method has (such as a Config that is a dataclass).

    >>> get_method("free").Config(rounds=100).meta_batch
    4
    """
    path = METHODS.get(name, name)
    module_name, _, class_name = path.partition(":")
    if not class_name:
        raise ValueError(f"Unknown method {name!r}: known are {', '.join(METHODS)}, or give package.module:Class.")
    if name not in METHODS and (here := os.environ.get("FREELIB_METHODS", str(Path.cwd()))) not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:  # a user's own file may raise anything
        raise ValueError(f"Method {name!r} can't be imported: {error}.") from error
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise ValueError(f"{path} is no freelib.methods.Method.")
    lacking = [attribute for attribute in (*FACTS, "name") if not hasattr(found, attribute)]
    if all(getattr(found, step) is getattr(Method, step) for step in ("train", "build", "meta_train")):
        lacking.append("train")
    if lacking:
        raise ValueError(f"{path} lacks {', '.join(lacking)}.")
    own = getattr(found.Config, "__dict__", {})
    if "__dataclass_fields__" not in own or not issubclass(found.Config, MethodConfig):
        raise ValueError(f"{path}: its Config has to be a dataclass that extends MethodConfig.")
    return found()


def method_of_record(name: str) -> Method:
    """`get_method` for a name from a file. Raises ValueError, and imports nothing, for a module not yet imported."""
    if name not in METHODS and name.partition(":")[0] not in sys.modules:
        raise ValueError(f"A record names the method {name!r}: import its module first, if you trust that code.")
    return get_method(name)


def describe_methods(names: Iterable[str] = METHODS) -> list[dict[str, Any]]:
    """What the methods are, need and cost, a dictionary each: `name` and the class attributes in FACTS.

    names: registered names or import paths; by default all that are registered. Errors are `get_method`'s.
    """
    return [{"name": name, **{key: getattr(get_method(name), key) for key in FACTS}} for name in names]

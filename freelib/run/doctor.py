"""What freelib finds on this machine, and how to get what lacks."""

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from freelib import __version__
from freelib.datasets import MissingDataError, find_source
from freelib.datasets.own import dataset_names
from freelib.environment import cpu_model
from freelib.folders import cache_folder

PACKAGES = {"torch": "", "torchvision": "", "scikit-learn": "", "huggingface_hub": "", "timm": "[timm]"}
PACKAGES |= {"transformers": "[transformers]", "onnx": "[onnx]", "onnxscript": "[onnx]", "onnxruntime": "[onnx]"}


def sources(root: Path | None = None) -> list[dict[str, Any]]:
    """Of each data set: its name, whether it was found, and where, else how to get it."""
    rows: list[dict[str, Any]] = []
    for name in dataset_names():
        try:
            rows.append({"name": name, "found": True, "where": find_source(name, root).location})
        except MissingDataError as error:
            rows.append({"name": name, "found": False, "where": str(error)})
    return rows


def diagnosis() -> list[dict[str, Any]]:
    """Of each thing that matters: name, what was found (None: nothing), and what to do where it lacks."""
    found: list[tuple[str, str | None, str]] = [("freelib", __version__, ""), ("python", platform.python_version(), "")]
    for name, extra in PACKAGES.items():
        try:
            found.append((name, version(name), ""))
        except PackageNotFoundError:
            found.append((name, None, f"pip install 'freelib{extra}'"))
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    found.append(("processor", f"{cpu_model()}, {torch.backends.cpu.get_cpu_capability()}", ""))
    found.append(("threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores", ""))
    found.append(("GPU", ", ".join(gpus) or None, "" if gpus else "none is needed; torch must be built for it"))
    for row in sources():
        found.append((f"data set {row['name']}", *((row["where"], "") if row["found"] else (None, row["where"]))))
    cache = cache_folder().absolute()
    size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) / 1e9
    free = shutil.disk_usage(next(folder for folder in (cache, *cache.parents) if folder.is_dir())).free / 1e9
    found.append(("cache", f"{cache}, {size:.2f} GB", ""))
    found.append(("free disk", f"{free:.1f} GB", "set FREELIB_CACHE to a larger disk" if free < 3 else ""))
    return [dict(zip(("name", "found", "advice"), row, strict=True)) for row in found]

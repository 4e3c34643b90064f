"""Fixtures that several test files share. Annotations in freelib are checked at run time, in tests only."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

# Before the first import of freelib: what is loaded later has its shapes and types checked at each call.
install_import_hook("freelib", "runtime_checks.checked")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """One thread, so that floating-point sums have one order and parallel workers do not fight for cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def double() -> Iterator[None]:
    """New tensors are float64: sums in another order differ by nothing that matters."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def tiny_dataset():
    """10 classes of 24 images, 16x16: noise with a soft blob whose place and colour are the class's."""
    from freelib.datasets import FewShotDataset

    n_classes, n_images, size = 10, 24, 16
    rng = torch.Generator().manual_seed(0)
    axis = torch.linspace(-1, 1, size)
    angle = torch.arange(n_classes) * (2 * torch.pi / n_classes)
    rows = axis[None, :, None] - 0.5 * angle.sin()[:, None, None]
    columns = axis[None, None, :] - 0.5 * angle.cos()[:, None, None]
    blobs = (-6 * (rows**2 + columns**2)).exp()  # (n_classes, size, size)
    colours = torch.rand(n_classes, 3, generator=rng)
    clean = 0.2 + 0.7 * colours[:, :, None, None] * blobs[:, None]  # (n_classes, 3, size, size)
    noise = 0.05 * torch.randn(n_classes, n_images, 3, size, size, generator=rng)
    images = (clean[:, None] + noise).clamp(0, 1).flatten(0, 1)
    pixels = images.mul(255).round().to(torch.uint8)
    return FewShotDataset(
        name="tiny",
        split="train",
        images=pixels,
        offsets=tuple(range(0, (n_classes + 1) * n_images, n_images)),
        class_names=tuple(f"blob {c}" for c in range(n_classes)),
        mean=tuple(images.mean(dim=(0, 2, 3)).tolist()),
        std=tuple(images.std(dim=(0, 2, 3)).tolist()),
        digest="0123456789abcdef",
    )


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a tiny CIFAR-FS and of a cache, for all tests that run experiments."""
    from fake_methods import write_parquet

    folder = tmp_path_factory.mktemp("tiny")
    write_parquet(folder / "data")
    return folder / "data", folder / "cache"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """The command line in an empty folder."""
    from processes import call

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FREELIB_PROGRESS", "off")
    monkeypatch.setattr(sys, "path", list(sys.path))  # the command line looks for methods in the folder
    return call


@pytest.fixture
def tiny_world(tiny_folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment points at the tiny CIFAR-FS and its cache; gives the cache's folder."""
    data, cache = tiny_folders
    monkeypatch.setenv("FREELIB_DATA", str(data))
    monkeypatch.setenv("FREELIB_CACHE", str(cache))
    monkeypatch.setenv("FREELIB_PROGRESS", "off")
    return cache

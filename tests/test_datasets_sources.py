"""Parquet, folder trees and torchvision's CIFAR-100 give the same data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_sources import CLASSES, COUNT, picture, png, rows, write_cifar, write_parquet, write_tree
from torchvision.datasets import CIFAR100

import freelib.datasets as datasets
from freelib.datasets import MissingDataError, load_dataset
from freelib.datasets.class_lists import class_lists
from freelib.datasets.few_shot import digest_of
from freelib.datasets.sources import decode, stack


@pytest.fixture(autouse=True)
def tiny_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "class_lists", lambda name: CLASSES)
    monkeypatch.delenv("FREELIB_DATA", raising=False)


def write(form: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if form == "parquet":
        write_parquet(root / "cifar-fs.parquet", rows())
    elif form == "torchvision":
        write_cifar(root, monkeypatch)
    else:
        write_tree(root / "cifar-fs", by_split=form == "split tree")


@pytest.mark.parametrize("form", ["parquet", "tree", "split tree", "torchvision"])
def test_every_form_gives_the_same_tensor(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(form, tmp_path, monkeypatch)
    monkeypatch.setenv("FREELIB_DATA", str(tmp_path))
    data = load_dataset("cifar-fs", "train", cache=tmp_path / "cache")

    expected = stack((picture("bee", i) for i in range(COUNT)), 32)
    assert data.class_names == ("ant", "bee")
    assert data.counts == (COUNT, COUNT)
    assert np.array_equal(data.class_images(1).numpy(), expected)
    raw = {np.asarray(picture("bee", i)).transpose(2, 0, 1).tobytes() for i in range(COUNT)}
    assert {image.numpy().tobytes() for image in data.class_images(1)} == raw
    everything = np.concatenate([stack((picture("ant", i) for i in range(COUNT)), 32), expected])
    assert data.digest == digest_of(torch.from_numpy(everything), ("ant", "bee"), (0, COUNT, 2 * COUNT))
    scaled = data.images.double() / 255
    assert torch.allclose(torch.tensor(data.mean).double(), scaled.mean(dim=(0, 2, 3)), atol=1e-7)
    deviation = scaled.transpose(0, 1).flatten(1).std(dim=1, correction=0)
    assert torch.allclose(torch.tensor(data.std).double(), deviation, atol=1e-7)


def test_each_split_has_its_classes_and_the_normalisation_of_train(tmp_path: Path) -> None:
    write_parquet(tmp_path / "cub.parquet", rows())
    train, validation, test = (
        load_dataset("cub", split, size=32, root=tmp_path, cache=tmp_path / "cache") for split in CLASSES
    )
    assert (validation.class_names, test.class_names) == (("cow",), ("doe",))
    assert train.mean == validation.mean == test.mean
    assert np.array_equal(test.images.numpy(), stack((picture("doe", i) for i in range(COUNT)), 32))


def test_native_size_is_84_for_birds_and_any_size_may_be_asked_for(tmp_path: Path) -> None:
    write_parquet(tmp_path / "cub.parquet", rows())
    assert load_dataset("cub", "test", root=tmp_path, cache=tmp_path / "cache").image_size == 84
    assert load_dataset("cub", "test", size=20, root=tmp_path, cache=tmp_path / "cache").image_size == 20


def test_shrinking_averages_and_squeezes() -> None:
    # One-pixel columns of black and white: without antialiasing the result would be black or white.
    columns = np.zeros((16, 64, 3), dtype=np.uint8)
    columns[:, ::2] = 255
    small = stack([Image.fromarray(columns)], 8)
    assert small.shape == (1, 3, 8, 8)
    assert 110 < small.min() <= small.max() < 145


def test_grey_and_palette_images_become_rgb() -> None:
    grey = Image.new("L", (4, 4), 7)
    assert np.asarray(decode(png(grey), "grey")).tolist() == [[[7, 7, 7]] * 4] * 4
    palette = Image.new("RGB", (4, 4), (255, 0, 0)).convert("P")
    assert np.asarray(decode(png(palette), "palette"))[0, 0].tolist() == [255, 0, 0]


def test_order_within_a_class_does_not_depend_on_the_order_of_reading() -> None:
    images = [picture("ant", i) for i in range(COUNT)]
    assert np.array_equal(stack(images, 32), stack(images[::-1], 32))


def test_download_is_left_to_torchvision_and_only_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def fetch(self: CIFAR100) -> None:
        asked.append(True)
        if not (tmp_path / "cifar-100-python").exists():
            write_cifar(tmp_path, monkeypatch)

    monkeypatch.setattr(CIFAR100, "download", fetch)
    with pytest.raises(MissingDataError):
        load_dataset("cifar-fs", "test", root=tmp_path, cache=tmp_path / "cache")
    assert not asked
    data = load_dataset("cifar-fs", "test", root=tmp_path, cache=tmp_path / "cache", download=True)
    assert asked
    assert data.counts == (COUNT,)


@pytest.mark.parametrize(
    ("name", "counts", "example"),
    [
        ("cifar-fs", (64, 16, 20), ("train", "apple")),
        ("mini-imagenet", (64, 16, 20), ("test", "n01930112")),
        ("cub", (100, 50, 50), ("validation", "002.Laysan_Albatross")),
        ("glyphs", (64, 16, 20), None),
    ],
)
def test_shipped_lists_have_the_published_sizes_and_do_not_overlap(
    name: str, counts: tuple[int, ...], example: tuple[str, str] | None
) -> None:
    lists = class_lists(name)
    assert tuple(map(len, lists.values())) == counts
    assert len(set().union(*lists.values())) == sum(counts)
    assert example is None or example[1] in lists[example[0]]


def test_cub_split_follows_the_published_rule() -> None:
    lists = class_lists("cub")
    every = sorted(c for names in lists.values() for c in names)
    assert lists["train"] == tuple(every[::2])
    assert lists["validation"] == tuple(every[1::4])
    assert lists["test"] == tuple(every[3::4])

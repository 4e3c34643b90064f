"""Parquet, folder trees and torchvision's CIFAR-100 give the same data; what is wrong with them is named."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR100

import freelib.datasets as datasets
from freelib.datasets import MissingDataError, load_dataset
from freelib.datasets.class_lists import class_lists
from freelib.datasets.few_shot import digest_of
from freelib.datasets.sources import ParquetSource, TreeSource, decode, stack

CLASSES = {"train": ("ant", "bee"), "validation": ("cow",), "test": ("doe",)}
COUNT = 6


def picture(class_name: str, i: int, size: int = 32) -> Image.Image:
    """An image that only this class and number have."""
    rng = np.random.default_rng([*class_name.encode(), i])
    return Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def rows() -> list[dict[str, Any]]:
    """The tiny data set as rows of the Parquet form, not sorted by class."""
    found = [
        {"image": {"bytes": png(picture(c, i)), "path": f"{c}/{i}.png"}, "label": c, "split": split}
        for split, names in CLASSES.items()
        for c in names
        for i in range(COUNT)
    ]
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))]


def write_parquet(path: Path, content: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(content), path)


def write_tree(folder: Path, by_split: bool = False) -> None:
    for split, names in CLASSES.items():
        for c in names:
            place = folder / split / c if by_split else folder / c
            place.mkdir(parents=True)
            for i in range(COUNT):
                picture(c, i).save(place / f"{i}.png")
            (place / "Thumbs.db").write_bytes(b"no image")


def write_cifar(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny data set as CIFAR-100's three pickles, with their checksums made known to torchvision."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    names = sorted(c for split in CLASSES.values() for c in split)
    parts = {"train": range(COUNT - 1), "test": range(COUNT - 1, COUNT)}
    for part, numbers in parts.items():
        pairs = [(c, i) for i in numbers for c in names]
        pixels = np.stack([np.asarray(picture(c, i)).transpose(2, 0, 1).ravel() for c, i in pairs])
        labels = [names.index(c) for c, _ in pairs]
        (folder / part).write_bytes(pickle.dumps({"data": pixels, "fine_labels": labels}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    md5 = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in ("train", "test", "meta")}
    monkeypatch.setattr(CIFAR100, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": md5["meta"]})


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


def test_broken_image_in_parquet_names_file_and_row(tmp_path: Path) -> None:
    content = rows()
    content[5]["image"]["bytes"] = content[5]["image"]["bytes"][:100]
    write_parquet(tmp_path / "cub.parquet", content)
    source = ParquetSource("cub", tmp_path / "cub.parquet", CLASSES)
    with pytest.raises(ValueError, match=r"cub\.parquet, row 5 \(.*\.png\) is not a readable image"):
        source.read_class(content[5]["label"], 32)


def test_empty_cell_in_parquet_names_file_and_row(tmp_path: Path) -> None:
    content = rows()
    content[3]["image"]["bytes"] = None
    write_parquet(tmp_path / "cub.parquet", content)
    with pytest.raises(ValueError, match=r"row 3 .* has no image bytes"):
        ParquetSource("cub", tmp_path / "cub.parquet", CLASSES).read_class(content[3]["label"], 32)


def test_broken_image_in_tree_names_file_and_leaves_no_cache(tmp_path: Path) -> None:
    write_tree(tmp_path / "cub")
    (tmp_path / "cub" / "cow" / "2.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"2\.png is not a readable image"):
        load_dataset("cub", "test", root=tmp_path, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_missing_class_is_named(tmp_path: Path) -> None:
    write_parquet(tmp_path / "cub.parquet", [row for row in rows() if row["label"] != "bee"])
    with pytest.raises(ValueError, match=r"lacks 1 of the 2 train classes of cub: 'bee'"):
        load_dataset("cub", "train", root=tmp_path, cache=tmp_path / "cache")
    write_tree(tmp_path / "mini-imagenet")
    (tmp_path / "mini-imagenet" / "doe").rename(tmp_path / "mini-imagenet" / "deer")
    with pytest.raises(ValueError, match=r"lacks 1 of the 1 test classes of mini-imagenet: 'doe'"):
        load_dataset("mini-imagenet", "train", root=tmp_path, cache=tmp_path / "cache")


def test_class_folder_without_images_or_twice_is_refused(tmp_path: Path) -> None:
    write_tree(tmp_path / "a")
    for file in (tmp_path / "a" / "bee").glob("*.png"):
        file.unlink()
    with pytest.raises(ValueError, match=r"bee holds no image"):
        TreeSource("cub", tmp_path / "a", CLASSES).read_class("bee", 32)
    write_tree(tmp_path / "b", by_split=True)
    (tmp_path / "b" / "test" / "bee").mkdir()
    with pytest.raises(ValueError, match=r"class 'bee' is in .*test.*bee and in .*train.*bee"):
        TreeSource("cub", tmp_path / "b", CLASSES).fingerprint()


def test_split_column_that_contradicts_the_published_split_is_refused(tmp_path: Path) -> None:
    content = rows()
    next(row for row in content if row["label"] == "doe")["split"] = "train"
    write_parquet(tmp_path / "cub.parquet", content)
    with pytest.raises(ValueError, match=r"puts class 'doe' into \['test', 'train'\]"):
        load_dataset("cub", "train", root=tmp_path, cache=tmp_path / "cache")


def test_parquet_without_a_split_column_is_fine_and_without_labels_is_not(tmp_path: Path) -> None:
    content = rows()
    for row in content:
        del row["split"]
    write_parquet(tmp_path / "a.parquet", content)
    assert ParquetSource("cub", tmp_path / "a.parquet", CLASSES).read_class("cow", 8).shape == (6, 3, 8, 8)
    for row in content:
        del row["label"]
    write_parquet(tmp_path / "b.parquet", content)
    with pytest.raises(ValueError, match=r"has columns \['image'\]; expected image .* and label"):
        ParquetSource("cub", tmp_path / "b.parquet", CLASSES).read_class("cow", 8)


def test_truncated_parquet_is_refused_by_name(tmp_path: Path) -> None:
    write_parquet(tmp_path / "cub.parquet", rows())
    data = (tmp_path / "cub.parquet").read_bytes()
    (tmp_path / "cub.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"cub\.parquet is not a readable Parquet file"):
        load_dataset("cub", "train", root=tmp_path, cache=tmp_path / "cache")


def test_damaged_or_partial_cifar_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path, monkeypatch)
    with (tmp_path / "cifar-100-python" / "test").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match="not a whole copy of CIFAR-100"):
        load_dataset("cifar-fs", "train", root=tmp_path, cache=tmp_path / "cache")
    (tmp_path / "cifar-100-python" / "meta").unlink()
    with pytest.raises(ValueError, match="lacks meta"):
        load_dataset("cifar-fs", "train", root=tmp_path, cache=tmp_path / "cache")


@pytest.mark.parametrize("name", ["cifar-fs", "mini-imagenet", "cub"])
def test_missing_data_says_what_to_get_and_where_to_put_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=rf"FREELIB_DATA.*{name}\.parquet.*images are those of"):
        load_dataset(name, "train", cache=tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"{name} is not in .*: put there .*{name}/<class>/<image>"):
        load_dataset(name, "train", root=tmp_path, cache=tmp_path)


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'omniglot'; known are glyphs, cifar-fs, mini-imagenet, cub"):
        load_dataset("omniglot", "train")
    with pytest.raises(ValueError, match="'val'; known are train, validation, test"):
        load_dataset("cub", "val")
    with pytest.raises(ValueError, match="size is 0"):
        load_dataset("cub", "test", size=0)
    with pytest.raises(ValueError, match="download=True is for cifar-fs"):
        load_dataset("cub", "test", download=True)


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

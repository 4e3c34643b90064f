"""What is wrong with a data set is named, before anything is read or cached in its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_sources import CLASSES, rows, write_cifar, write_parquet, write_tree

import freelib.datasets as datasets
from freelib.datasets import MissingDataError, load_dataset
from freelib.datasets.sources import ParquetSource, TreeSource


@pytest.fixture(autouse=True)
def tiny_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "class_lists", lambda name: CLASSES)
    monkeypatch.delenv("FREELIB_DATA", raising=False)


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

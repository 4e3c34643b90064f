"""FewShotDataset: its views, its subsets, its checks; and the real data sets where $FREELIB_DATA is set."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from freelib.datasets import FewShotDataset, load_dataset
from freelib.datasets.few_shot import digest_of


@pytest.fixture
def three() -> FewShotDataset:
    """Three classes of 2, 1 and 3 images; image i is filled with i."""
    images = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 3, 4, 4).clone()
    offsets, names = (0, 2, 3, 6), ("a", "b", "c")
    digest = digest_of(images, names, offsets)
    return FewShotDataset("tiny", "test", images, offsets, names, (0.5,) * 3, (0.25,) * 3, digest)


def test_properties_and_class_images(three: FewShotDataset) -> None:
    assert (three.n_classes, three.image_size, three.channels, three.counts) == (3, 4, 3, (2, 1, 3))
    assert three.class_images(2)[:, 0, 0, 0].tolist() == [3, 4, 5]
    assert three.class_images(2).data_ptr() == three.images[3].data_ptr()
    with pytest.raises(IndexError, match="class 3 of tiny test; expected 0 to 2"):
        three.class_images(3)
    with pytest.raises(IndexError):
        three.class_images(-1)


def test_subset_by_number_and_by_name(three: FewShotDataset) -> None:
    for classes in ([2, 0], ["c", "a"]):
        part = three.subset(classes)
        assert part.class_names == ("c", "a")
        assert part.offsets == (0, 3, 5)
        assert part.images[:, 0, 0, 0].tolist() == [3, 4, 5, 0, 1]
        assert (part.mean, part.std, part.split) == (three.mean, three.std, "test")
        assert part.digest == digest_of(part.images, ("c", "a"), (0, 3, 5)) != three.digest
    assert three.subset([0, 1, 2]).digest == three.digest
    part.images.zero_()
    assert three.images[3:].min() == 3


def test_subset_of_what_is_not_there(three: FewShotDataset) -> None:
    with pytest.raises(KeyError, match="class 'd' is not in tiny test"):
        three.subset(["d"])
    with pytest.raises(IndexError):
        three.subset([3])
    with pytest.raises(ValueError, match="subset of no classes"):
        three.subset([])


def test_digest_sees_bytes_names_and_offsets(three: FewShotDataset) -> None:
    other = three.images.clone()
    other[0, 0, 0, 0] += 1
    digests = {
        three.digest,
        digest_of(other, three.class_names, three.offsets),
        digest_of(three.images, ("a", "b", "d"), three.offsets),
        digest_of(three.images, three.class_names, (0, 1, 3, 6)),
    }
    assert len(digests) == 4
    assert all(len(digest) == 16 for digest in digests)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "val"}, "split is 'val'; expected one of train, validation, test"),
        ({"images": torch.zeros(6, 3, 4, 5, dtype=torch.uint8)}, "not square"),
        ({"offsets": (0, 2, 6)}, "3 offsets for 3 classes"),
        ({"offsets": (0, 2, 3, 5)}, "offsets must rise from 0 to the number of images, 6"),
        ({"offsets": (0, 3, 3, 6)}, "offsets must rise"),
        ({"class_names": ("a", "b", "a")}, "class names repeat"),
        ({"mean": (0.5,)}, "1 means and 3 deviations for 3 channels"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    three: FewShotDataset, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(three, **change)


@pytest.mark.skipif("FREELIB_DATA" not in os.environ, reason="needs the benchmarks in $FREELIB_DATA")
@pytest.mark.parametrize(
    ("name", "size", "counts"),
    [("cifar-fs", 32, (64, 16, 20)), ("mini-imagenet", 84, (64, 16, 20)), ("cub", 84, (100, 50, 50))],
)
def test_real_data(name: str, size: int, counts: tuple[int, int, int]) -> None:
    if not any((Path(os.environ["FREELIB_DATA"]) / place).exists() for place in (f"{name}.parquet", name)):
        pytest.skip(f"{name} is not there")
    for split, count in zip(("train", "validation", "test"), counts, strict=True):
        data = load_dataset(name, split)
        assert (data.n_classes, data.image_size) == (count, size)
        assert digest_of(data.images, data.class_names, data.offsets) == data.digest
        assert min(data.counts) >= 41
        assert all(0.4 < m < 0.52 and 0.2 < s < 0.29 for m, s in zip(data.mean, data.std, strict=True))

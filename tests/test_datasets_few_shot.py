"""FewShotDataset: its views, its subsets, its checks; and the real data sets where $FREELIB_DATA is set."""

import math
import os
from dataclasses import replace
from pathlib import Path

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


def test_properties_and_class_images(three):
    assert (three.n_classes, three.image_size, three.channels, three.counts) == (3, 4, 3, (2, 1, 3))
    assert three.class_images(2)[:, 0, 0, 0].tolist() == [3, 4, 5]
    assert three.class_images(2).data_ptr() == three.images[3].data_ptr()
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


def test_the_digest_sees_bytes_names_and_offsets_and_is_what_it_always_was(three):
    other = three.images.clone()
    other[0, 0, 0, 0] += 1
    digests = {
        three.digest,
        digest_of(other, three.class_names, three.offsets),
        digest_of(three.images, ("a", "b", "d"), three.offsets),
        digest_of(three.images, three.class_names, (0, 1, 3, 6)),
    }
    assert len(digests) == 4
    images = torch.arange(48, dtype=torch.uint8).view(4, 3, 2, 2)
    assert digest_of(images, ("a", "b"), (0, 1, 4)) == "c5ce85dfd7d2ca58"  # records name data sets by it


@pytest.mark.parametrize(
    ("use", "error", "words"),
    [
        (lambda d: d.class_images(3), IndexError, "class 3 of tiny test; expected 0 to 2"),
        (lambda d: d.class_images(-1), IndexError, "class -1"),
        (lambda d: d.subset(["d"]), KeyError, "class 'd' is not in tiny test"),
        (lambda d: d.subset([3]), IndexError, "class 3"),
        (lambda d: d.subset([]), ValueError, "subset of no classes"),
        (lambda d: replace(d, split="val"), ValueError, "split is 'val'; expected one of train"),
        (lambda d: replace(d, images=torch.zeros(6, 3, 4, 5, dtype=torch.uint8)), ValueError, "not square"),
        (lambda d: replace(d, images=torch.zeros(6, 3, 4, 4)), ValueError, "images are torch.float32"),
        (lambda d: replace(d, offsets=(0, 2, 6)), ValueError, "3 offsets for 3 classes"),
        (lambda d: replace(d, offsets=(0, 2, 3, 5)), ValueError, "number of images, 6"),
        (lambda d: replace(d, offsets=(0, 3, 3, 6)), ValueError, "offsets must rise"),
        (lambda d: replace(d, class_names=("a", "b", "a")), ValueError, "class names repeat"),
        (lambda d: replace(d, mean=(0.5,)), ValueError, "1 means and 3 deviations for 3 channels"),
        (lambda d: replace(d, mean=(0.5, 0.5, math.inf)), ValueError, "mean .* and std .* must be finite"),
        (lambda d: replace(d, std=(0.5, 0.5, 0.0)), ValueError, "each std above 0"),
        (lambda d: replace(d, std=(0.5, 0.5, math.nan)), ValueError, "must be finite"),
        (lambda d: replace(d, images=torch.zeros(6, 3, 0, 0, dtype=torch.uint8)), ValueError, r"\(6, 3, 0, 0\); exp"),
        (lambda d: vars(d).update(offsets=(0, 2, 3.5, 6)) or d.__post_init__(), ValueError, "expected whole numbers"),
        (lambda d: vars(d).update(class_names="abc") or d.__post_init__(), ValueError, "'abc'; expected a tuple"),
    ],
)
def test_what_does_not_fit_or_is_not_there(three, use, error, words):
    with pytest.raises(error, match=words):
        use(three)


@pytest.mark.skipif("FREELIB_DATA" not in os.environ, reason="needs the benchmarks in $FREELIB_DATA")
@pytest.mark.parametrize(
    ("name", "size", "counts"),
    [("cifar-fs", 32, (64, 16, 20)), ("mini-imagenet", 84, (64, 16, 20)), ("cub", 84, (100, 50, 50))],
)
def test_real_data(name, size, counts):
    if not any((Path(os.environ["FREELIB_DATA"]) / place).exists() for place in (f"{name}.parquet", name)):
        pytest.skip(f"{name} is not there")
    for split, count in zip(("train", "validation", "test"), counts, strict=True):
        data = load_dataset(name, split)
        assert (data.n_classes, data.image_size) == (count, size)
        assert digest_of(data.images, data.class_names, data.offsets) == data.digest
        assert min(data.counts) >= 41
        assert all(0.4 < m < 0.52 and 0.2 < s < 0.29 for m, s in zip(data.mean, data.std, strict=True))

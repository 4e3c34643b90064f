"""FewShotDataset, its cache on disk, and episodes: the same for every method, in any order."""

import json
import math
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import freelib.datasets.cache as cache_module
from freelib.datasets import FewShotDataset, load_dataset
from freelib.datasets.cache import load_cached
from freelib.datasets.episodes import EpisodeSampler, class_major_labels, images_to_float, images_to_uint8
from freelib.datasets.few_shot import digest_of
from freelib.datasets.sources import Pixels
from freelib.folders import cache_folder


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


CLASSES = {"train": ("ant", "bee"), "validation": ("cow",), "test": ("doe",)}


class CountingSource:
    """Pixels from a formula; counts how often it was asked."""

    def __init__(self, version: int = 1) -> None:
        self.name, self.classes, self.location, self.version, self.reads = "tiny", CLASSES, "here", version, 0

    def fingerprint(self) -> str:
        return f"version {self.version}"

    def read_class(self, class_name: str, size: int) -> Pixels:
        self.reads += 1
        rng = np.random.default_rng([self.version, *class_name.encode()])
        return rng.integers(0, 256, (3 if class_name == "ant" else 2, 3, size, size), dtype=np.uint8)


def one(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def test_what_was_decoded_is_not_decoded_again(tmp_path):
    source = CountingSource()
    first, again = (load_cached(source, "train", 8, tmp_path) for _ in range(2))
    test = load_cached(source, "test", 8, tmp_path)
    assert source.reads == 4
    assert torch.equal(first.images, again.images)
    assert first.offsets == again.offsets == (0, 3, 5)
    assert torch.equal(again.class_images(0), torch.from_numpy(source.read_class("ant", 8)))
    assert again.digest == digest_of(again.images, again.class_names, again.offsets)
    assert torch.equal(test.images, torch.from_numpy(source.read_class("doe", 8)))
    assert load_cached(source, "train", 12, tmp_path).image_size == 12  # sizes live side by side
    again.images.zero_()  # the tensor's own copy
    assert torch.equal(load_cached(source, "train", 8, tmp_path).images, first.images)


def flip_a_bit(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[:7] + bytes([whole[7] ^ 1]) + whole[8:])
    os.utime(file, ns=(1, 1))


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("*.u8", lambda file: os.truncate(file, 100)),
        ("*.u8", Path.unlink),
        ("*.u8", flip_a_bit),
        ("*.json", lambda file: file.write_text(file.read_text()[:200])),
        ("*.json", lambda file: file.write_text(json.dumps({**json.loads(file.read_text()), "format": 0}))),
        ("*.json", lambda file: file.write_text("[]")),
    ],
)
def test_half_written_and_changed_caches_are_rebuilt_once(pattern, damage, tmp_path):
    source = CountingSource()
    before = load_cached(source, "train", 8, tmp_path).images.clone()
    damage(one(tmp_path, pattern))
    for _ in range(2):
        assert torch.equal(load_cached(source, "train", 8, tmp_path).images, before)
        assert source.reads == 8


def test_touched_but_whole_file_is_verified_once_and_kept(tmp_path, monkeypatch):
    source, checks, real = CountingSource(), [], cache_module._digests_hold
    load_cached(source, "train", 8, tmp_path)
    os.utime(one(tmp_path, "*.u8"), ns=(1, 1))
    monkeypatch.setattr(cache_module, "_digests_hold", lambda *args: checks.append(args) or real(*args))
    for _ in range(2):
        load_cached(source, "train", 8, tmp_path)
    assert len(checks) == 1
    assert source.reads == 4


def test_a_changed_source_and_changed_class_lists_are_decoded_again_and_the_old_file_goes(tmp_path, monkeypatch):
    old = load_cached(CountingSource(1), "train", 8, tmp_path).digest
    old_file = one(tmp_path, "*.u8")
    old_name = old_file.rename(old_file.with_name(old_file.name.replace(".", "-", 1)))  # as freelib 0.1 named it
    new = load_cached(CountingSource(2), "train", 8, tmp_path)
    assert new.digest != old
    assert one(tmp_path, "*.u8") not in (old_file, old_name)
    source = CountingSource(2)
    source.classes = {"train": ("ant",), "validation": ("cow",), "test": ("doe",)}
    assert load_cached(source, "train", 8, tmp_path).class_names == ("ant",)
    source = CountingSource()
    monkeypatch.setattr(source, "read_class", lambda name, size: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load_cached(source, "train", 8, tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["locks"]


def test_of_two_at_once_one_decodes(tmp_path, monkeypatch):
    source, read = CountingSource(), CountingSource.read_class
    monkeypatch.setattr(source, "read_class", lambda *which: time.sleep(0.05) or read(source, *which))
    with ThreadPoolExecutor(2) as both:
        first, second = both.map(lambda _: load_cached(source, "train", 8, tmp_path).digest, range(2))
    assert first == second
    assert source.reads == 4


def test_the_cache_is_given_or_from_the_environment_or_the_platforms(tmp_path, monkeypatch):
    monkeypatch.setenv("FREELIB_CACHE", "b")
    assert (cache_folder(), cache_folder("a")) == (Path("b"), Path("a"))
    monkeypatch.delenv("FREELIB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    if sys.platform == "linux":
        assert cache_folder() == tmp_path / "c" / "freelib"


def equal(a, b) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def test_the_same_seed_gives_the_same_episodes_in_any_order(tiny_dataset):
    sampler = EpisodeSampler(tiny_dataset, n_way=3, n_shot=2, n_query=4, seed=5)
    episode, rows = sampler.episode(7), sampler.indices(7)
    assert episode.support.shape == (6, 3, 16, 16)
    assert torch.equal(episode.support, tiny_dataset.images[rows[:, :2].flatten()].float() / 255)
    assert torch.equal(episode.query, tiny_dataset.images[rows[:, 2:].flatten()].float() / 255)
    assert episode.support_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert episode.query_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert {getattr(episode.to("meta"), f.name).device.type for f in fields(episode)} == {"meta"}

    def make(seed):
        return EpisodeSampler(tiny_dataset, n_way=2, n_query=3, seed=seed)

    walked = list(make(1).take(6))
    assert all(equal(make(1).episode(i), walked[i]) for i in (5, 0, 3))
    assert all(equal(a, b) for a, b in zip(make(1).take(2, start=4), walked[4:], strict=True))
    assert not equal(make(2).episode(0), walked[0])
    everything = {tuple(make(seed).indices(i).flatten().tolist()) for seed in range(10) for i in range(50)}
    assert len(everything) == 500
    batch = make(1).batch(4, start=1)
    assert batch.support.shape == (4, 2, 3, 16, 16)
    assert torch.equal(batch.query[2], walked[3].query)
    assert torch.equal(batch.query_labels[0], class_major_labels(2, 3))
    one, five = (EpisodeSampler(tiny_dataset, n_shot=shots, n_query=5) for shots in (1, 5))
    assert torch.equal(one.indices(3)[:, 0], five.indices(3)[:, 0])


def test_rows_are_distinct_images_of_distinct_classes_and_every_one_comes_up(tiny_dataset):
    sampler = EpisodeSampler(tiny_dataset, n_way=5, n_shot=2, n_query=22, seed=0)
    for i in range(20):
        rows = sampler.indices(i)
        classes = rows // 24
        assert (classes == classes[:, :1]).all()
        assert len(classes[:, 0].unique()) == 5
        assert len(rows.unique()) == rows.numel()  # support and query never share an image
    sampler = EpisodeSampler(tiny_dataset, n_way=5, n_shot=1, n_query=3)
    seen = torch.cat([sampler.indices(i).flatten() for i in range(300)])
    assert len(seen.unique()) == len(tiny_dataset.images)
    counts = torch.bincount(seen // 24, minlength=10) / len(seen)
    assert (counts - 0.1).abs().max() < 0.03


@pytest.mark.parametrize(
    ("seed", "i", "rows"),
    [
        (0, 0, [[120, 138, 123], [159, 154, 163]]),
        (0, 1, [[68, 64, 51], [222, 238, 220]]),
        (7, 3, [[130, 127, 138], [220, 233, 239]]),
    ],
)
def test_episodes_are_those_that_were_always_drawn(tiny_dataset, seed, i, rows):
    assert EpisodeSampler(tiny_dataset, n_way=2, n_shot=1, n_query=2, seed=seed).indices(i).tolist() == rows


def test_images_become_float_and_back():
    bytes_ = torch.tensor([[0, 51, 255]], dtype=torch.uint8)
    assert images_to_float(bytes_).tolist() == [[0.0, pytest.approx(0.2), 1.0]]
    assert bytes_.tolist() == [[0, 51, 255]]
    assert torch.equal(images_to_float(torch.tensor([0.25], dtype=torch.float64)), torch.tensor([0.25]))
    images = torch.tensor([-0.1, 0.0, 0.2, 0.4999, 1.0, 1.1])
    kept = images.clone()
    assert images_to_uint8(images).tolist() == [0, 0, 51, 127, 255, 255]
    assert torch.equal(images, kept)
    bytes_ = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(images_to_uint8(images_to_float(bytes_)), bytes_)

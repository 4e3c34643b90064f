import json
import multiprocessing
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import freelib.datasets.cache as cache_module
from freelib.datasets.cache import load_cached
from freelib.datasets.few_shot import digest_of
from freelib.datasets.sources import Pixels
from freelib.folders import cache_folder, make_folders_absolute

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
        load_cached(source, "train", 8, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["locks"]


def _open_and_report(folder, queue):
    source = CountingSource()
    queue.put((load_cached(source, "train", 8, folder).digest, source.reads))


@pytest.mark.slow
def test_of_two_processes_one_decodes(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_open_and_report, args=(tmp_path, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    reports = [queue.get(timeout=300) for _ in workers]
    for worker in workers:
        worker.join()
    assert {digest for digest, _ in reports} == {load_cached(CountingSource(), "train", 8, tmp_path).digest}
    assert sorted(reads for _, reads in reports) == [0, 4]


def test_folders_are_given_or_from_the_environment_or_the_platforms(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FREELIB_DATA", "data")
    monkeypatch.setenv("FREELIB_CACHE", "b")
    make_folders_absolute()  # for processes in other folders
    assert os.environ["FREELIB_DATA"] == str(tmp_path / "data")
    assert cache_folder() == tmp_path / "b"
    assert cache_folder("a") == Path("a")
    monkeypatch.delenv("FREELIB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    make_folders_absolute()
    if sys.platform == "linux":
        assert cache_folder() == tmp_path / "c" / "freelib"

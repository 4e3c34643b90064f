"""The cache of decoded images: kept, checked, rebuilt when damaged or outdated, safe for two writers."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import freelib.datasets.cache as cache_module
from freelib.datasets.cache import cache_folder, load_cached
from freelib.datasets.few_shot import digest_of
from freelib.datasets.sources import Pixels

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


def data_file(folder: Path) -> Path:
    (path,) = folder.glob("*.u8")
    return path


def sidecar(folder: Path) -> Path:
    (path,) = folder.glob("*.json")
    return path


def test_second_opening_decodes_nothing(tmp_path: Path) -> None:
    source = CountingSource()
    first = load_cached(source, "train", 8, tmp_path)
    again = load_cached(source, "train", 8, tmp_path)
    assert source.reads == 4
    assert torch.equal(first.images, again.images)
    assert first.offsets == again.offsets == (0, 3, 5)
    assert torch.equal(again.class_images(0), torch.from_numpy(source.read_class("ant", 8)))
    assert again.digest == digest_of(again.images, again.class_names, again.offsets)


def test_splits_lie_one_after_the_other(tmp_path: Path) -> None:
    source = CountingSource()
    test = load_cached(source, "test", 8, tmp_path)
    assert torch.equal(test.images, torch.from_numpy(source.read_class("doe", 8)))


def test_writing_to_the_tensor_leaves_the_file_alone(tmp_path: Path) -> None:
    source = CountingSource()
    before = load_cached(source, "train", 8, tmp_path).images.clone()
    load_cached(source, "train", 8, tmp_path).images.zero_()
    assert torch.equal(load_cached(source, "train", 8, tmp_path).images, before)


def test_changed_bytes_are_noticed_and_rebuilt(tmp_path: Path) -> None:
    source = CountingSource()
    before = load_cached(source, "validation", 8, tmp_path).images.clone()
    with data_file(tmp_path).open("r+b") as file:
        file.seek(7)
        byte = file.read(1)[0]
        file.seek(7)
        file.write(bytes([byte ^ 1]))
    os.utime(data_file(tmp_path), ns=(1, 1))
    assert torch.equal(load_cached(source, "validation", 8, tmp_path).images, before)
    assert source.reads == 8
    load_cached(source, "validation", 8, tmp_path)
    assert source.reads == 8


@pytest.mark.parametrize("damage", ["shorter data", "no data", "half a sidecar", "other format", "list"])
def test_half_written_caches_are_rebuilt(damage: str, tmp_path: Path) -> None:
    source = CountingSource()
    before = load_cached(source, "train", 8, tmp_path).images.clone()
    if damage == "shorter data":
        os.truncate(data_file(tmp_path), 100)
    elif damage == "no data":
        data_file(tmp_path).unlink()
    elif damage == "half a sidecar":
        sidecar(tmp_path).write_text(sidecar(tmp_path).read_text()[:200])
    elif damage == "other format":
        sidecar(tmp_path).write_text(json.dumps({**json.loads(sidecar(tmp_path).read_text()), "format": 0}))
    else:
        sidecar(tmp_path).write_text("[]")
    after = load_cached(source, "train", 8, tmp_path)
    assert torch.equal(after.images, before)
    assert source.reads == 8


def test_touched_but_whole_file_is_verified_once_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = CountingSource()
    load_cached(source, "train", 8, tmp_path)
    os.utime(data_file(tmp_path), ns=(1, 1))
    checks: list[Path] = []
    real = cache_module._digests_hold
    monkeypatch.setattr(
        cache_module, "_digests_hold", lambda path, meta: checks.append(path) or real(path, meta)
    )
    load_cached(source, "train", 8, tmp_path)
    load_cached(source, "train", 8, tmp_path)
    assert len(checks) == 1
    assert source.reads == 4


def test_changed_source_is_decoded_again_and_the_old_file_goes(tmp_path: Path) -> None:
    old = load_cached(CountingSource(1), "train", 8, tmp_path).digest
    old_file = data_file(tmp_path)
    new = load_cached(CountingSource(2), "train", 8, tmp_path)
    assert new.digest != old
    assert data_file(tmp_path) != old_file


def test_changed_class_lists_are_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_cached(CountingSource(), "train", 8, tmp_path)
    source = CountingSource()
    source.classes = {"train": ("ant",), "validation": ("cow",), "test": ("doe",)}
    assert load_cached(source, "train", 8, tmp_path).class_names == ("ant",)


def test_sizes_live_side_by_side(tmp_path: Path) -> None:
    source = CountingSource()
    assert load_cached(source, "train", 8, tmp_path).image_size == 8
    assert load_cached(source, "train", 12, tmp_path).image_size == 12
    load_cached(source, "train", 8, tmp_path)
    assert source.reads == 8


def test_failure_while_decoding_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = CountingSource()
    monkeypatch.setattr(source, "read_class", lambda name, size: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        load_cached(source, "train", 8, tmp_path)
    assert list(tmp_path.iterdir()) == []


def _open_and_report(folder: Path, queue: multiprocessing.Queue[str]) -> None:
    queue.put(load_cached(CountingSource(), "train", 8, folder).digest)


@pytest.mark.slow
def test_processes_at_once_do_not_harm_each_other(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_open_and_report, args=(tmp_path, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    digests = {queue.get(timeout=300) for _ in workers}
    for worker in workers:
        worker.join()
    source = CountingSource()
    assert digests == {load_cached(source, "train", 8, tmp_path).digest}
    assert source.reads == 0
    assert len(list(tmp_path.iterdir())) == 2


def test_writer_that_finishes_second_keeps_the_first_ones_file(tmp_path: Path) -> None:
    first = load_cached(CountingSource(), "train", 8, tmp_path)
    inode = data_file(tmp_path).stat().st_ino
    sidecar(tmp_path).unlink()  # as if both had started before either was done
    second = load_cached(CountingSource(), "train", 8, tmp_path)
    assert data_file(tmp_path).stat().st_ino == inode
    assert torch.equal(first.images, second.images)


def test_folder_is_given_or_from_the_environment_or_the_platforms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FREELIB_CACHE", str(tmp_path / "b"))
    assert cache_folder(tmp_path / "a") == tmp_path / "a"
    assert cache_folder() == tmp_path / "b"
    monkeypatch.delenv("FREELIB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_folder() == tmp_path / "c" / "freelib"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "d"))
    assert cache_folder() == tmp_path / "d" / "freelib"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder() == Path.home() / "Library" / "Caches" / "freelib"

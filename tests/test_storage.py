"""Files that are whole or not there; weights from strangers."""

import os
import pickle
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch

from freelib.settings import later
from freelib.storage import (
    Checkpoint,
    load_state_file,
    load_tensors,
    plain,
    save_tensors,
    set_aside,
    tensors_digest,
    write_atomically,
)

TENSORS = {"b": torch.arange(6.0).view(2, 3), "a": torch.tensor([1, 2])}


class Bomb:
    """Pickled, it is a call: whoever unpickles it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_files_are_replaced_as_a_whole_and_tensors_have_their_digest(tmp_path):
    file = tmp_path / "deep" / "file.txt"
    before = os.umask(0o022)
    try:
        write_atomically(file, b"old")
        write_atomically(file, b"new")
    finally:
        os.umask(before)
    assert file.read_bytes() == b"new"
    assert list(file.parent.iterdir()) == [file]
    assert file.stat().st_mode & 0o777 == 0o644
    file, weight = tmp_path / "t.safetensors", torch.ones(2)
    digest = save_tensors(file, TENSORS)
    back = load_tensors(file)
    assert set(back) == {"a", "b"}
    assert all(torch.equal(back[name], tensor) for name, tensor in TENSORS.items())
    assert digest == tensors_digest(TENSORS) == tensors_digest(back)
    assert tensors_digest({**TENSORS, "a": torch.tensor([1, 3])}) != digest
    image = torch.rand(1, 3, 4, 4)
    other = image.contiguous(memory_format=torch.channels_last)
    assert tensors_digest({"x": image, "y": image[0]}) == tensors_digest({"y": other[0], "x": other})
    save_tensors(file, {"encoder": weight, "decoder": weight})  # tied weights
    assert torch.equal(load_tensors(file)["decoder"], weight)


FULL = "[enforce fail at inline_container.cc:664] . unexpected pos 4057600 vs 4057492"


@pytest.mark.parametrize(
    ("of", "what", "error", "words"),
    [
        (Path, "replace", OSError("disk is gone"), "disk is gone"),
        (Path, "write_bytes", OSError(28, "No space left on device"), r"file.pt can't be written \(No space left"),
        (Path, "open", PermissionError(30, "Read-only file system"), r"file.pt can't be written \(Read-only"),
        (torch, "save", RuntimeError(FULL), r"file.pt can't be written \(No space left on device\)"),
    ],
)
def test_a_write_that_fails_names_the_file_and_leaves_the_old_one_alone(tmp_path, monkeypatch, of, what, error, words):
    file = tmp_path / "file.pt"
    write_atomically(file, b"old")
    write = partial(Checkpoint(file).save, {}) if of is torch else partial(write_atomically, file, b"new")
    with monkeypatch.context() as patch:
        patch.setattr(of, what, lambda *_, **__: (_ for _ in ()).throw(error))
        with pytest.raises(OSError, match=words):
            write()
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("by_torch", [True, False])
def test_a_file_with_code_in_it_is_refused_and_the_code_not_run(tmp_path, by_torch):
    file, trap = tmp_path / "evil.pt", tmp_path / "trap"
    if by_torch:
        torch.save({"weight": torch.ones(2), "extra": Bomb(trap)}, file)
    else:
        file.write_bytes(pickle.dumps(Bomb(trap), protocol=2))
    with pytest.raises(ValueError, match="more than tensors and was refused"):
        load_state_file(file)
    with pytest.warns(UserWarning, match="damaged"):
        assert Checkpoint(file).load() is None
    assert not trap.exists()
    evil = tmp_path / "evil.pt.damaged"
    torch.load(evil, weights_only=False) if by_torch else pickle.loads(evil.read_bytes())
    assert trap.exists()  # the trap was a real one


@pytest.mark.parametrize(
    ("name", "content", "error", "words"),
    [
        ("none.pt", None, FileNotFoundError, "is missing"),
        ("none.safetensors", None, FileNotFoundError, "is missing"),
        ("cut.safetensors", b"12345678", ValueError, "no whole safetensors file"),
        ("cut.pt", b"PK12345678", ValueError, "damaged"),
        ("weights.h5", b"", ValueError, r"\.safetensors, \.pt, \.pth or \.bin"),
        ("list.pt", [torch.ones(1)], ValueError, "no state dictionary .* but a list"),
        ("mixed.pt", {"weight": torch.ones(1), "epoch": 3}, ValueError, "no state dictionary"),
    ],
)
def test_files_that_hold_no_weights(tmp_path, name, content, error, words):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / name)
    with pytest.raises(error, match=words):
        load_state_file(tmp_path / name)


@pytest.fixture
def checkpoint(tmp_path) -> Checkpoint:
    """A checkpoint in round 1."""
    checkpoint = Checkpoint(tmp_path / "new" / "run.pt")
    assert checkpoint.load() is None
    checkpoint.save({"round": 1, "parts": {"x": TENSORS, "none": None, "names": ["a"]}})
    return checkpoint


def test_a_checkpoint_gives_back_what_was_saved_last_on_the_cpu(checkpoint, monkeypatch):
    asked, load = {}, torch.load
    monkeypatch.setattr(torch, "load", lambda file, **how: asked.update(how) or load(file, **how))
    checkpoint.save({"round": 2, "parts": {"x": TENSORS, "none": None, "names": ["a"]}})
    state = checkpoint.load()
    assert state["round"] == 2
    assert torch.equal(state["parts"]["x"]["b"], TENSORS["b"])
    assert asked["map_location"] == "cpu"
    with pytest.raises((pickle.PicklingError, AttributeError)):
        checkpoint.save({"round": 3, "oops": lambda: None})
    assert checkpoint.load()["round"] == 2
    assert list(checkpoint.file.parent.iterdir()) == [checkpoint.file]
    folder = checkpoint.file.parent
    (folder / ".run.pt.123-abcd").write_bytes(b"half")
    (folder / "other.pt").write_bytes(b"")
    checkpoint.remove()
    assert [file.name for file in folder.iterdir()] == ["other.pt"]
    checkpoint.remove()  # nothing there: fine


def test_a_damaged_checkpoint_is_set_aside_and_counts_as_none(checkpoint, tmp_path, monkeypatch):
    whole = checkpoint.file.read_bytes()
    sizes = whole.index(b"PK\1\2") + 20  # of the first part: packed, unpacked
    grown = whole[:sizes] + b"\xfe\xff\xff\xff" * 2 + whole[sizes + 8 :]
    for number, damaged in enumerate((b"", whole[:10], whole[: len(whole) // 2], b"x" * 100, grown), 1):
        checkpoint.file.write_bytes(damaged)
        with pytest.warns(UserWarning, match=r"run.pt is damaged \(.*\); moved to run.pt.damaged"):
            assert checkpoint.load() is None
        assert not checkpoint.file.exists()
        end = "" if number == 1 else f"-{number}"
        assert checkpoint.file.with_name(f"run.pt.damaged{end}").read_bytes() == damaged
    assert checkpoint.file.with_name("run.pt.damaged").read_bytes() == b""  # the first one is still there
    checkpoint.save({"round": 1})
    error = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4294967295 bytes")
    monkeypatch.setattr(torch, "load", lambda *_, **__: (_ for _ in ()).throw(error))
    with pytest.warns(UserWarning, match=r"run.pt is damaged"):
        assert checkpoint.load() is None
    with pytest.warns(UserWarning, match="gone.json is damaged"):
        set_aside(tmp_path / "gone.json", "the other one has moved it")
    assert not [*tmp_path.glob("gone*")]


@pytest.mark.parametrize(
    ("of", "what", "error"),
    [
        (torch, "load", MemoryError()),
        (torch, "load", torch.cuda.OutOfMemoryError("CUDA out of memory")),
        (torch, "load", RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")),
        (torch, "load", RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")),
        (Path, "read_bytes", PermissionError("not yours")),
    ],
)
def test_a_checkpoint_that_could_not_be_read_is_kept(checkpoint, monkeypatch, of, what, error):
    with monkeypatch.context() as patch:
        patch.setattr(of, what, lambda *_, **__: (_ for _ in ()).throw(error))
        with pytest.raises(type(error)):
            checkpoint.load()
    assert checkpoint.load()["round"] == 1


def test_a_later_field_is_left_out_of_a_digest_while_it_has_its_default():
    @dataclass
    class Config:
        rounds: int = 3
        init: str = later("torch")

    assert plain(Config()) == {"rounds": 3}
    assert plain({"config": Config(init="release")}) == {"config": {"rounds": 3, "init": "release"}}

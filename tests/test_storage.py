"""Files that are whole or not there; weights from strangers."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from freelib.storage import (
    Checkpoint,
    load_state_file,
    load_tensors,
    save_tensors,
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


def test_a_file_is_replaced_as_a_whole(tmp_path):
    file = tmp_path / "deep" / "file.txt"
    write_atomically(file, b"old")
    write_atomically(file, b"new")
    assert file.read_bytes() == b"new"
    assert list(file.parent.iterdir()) == [file]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    file = tmp_path / "file.txt"
    write_atomically(file, b"old")
    monkeypatch.setattr(Path, "replace", lambda self, target: (_ for _ in ()).throw(OSError("disk is gone")))
    with pytest.raises(OSError, match="disk is gone"):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_who_may_read_a_file_is_up_to_the_umask(tmp_path):
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_tensors_come_back_with_their_digest(tmp_path):
    digest = save_tensors(tmp_path / "t.safetensors", TENSORS)
    back = load_tensors(tmp_path / "t.safetensors")
    assert set(back) == {"a", "b"}
    assert all(torch.equal(back[name], tensor) for name, tensor in TENSORS.items())
    assert digest == tensors_digest(TENSORS) == tensors_digest(back)
    assert tensors_digest({**TENSORS, "a": torch.tensor([1, 3])}) != digest


def test_the_digest_does_not_see_order_or_layout():
    image = torch.rand(1, 3, 4, 4)
    other = image.contiguous(memory_format=torch.channels_last)
    assert tensors_digest({"x": image, "y": image[0]}) == tensors_digest({"y": other[0], "x": other})


def test_damaged_and_missing_tensors(tmp_path):
    file = tmp_path / "t.safetensors"
    with pytest.raises(FileNotFoundError, match="is missing"):
        load_tensors(file)
    save_tensors(file, TENSORS)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        load_tensors(file)


def test_tied_weights_can_be_saved(tmp_path):
    weight = torch.ones(2)
    save_tensors(tmp_path / "t.safetensors", {"encoder": weight, "decoder": weight})
    assert torch.equal(load_tensors(tmp_path / "t.safetensors")["decoder"], weight)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth", "nested.pt"])
def test_weights_are_read_from_the_usual_files(tmp_path, name):
    state = nn.Linear(3, 2).state_dict()
    if name.endswith("safetensors"):
        save_tensors(tmp_path / name, state)
    else:
        torch.save({"epoch": 3, "state_dict": state} if name == "nested.pt" else state, tmp_path / name)
    back = load_state_file(str(tmp_path / name))
    assert set(back) == {"weight", "bias"}
    assert torch.equal(back["weight"], state["weight"])


@pytest.mark.parametrize("by_torch", [True, False])
def test_a_file_with_code_in_it_is_refused_and_the_code_not_run(tmp_path, by_torch):
    file, trap = tmp_path / "evil.pt", tmp_path / "trap"
    if by_torch:
        torch.save({"weight": torch.ones(2), "extra": Bomb(trap)}, file)
    else:
        file.write_bytes(pickle.dumps(Bomb(trap), protocol=2))
    with pytest.raises(ValueError, match="more than tensors and was refused"):
        load_state_file(file)
    assert not trap.exists()
    torch.load(file, weights_only=False) if by_torch else pickle.loads(file.read_bytes())
    assert trap.exists()  # the trap was a real one


def test_other_files_are_refused(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    with pytest.raises(ValueError, match=r"no state dictionary .* but a list"):
        load_state_file(tmp_path / "list.pt")
    torch.save({"weight": torch.ones(1), "epoch": 3}, tmp_path / "mixed.pt")
    with pytest.raises(ValueError, match="no state dictionary"):
        load_state_file(tmp_path / "mixed.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "list.pt").read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged"):
        load_state_file(tmp_path / "half.pt")
    with pytest.raises(ValueError, match=r"\.safetensors, \.pt or \.pth"):
        load_state_file(tmp_path / "weights.bin")
    with pytest.raises(FileNotFoundError):
        load_state_file(tmp_path / "none.pt")


def test_a_checkpoint_gives_back_what_was_saved(tmp_path):
    checkpoint = Checkpoint(tmp_path / "new" / "run.pt")
    assert checkpoint.load() is None
    checkpoint.save({"round": 3, "parts": {"x": TENSORS, "none": None, "names": ["a"]}})
    checkpoint.save({"round": 4, "parts": {"x": TENSORS, "none": None, "names": ["a"]}})
    state = checkpoint.load()
    assert state["round"] == 4
    assert torch.equal(state["parts"]["x"]["b"], TENSORS["b"])
    assert list((tmp_path / "new").iterdir()) == [checkpoint.file]


def test_a_save_that_fails_keeps_the_last_state(tmp_path):
    checkpoint = Checkpoint(tmp_path / "run.pt")
    checkpoint.save({"round": 1})
    with pytest.raises((pickle.PicklingError, AttributeError)):
        checkpoint.save({"round": 2, "oops": lambda: None})
    assert checkpoint.load() == {"round": 1}
    assert list(tmp_path.iterdir()) == [checkpoint.file]


def test_a_damaged_checkpoint_is_set_aside_and_counts_as_none(tmp_path):
    checkpoint = Checkpoint(tmp_path / "run.pt")
    checkpoint.save({"round": 1, "x": torch.ones(1000)})
    whole = checkpoint.file.read_bytes()
    for number, damaged in enumerate((b"", whole[:10], whole[: len(whole) // 2], b"x" * 100), 1):
        checkpoint.file.write_bytes(damaged)
        with pytest.warns(UserWarning, match=r"run.pt is damaged \(.*\); moved to run.pt.damaged"):
            assert checkpoint.load() is None
        assert not checkpoint.file.exists()
        end = "" if number == 1 else f"-{number}"
        assert (tmp_path / f"run.pt.damaged{end}").read_bytes() == damaged
    assert (tmp_path / "run.pt.damaged").read_bytes() == b""  # the first one is still there


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        PermissionError("not yours"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_checkpoint_that_could_not_be_read_is_kept(tmp_path, monkeypatch, error):
    checkpoint = Checkpoint(tmp_path / "run.pt")
    checkpoint.save({"round": 1})

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(*((Path, "read_bytes") if isinstance(error, OSError) else (torch, "load")), fail)
        with pytest.raises(type(error)):
            checkpoint.load()
    assert checkpoint.load() == {"round": 1}


def test_a_checkpoint_is_read_where_its_device_is_not(tmp_path, monkeypatch):
    asked, load = {}, torch.load
    monkeypatch.setattr(torch, "load", lambda file, **how: asked.update(how) or load(file, **how))
    checkpoint = Checkpoint(tmp_path / "run.pt")
    checkpoint.save({"x": torch.ones(2)})
    assert checkpoint.load()["x"].device.type == asked["map_location"] == "cpu"


def test_a_checkpoint_runs_no_code(tmp_path):
    torch.save({"round": Bomb(tmp_path / "trap")}, tmp_path / "run.pt")
    with pytest.warns(UserWarning, match="damaged"):
        assert Checkpoint(tmp_path / "run.pt").load() is None
    assert not (tmp_path / "trap").exists()


def test_removing_a_checkpoint_takes_what_a_killed_save_left(tmp_path):
    checkpoint = Checkpoint(tmp_path / "run.pt")
    checkpoint.save({"round": 1})
    (tmp_path / ".run.pt.123-abcd").write_bytes(b"half")
    (tmp_path / "other.pt").write_bytes(b"")
    checkpoint.remove()
    assert [file.name for file in tmp_path.iterdir()] == ["other.pt"]
    checkpoint.remove()  # nothing there: fine

"""A folder of someone's own models becomes a pool, or what is wrong with it is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_models import rng
from torch import nn

from freelib.models.own_models import read_own_models
from freelib.storage import save_tensors


def flat_net(n_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, n_classes))


def conv_net(n_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 36, n_classes))


ARCHITECTURES = {"flat": flat_net, "conv": conv_net}
CARD = {"arch": "flat", "class_names": ["a", "b", "c"], "mean": [0.5] * 3, "std": [0.2] * 3, "image_size": 8}
OTHER = {"arch": "conv", "class_names": ["d", "e"]}


def write(folder: Path, name: str, **changes) -> None:
    card = {key: value for key, value in (CARD | changes).items() if value is not None}
    (folder / f"{name}.json").write_text(json.dumps(card))


@pytest.fixture
def folder(tmp_path):
    """Two models: a state dictionary as torch.save writes it, and safetensors."""
    write(tmp_path, "first", notes=["what freelib does not know of"], seconds="three hours")
    torch.save(flat_net(3).state_dict(), tmp_path / "first.pt")
    write(tmp_path, "second", **OTHER, accuracy=0.75)
    save_tensors(tmp_path / "second.safetensors", conv_net(2).state_dict())
    return tmp_path


def test_a_folder_becomes_a_pool(folder):
    pool = read_own_models(folder, ARCHITECTURES)
    first, second = pool
    assert [model.name for model in pool] == ["first", "second"]
    assert (first.class_names, second.n_way, second.accuracy) == (("a", "b", "c"), 2, 0.75)
    images = torch.rand(4, 3, 8, 8, generator=rng())
    weights = torch.load(folder / "first.pt", weights_only=True)
    expected = ((images - 0.5) / 0.2).flatten(1) @ weights["1.weight"].T + weights["1.bias"]
    torch.testing.assert_close(first(images), expected)
    assert not second.module.training
    assert not any(p.requires_grad for p in second.module.parameters())
    assert second.features(images).shape == (4, 72)


def test_a_class_that_two_models_share_needs_a_domain(folder):
    write(folder, "second", **OTHER | {"class_names": ["c", "d"]})
    with pytest.raises(ValueError, match=r"first and second both have a class 'c'"):
        read_own_models(folder, ARCHITECTURES)
    write(folder, "first", domain="one")
    write(folder, "second", **OTHER | {"class_names": ["c", "d"]}, domain="two")
    assert len(read_own_models(folder, ARCHITECTURES).classes) == 5


def cut(folder: Path, share: float) -> None:
    whole = (folder / "first.pt").read_bytes()
    (folder / "first.pt").write_bytes(whole[: int(share * len(whole))])


def remove(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (lambda f: write(f, "first", arch=["flat"]), ValueError, "first.json: arch must be a name"),
        (lambda f: write(f, "first", arch="vgg"), ValueError, "arch is 'vgg', expected one of flat, conv"),
        (lambda f: write(f, "first", image_size=9), ValueError, "first can't answer images"),
        (lambda f: write(f, "first", class_names=["a", "b"]), ValueError, "not fit the architecture flat"),
        (lambda f: write(f, "first", mean=None), ValueError, "first.json .* lacks mean"),
        (lambda f: write(f, "first", std=[0.2]), ValueError, "first.json: mean and std"),
        (lambda f: write(f, "first", accuracy=75), ValueError, "first.json: accuracy must be"),
        (lambda f: (f / "first.json").write_text("["), ValueError, "first.json is no JSON object"),
        (lambda f: remove(f, "first.json"), ValueError, "first.pt has no first.json beside it"),
        (lambda f: remove(f, "first.pt"), ValueError, "first.json has 0 files of weights"),
        (lambda f: save_tensors(f / "first.safetensors", {}), ValueError, "has 2 files of weights"),
        (lambda f: remove(f, "first.json", "second.json"), FileNotFoundError, "has no model"),
        (lambda f: cut(f, 0.3), ValueError, "first.pt is damaged"),
        (lambda f: cut(f, 0.6), ValueError, "first.pt is damaged"),
        (lambda f: cut(f, 0.9), ValueError, "first.pt is damaged"),
        (lambda f: torch.save({"1.weight": print}, f / "first.pt"), ValueError, "refused"),
    ],
)
def test_what_does_not_fit_is_named(folder, damage, error, words):
    damage(folder)
    with pytest.raises(error, match=words):
        read_own_models(folder, ARCHITECTURES)

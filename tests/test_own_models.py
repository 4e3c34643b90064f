import json

import pytest
import torch
from tiny_models import rng
from torch import nn

from freelib.models.own_models import read_own_models
from freelib.storage import save_tensors


def flat_net(n_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, n_classes))


def conv_net(n_classes):
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 36, n_classes))


class Log(nn.Module):
    def forward(self, x):
        return x.log()


ARCHITECTURES = {"flat": flat_net, "conv": conv_net}
CARD = {"arch": "flat", "class_names": ["a", "b", "c"], "mean": [0.5] * 3, "std": [0.2] * 3, "image_size": 8}


def write(folder, name, card):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(card))


@pytest.fixture
def folder(tmp_path):
    """Two models: a state dictionary as torch.save writes it, and safetensors."""
    write(tmp_path, "first", CARD)
    torch.save(flat_net(3).state_dict(), tmp_path / "first.pt")
    write(tmp_path, "second", CARD | {"arch": "conv", "class_names": ["d", "e"], "accuracy": 0.75})
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


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arch": ["flat"]}, "arch is a name"),
        ({"image_size": 9}, "first can't answer images"),
        ({"arch": "vgg"}, "arch is 'vgg', expected one of flat, conv"),
        ({"class_names": ["a", "b"]}, "does not fit the architecture flat"),
        ({"mean": None}, "lacks mean"),
        ({"class_names": "cat"}, "first.json: class_names is a list of at least two names, no two alike"),
        ({"class_names": ["a", "b", "a"]}, "no two alike"),
        ({"mean": [127.0] * 3}, r"mean is a list of numbers in \[0, 1\]"),
        ({"std": [0.2, 0.0, 0.2]}, "std is a list of numbers above 0"),
        ({"std": [0.2]}, "mean and std have a number for each channel"),
        ({"image_size": "8"}, "image_size is a whole number"),
        ({"accuracy": 75}, r"accuracy is a number in \[0, 1\]"),
    ],
)
def test_what_does_not_fit_is_named(folder, changes, words):
    card = {name: value for name, value in (CARD | changes).items() if value is not None}
    write(folder, "first", card)
    with pytest.raises(ValueError, match=words):
        read_own_models(folder, ARCHITECTURES)


def test_a_class_that_two_models_share_needs_a_domain(folder):
    """Whether two models' "class_0" are one class or two, their names cannot tell."""
    write(folder, "second", CARD | {"arch": "conv", "class_names": ["c", "d"]})
    with pytest.raises(ValueError, match=r"first and second both have a class 'c'"):
        read_own_models(folder, ARCHITECTURES)
    for name, card in (("first", CARD), ("second", CARD | {"arch": "conv", "class_names": ["c", "d"]})):
        write(folder, name, card | {"domain": name})
    assert len(read_own_models(folder, ARCHITECTURES).classes) == 5


def test_answers_are_finite(folder):
    torch.save({"1.weight": torch.zeros(3, 192), "1.bias": torch.full((3,), torch.nan)}, folder / "first.pt")
    with pytest.raises(ValueError, match=r"first: 1.bias is not finite"):
        read_own_models(folder, ARCHITECTURES)
    logs = ARCHITECTURES | {"flat": lambda n: nn.Sequential(*flat_net(n), Log())}
    torch.save({"1.weight": torch.zeros(3, 192), "1.bias": torch.zeros(3)}, folder / "first.pt")
    with pytest.raises(ValueError, match=r"first: the answer to a black image is not finite: \[-inf"):
        read_own_models(folder, logs)


def test_logits_of_another_shape(folder):
    flatter = ARCHITECTURES | {"flat": lambda n: nn.Sequential(*flat_net(n), nn.Unflatten(1, (n, 1)))}
    with pytest.raises(ValueError, match=r"answer of shape \(2, 3, 1\), expected logits \(2, 3\)"):
        read_own_models(folder, flatter)


def test_a_file_that_was_cut_is_named(folder):
    whole = (folder / "first.pt").read_bytes()
    for share in (0.3, 0.6, 0.9):
        (folder / "first.pt").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match=r"first.pt is damaged"):
            read_own_models(folder, ARCHITECTURES)


def test_weights_must_be_there_once_and_be_data(folder):
    (folder / "first.pt").unlink()
    with pytest.raises(ValueError, match=r"first.json has 0 files of weights"):
        read_own_models(folder, ARCHITECTURES)
    torch.save({"1.weight": print}, folder / "first.pt")
    with pytest.raises(ValueError, match="refused"):
        read_own_models(folder, ARCHITECTURES)
    (folder / "first.json").write_text("[")
    with pytest.raises(ValueError, match="no JSON object"):
        read_own_models(folder, ARCHITECTURES)
    (folder / "first.json").unlink()
    with pytest.raises(ValueError, match=r"first.pt has no first.json beside it"):
        read_own_models(folder, ARCHITECTURES)
    with pytest.raises(FileNotFoundError, match="has no model"):
        read_own_models(folder / "none", ARCHITECTURES)

"""Pre-trained models by themselves, on disk, and as a pool."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import OwnNet, flat, own, rng, tiny_model, tiny_pool
from torch import nn

from freelib.models import pretrained
from freelib.models.backbones import build_backbone
from freelib.models.metadata import check_metadata
from freelib.models.pool import ModelPool
from freelib.models.pretrained import save_member
from freelib.storage import load_tensors, save_tensors

NAN, INF = float("nan"), float("inf")
IMAGES = torch.rand(4, 3, 16, 16, generator=rng())


class Vgg(nn.Module):
    """`features` is a layer here, not a method."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.classifier = nn.Conv2d(3, 2, 3), nn.Linear(72, 3)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


def test_a_model_normalises_for_itself_and_its_features_are_its_own():
    model = tiny_model()
    x = (IMAGES - torch.tensor(model.mean).view(3, 1, 1)) / torch.tensor(model.std).view(3, 1, 1)
    torch.testing.assert_close(model(IMAGES), model.module(x))
    assert model.n_way == 5
    assert model.classes[1] == ("tiny", "class 1")
    model = tiny_model()
    assert torch.equal(model.features(IMAGES), model.module.features(model.transform(IMAGES)))
    net = own()
    features, head = net.features(IMAGES), net.module.head
    torch.testing.assert_close(features @ head.weight.T + head.bias, net(IMAGES))
    assert not head._forward_pre_hooks
    assert own(Vgg()).features(IMAGES).shape == (4, 72)
    without = own(nn.Sequential(nn.Conv2d(3, 3, 8), nn.Flatten()))
    assert without(IMAGES).shape == (4, 3)
    with pytest.raises(TypeError, match=r"own has no features\(\) and no linear layer"):
        without.features(IMAGES)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("class_names", "cat"), ("class_names", ["a", "b", "a"]), ("class_names", ["a"]), ("class_names", 5),
        ("class_names", {"a": 1, "b": 2}), ("std", (0.2, 0.0, 0.2)), ("std", (NAN,) * 3), ("std", (INF,) * 3),
        ("std", "0.2"), ("mean", (NAN,) * 3), ("mean", (127,) * 3), ("mean", None), ("mean", [None]),
        ("accuracy", 87.0), ("accuracy", NAN), ("accuracy", "high"), ("image_size", -4), ("image_size", 32.7),
        ("image_size", "32"), ("arch", None), ("domain", 3),
        ("accuracy", 10**400), ("options", [1]), ("interpolation", "hamming"),
    ],
)  # fmt: skip
def test_metadata_that_cannot_be_are_named(name, value):
    about = {"class_names": ["a", "b"], "mean": [0.5], "std": [0.2], "image_size": np.int64(32)}
    check_metadata("own", about | {"std": np.full(1, 0.2, dtype=np.float32)})
    with pytest.raises(ValueError, match=rf"^own: {name} must be .*, got"):
        check_metadata("own", about | {name: value})


def test_metadata_of_numpy_are_kept_as_plain_numbers_and_a_refused_network_is_not_touched():
    half = list(np.full(3, 0.5))
    model = own(mean=half, std=half, accuracy=half[0], class_names=list(np.array(["a", "b", "c"])))
    assert {type(name) for name in model.class_names} == {str}
    assert {type(value) for value in (*model.mean, *model.std, model.accuracy)} == {float}
    module = OwnNet().train()
    for settings in ({"accuracy": 87.0}, {"std": (0.2,)}):
        with pytest.raises(ValueError, match=r"own: (accuracy|mean and std)"):
            own(module, **settings)
    assert module.training
    assert all(p.requires_grad for p in module.parameters())


@pytest.fixture
def stored(tmp_path):
    """A folder of two stored models, and the metadata file of the first."""
    for seed in range(2):
        save_member(tiny_model(seed, accuracy=0.5), tmp_path)
    return tmp_path / "tiny-conv4-0000.json"


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_model_comes_back_with_the_same_bits_and_frozen(stored, tmp_path):
    for seed, model in enumerate(ModelPool.load(stored.parent)):
        original = tiny_model(seed, accuracy=0.5)
        assert model.describe() == original.describe()
        state = original.module.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in model.module.state_dict().items())
        torch.testing.assert_close(model(IMAGES), original(IMAGES))
    description = json.loads(stored.read_text())
    del description["accuracy"], description["weights_digest"]
    stored.write_text(json.dumps(description))
    pool = ModelPool.load(stored.parent)
    assert pool[0].accuracy is None
    assert pool.best() is pool[1]
    trainable = build_backbone("conv4", n_way=3, width=4, image_size=16).train()
    save_member(tiny_model(), tmp_path)
    for model in (own(trainable, image_size=16), ModelPool.load(tmp_path)[0]):
        before = flat(model.module.state_dict().values())
        model(IMAGES.clone().requires_grad_()).sum().backward()
        assert not any(p.requires_grad or p.grad is not None for p in model.module.parameters())
        assert not any(m.training for m in model.module.modules())
        assert torch.equal(flat(model.module.state_dict().values()), before)


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": None}, {"std": [0, 0, 0]}, {"class_names": 5}, {"class_names": [1, 2]}, {"image_size": "32"},
        {"image_size": 0}, {"width": "4"}, {"width": -4}, {"arch": "foo"}, {"arch": ["conv4"]},
        {"domain": None}, {"accuracy": "high"}, {"seconds": "long"}, {"training": []}, {"name": "../other"},
    ],
    ids=str,
)  # fmt: skip
def test_stored_metadata_that_cannot_be_are_named(stored, changes):
    edit(stored, **changes)
    with pytest.raises(ValueError, match=r"tiny-conv4-0000\.json(: | describes)"):
        ModelPool.load(stored.parent)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def swap(file: Path) -> None:
    file.write_bytes((file.parent / "tiny-conv4-0001.safetensors").read_bytes())


def widen(file: Path) -> None:
    digest = save_tensors(file, tiny_model(width=8).module.state_dict())
    edit(file.with_suffix(".json"), weights_digest=digest)


def spoil(file: Path) -> None:
    weights = load_tensors(file)
    weights["encoder.0.conv.weight"][0] = NAN
    edit(file.with_suffix(".json"), weights_digest=save_tensors(file, weights))


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (cut, ValueError, "no whole safetensors file"),
        (swap, ValueError, r"other weights than its \.json describes"),
        (Path.unlink, FileNotFoundError, "is missing"),
        (widen, ValueError, "does not hold the weights of a conv4"),
        (spoil, ValueError, r"0000\.safetensors: encoder\.0\.conv\.weight is not finite"),
    ],
)
def test_damaged_missing_and_foreign_weights_are_named(stored, damage, error, words):
    damage(stored.with_suffix(".safetensors"))
    pool = ModelPool.load(stored.parent)
    with pytest.raises(error, match=words):
        pool[0]
    assert pool[1](IMAGES).shape == (4, 5)


@pytest.fixture
def folder(tmp_path):
    """Three stored models."""
    for i in range(3):
        save_member(tiny_model(i, first_class=i, accuracy=0.5 + 0.1 * (i % 2)), tmp_path / "pool")
    return tmp_path / "pool"


def test_weights_are_read_when_they_are_asked_for_and_few_are_kept(folder, monkeypatch):
    read, real = [], pretrained.load_tensors
    monkeypatch.setattr(pretrained, "load_tensors", lambda file: read.append(file.stem) or real(file))
    monkeypatch.setattr("freelib.models.pool.RESIDENT", 2)
    for pool in (ModelPool.load(folder), ModelPool.load(folder).to("cpu"), ModelPool.load(folder)[:3]):
        assert (len(pool.classes), len(pool.digest), pool.channels, read) == (7, 16, 3, [])
        first, second = pool[0], pool[1]
        assert pool[0] is first
        assert pool[2].name.endswith("2")  # for which the second, not asked for since, makes room
        assert pool[0] is first
        assert pool[1] is not second
        assert read == [f"tiny-conv4-000{i}" for i in (0, 1, 2, 1)]
        read.clear()
    moved = ModelPool.load(folder).to("meta")
    assert moved[0].device.type == moved[:2][1].device.type == "meta"
    assert moved.digest == pool.digest
    assert pool[0].device.type == "cpu"  # read for itself


def test_a_pool_is_a_sequence_that_is_drawn_from_without_repetition(folder):
    models = [tiny_model(i, first_class=i) for i in range(4)]
    pool = ModelPool.from_models(models)
    assert all(ours is model for ours, model in zip(pool, models, strict=True))
    assert pool[-1] is models[3]
    part = pool[1:3]
    assert isinstance(part, ModelPool)
    assert [m.name for m in part] == [models[1].name, models[2].name]
    assert part.classes == tuple(("tiny", f"class {i}") for i in range(1, 7))
    with pytest.raises(IndexError):
        pool[4]
    first, second = ModelPool.load(folder)[:2], tiny_pool(3, domain="other")
    both = ModelPool.joined([first, second])
    assert [model.name for model in both] == [model.name for pool in (first, second) for model in pool]
    assert both[3] is second[1]
    assert both.best() is second[2]
    assert ModelPool.joined([first]) is first
    with pytest.raises(ValueError, match="name of its own"):
        ModelPool.joined([first, first])
    pool = ModelPool.load(folder)
    draws = [pool.sample(2, rng(seed)) for seed in range(10)]
    for seed, (one, other) in enumerate(draws):
        assert not torch.equal(flat(one.module.parameters()), flat(other.module.parameters()))
        assert pool.sample(2, rng(seed)) == [one, other]
    assert len({model for drawn in draws for model in drawn}) == 3
    assert len(set(pool.sample(9, rng()))) == 3


def test_what_a_pool_knows_as_a_whole():  # a class of one name in two domains is two
    assert len(ModelPool.from_models([own(domain="x"), own(name="other", domain="y")]).classes) == 6
    pool = ModelPool.from_models([own(name="a", domain="x"), tiny_model(image_size=16)])
    assert pool.mean == pytest.approx((0.5, 0.45, 0.4))
    assert pool.std == pytest.approx((0.225, 0.2, 0.25))
    assert (pool.image_size, pool.channels) == (16, 3)
    assert pool.classes[-1] == ("x", "c")
    assert len(pool.classes) == 8
    models = [tiny_model(i, accuracy=a) for i, a in enumerate((None, 0.6, 0.8, 0.8))]
    assert ModelPool.from_models(models).best() is models[2]
    assert ModelPool.from_models([own()]).best().name == "own"


def test_a_pool_has_the_digest_that_it_always_had():
    """Records name pools by their digest: it must never change."""
    models = []
    shared = {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.2, 0.3], "image_size": 2}
    for name, first, accuracy in (("a", 0, None), ("b", 2, 0.75)):
        module = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
        with torch.no_grad():
            module[1].weight.copy_(torch.arange(24.0).view(2, 12) - first)
            module[1].bias.fill_(0.5)
        names = [f"class {first}", f"class {first + 1}"]
        models.append(own(module, name=name, class_names=names, accuracy=accuracy, **shared))
    pool = ModelPool.from_models(models)
    assert [d["weights_digest"] for d in pool.descriptions] == ["e841851bbafd2f7e", "e9346cbd79a65413"]
    assert pool.digest == "b1a29642a8bc1157"


def test_the_digest_sees_weights_and_metadata_but_not_where_a_pool_comes_from(folder):
    digests = {ModelPool.from_models([tiny_model(accuracy=a)]).digest for a in (None, 0.5)}
    changed = tiny_model()
    with torch.no_grad():
        changed.module.head.bias[0] += 1e-6
    digests.add(ModelPool.from_models([changed]).digest)
    assert len(digests) == 3
    assert ModelPool.from_models([tiny_model()]).digest in digests
    models = [tiny_model(i, first_class=i, accuracy=0.5 + 0.1 * (i % 2)) for i in range(3)]
    assert ModelPool.load(folder).digest == ModelPool.from_models(models).digest
    pool = ModelPool.from_models([own(arch="conv4"), tiny_model(0)])
    assert [description["own"] for description in pool.descriptions] == [True, False]
    before = pool.digest
    for description in pool.descriptions:
        del description["own"]
    assert pool.digest == before

    class Noting(nn.Linear):
        def get_extra_state(self):
            return {"made": "here"}

        def set_extra_state(self, state):
            pass

    assert len(ModelPool.from_models([own(nn.Sequential(nn.Flatten(), Noting(192, 3)))]).digest) == 16

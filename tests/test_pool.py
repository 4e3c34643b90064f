"""Models and pools: what is stored, what is read, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from tiny_models import flat, numeric_gradient, rng, tiny_model, tiny_pool
from torch import nn

from freelib.models.backbones import build_backbone
from freelib.models.pool import ModelPool, PretrainedModel, save_member
from freelib.storage import save_tensors

IMAGES = torch.rand(4, 3, 16, 16, generator=rng())


@pytest.fixture
def folder(tmp_path):
    """Three stored models."""
    for i in range(3):
        save_member(tiny_model(i, first_class=i, accuracy=0.5 + 0.1 * (i % 2)), tmp_path / "pool")
    return tmp_path / "pool"


def custom(**settings) -> PretrainedModel:
    """A classifier of someone else's making, with two linear layers."""
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 6), nn.ReLU(), nn.Linear(6, 3)]
    return model_of(nn.Sequential(*layers), **settings)


def model_of(module: nn.Module, **settings) -> PretrainedModel:
    shared = {"class_names": ["a", "b", "c"], "mean": (0.5,) * 3, "std": (0.2,) * 3, "image_size": 8}
    return PretrainedModel(module, **{**shared, **settings})


def test_a_model_normalises_and_resizes_for_itself():
    model = tiny_model()
    x = (IMAGES - torch.tensor(model.mean).view(3, 1, 1)) / torch.tensor(model.std).view(3, 1, 1)
    torch.testing.assert_close(model(IMAGES), model.module(x))
    big = F.interpolate(IMAGES, (32, 32))
    small = F.interpolate(big, (16, 16), mode="bilinear", antialias=True)
    torch.testing.assert_close(model(big), model(small))
    assert model.n_way == 5
    assert model.classes[1] == ("tiny", "class 1")


def test_logits_are_differentiable_by_the_images():
    model = tiny_model()
    model.module.double()
    x = IMAGES[:1].double().requires_grad_()
    model(x)[0, 2].backward()
    numeric = numeric_gradient(lambda: model(x)[0, 2], x.data[0, 0, 3])
    torch.testing.assert_close(x.grad[0, 0, 3], numeric, atol=1e-6, rtol=1e-4)


def test_the_weights_are_frozen_and_the_module_in_eval_mode(folder):
    trainable = build_backbone("conv4", width=4, image_size=16).train()
    given = PretrainedModel(
        trainable, class_names=["a", "b", "c", "d", "e"], mean=(0.0,) * 3, std=(1.0,) * 3, image_size=16
    )
    for model in (given, ModelPool.load(folder)[0]):
        before = flat(model.module.state_dict().values())
        model(IMAGES.clone().requires_grad_()).sum().backward()
        assert not any(p.requires_grad or p.grad is not None for p in model.module.parameters())
        assert not any(m.training for m in model.module.modules())
        assert torch.equal(flat(model.module.state_dict().values()), before)


def test_any_torch_classifier_can_be_a_member():
    model = custom()
    features = model.features(IMAGES)
    assert features.shape == (4, 6)
    last = model.module[-1]
    torch.testing.assert_close(features @ last.weight.T + last.bias, model(IMAGES))
    assert not last._forward_pre_hooks
    pool = ModelPool.from_models([model])
    assert pool[0] is model
    assert pool.image_size == 8


def test_features_come_from_the_modules_own_method_where_it_has_one():
    model = tiny_model()
    assert torch.equal(model.features(IMAGES), model.module.features(model.transform(IMAGES)))


def test_a_features_submodule_is_not_a_method():
    class Vgg(nn.Module):
        def __init__(self):
            super().__init__()
            self.features, self.classifier = nn.Conv2d(3, 2, 3), nn.Linear(72, 3)

        def forward(self, x):
            return self.classifier(self.features(x).flatten(1))

    assert model_of(Vgg()).features(IMAGES).shape == (4, 72)


def test_without_a_linear_layer_there_are_no_features():
    model = model_of(nn.Sequential(nn.Conv2d(3, 3, 8), nn.Flatten()), name="convolutional")
    assert model(IMAGES).shape == (4, 3)
    with pytest.raises(TypeError, match=r"convolutional has no features\(\) and no linear layer"):
        model.features(IMAGES)


def test_models_come_back_with_the_same_bits(folder):
    pool = ModelPool.load(folder)
    assert len(pool) == 3
    for i, model in enumerate(pool):
        original = tiny_model(i, first_class=i, accuracy=0.5 + 0.1 * (i % 2))
        assert model.describe() == original.describe()
        state = original.module.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in model.module.state_dict().items())
        torch.testing.assert_close(model(IMAGES), original(IMAGES))


def test_a_stored_pool_is_the_pool_in_memory(folder):
    in_memory = ModelPool.from_models(
        tiny_model(i, first_class=i, accuracy=0.5 + 0.1 * (i % 2)) for i in range(3)
    )
    assert ModelPool.load(folder).digest == in_memory.digest


def test_weights_are_read_when_they_are_asked_for_and_once(folder, monkeypatch):
    from freelib.models import pool as module

    read = []
    real = module.load_tensors
    monkeypatch.setattr(module, "load_tensors", lambda file: read.append(file.stem) or real(file))
    pool = ModelPool.load(folder)
    assert pool.classes
    assert pool.digest
    assert pool.mean
    assert read == []
    assert pool[1] is pool[1]
    assert read == ["tiny-conv4-0001"]


def test_a_pool_moves_its_models_as_they_are_asked_for(folder):
    pool = ModelPool.load(folder)
    moved = pool.to("meta")
    assert moved[0].device.type == moved[:2][1].device.type == "meta"
    assert pool[0].device.type == "cpu"  # read for itself
    assert moved.digest == pool.digest


def test_a_pool_is_a_sequence():
    pool = tiny_pool(4)
    assert [m.name for m in pool] == [pool[i].name for i in range(4)]
    assert pool[-1].name == pool[3].name
    part = pool[1:3]
    assert isinstance(part, ModelPool)
    assert [m.name for m in part] == [pool[1].name, pool[2].name]
    assert part.classes == tuple(("tiny", f"class {i}") for i in range(1, 7))
    with pytest.raises(IndexError):
        pool[4]


def test_models_drawn_in_one_round_are_different_objects_with_different_weights(folder):
    pool = ModelPool.load(folder)
    names = set()
    for seed in range(10):
        drawn = pool.sample(2, rng(seed))
        assert drawn[0] is not drawn[1]
        assert not torch.equal(flat(drawn[0].module.parameters()), flat(drawn[1].module.parameters()))
        names |= {model.name for model in drawn}
    assert len(names) == 3
    assert [m.name for m in pool.sample(2, rng(1))] == [m.name for m in pool.sample(2, rng(1))]
    assert len({m.name for m in pool.sample(9, rng())}) == 3


def test_the_best_is_the_first_with_the_highest_accuracy():
    models = [tiny_model(i, accuracy=a) for i, a in enumerate((None, 0.6, 0.8, 0.8))]
    assert ModelPool.from_models(models).best() is models[2]
    assert ModelPool.from_models([custom()]).best().name == "model"


def test_what_a_pool_knows_as_a_whole():
    a, b = custom(name="a", domain="x"), tiny_model(image_size=16)
    pool = ModelPool.from_models([a, b])
    assert pool.mean == pytest.approx((0.5, 0.45, 0.4))
    assert pool.std == pytest.approx((0.225, 0.2, 0.25))
    assert (pool.image_size, pool.channels) == (16, 3)
    assert pool.classes[-1] == ("x", "c")
    assert len(pool.classes) == 8


def test_the_digest_sees_weights_and_metadata():
    digests = {ModelPool.from_models([tiny_model(accuracy=a)]).digest for a in (None, 0.5)}
    changed = tiny_model()
    with torch.no_grad():
        changed.module.head.bias[0] += 1e-6
    digests.add(ModelPool.from_models([changed]).digest)
    assert len(digests) == 3
    assert ModelPool.from_models([tiny_model()]).digest in digests


def test_an_empty_pool_and_shared_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one model, got none"):
        ModelPool.from_models([])
    with pytest.raises(ValueError, match="a name of its own"):
        ModelPool.from_models([tiny_model(), tiny_model()])
    with pytest.raises(FileNotFoundError, match="No pool in"):
        ModelPool.load(tmp_path)


def test_a_custom_module_cannot_be_stored(tmp_path):
    with pytest.raises(ValueError, match="model is a custom module; a pool on disk holds only conv4"):
        save_member(custom(), tmp_path)


def test_memory_holds_few_of_a_folders_models_also_of_a_part_of_them(folder, monkeypatch):
    monkeypatch.setattr("freelib.models.pool.RESIDENT", 2)
    for pool in (ModelPool.load(folder), ModelPool.load(folder).to("cpu"), ModelPool.load(folder)[:3]):
        first, second = pool[0], pool[1]
        assert pool[0] is first
        assert pool[2].name.endswith("2")  # for which the second, not asked for since, makes room
        assert pool[0] is first
        assert pool[1] is not second


@pytest.mark.parametrize("damage", [b"{", b"\xff\xfe\x00", b"3", b'{"name": "x"}', b""])
def test_damaged_metadata_is_named(folder, damage):
    (folder / "tiny-conv4-0001.json").write_bytes(damage)
    with pytest.raises(ValueError, match=r"tiny-conv4-0001\.json (is damaged|does not describe a model)"):
        ModelPool.load(folder)


def test_a_description_cannot_point_elsewhere(folder):
    file = folder / "tiny-conv4-0001.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "name": "../elsewhere"}))
    with pytest.raises(ValueError, match="file and model must share a name"):
        ModelPool.load(folder)


def test_damaged_missing_and_foreign_weights_are_named(folder):
    weights = folder / "tiny-conv4-0001.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        ModelPool.load(folder)[1]
    weights.write_bytes((folder / "tiny-conv4-0002.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"other weights than its \.json describes"):
        ModelPool.load(folder)[1]
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="is missing"):
        ModelPool.load(folder)[1]
    assert ModelPool.load(folder)[0](IMAGES).shape == (4, 5)  # the others are as they were


def test_weights_of_another_shape_are_named(folder):
    file = folder / "tiny-conv4-0001.json"
    state = tiny_model(width=8).module.state_dict()
    digest = save_tensors(file.with_suffix(".safetensors"), state)
    file.write_text(json.dumps({**json.loads(file.read_text()), "weights_digest": digest}))
    with pytest.raises(ValueError, match="does not hold the weights of a conv4"):
        ModelPool.load(folder)[1]


def test_a_description_may_leave_out_what_is_not_known(folder):
    file = folder / "tiny-conv4-0001.json"
    description = json.loads(file.read_text())
    del description["accuracy"], description["weights_digest"]
    file.write_text(json.dumps(description))
    pool = ModelPool.load(folder)
    assert pool[1].accuracy is None
    assert pool.best().name != pool[1].name


def test_joined_pools_keep_their_members_and_refuse_shared_names(folder):
    first, second = ModelPool.load(folder)[:2], tiny_pool(3, domain="other")
    both = ModelPool.joined([first, second])
    assert [model.name for model in both] == [model.name for pool in (first, second) for model in pool]
    assert both[3] is second[1]
    assert both.best() is second[2]
    assert ModelPool.joined([first]) is first
    with pytest.raises(ValueError, match="name of its own"):
        ModelPool.joined([first, first])


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": None}, {"std": [0, 0, 0]}, {"class_names": 5}, {"class_names": [1, 2]},
        {"image_size": "32"}, {"image_size": 0}, {"width": "4"}, {"width": -4}, {"arch": "foo"},
        {"arch": ["conv4"]}, {"domain": None}, {"accuracy": "high"}, {"seconds": "long"}, {"training": []},
    ],
    ids=str,
)  # fmt: skip
def test_metadata_of_another_kind_is_named(folder, changes):
    file = folder / "tiny-conv4-0001.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(ValueError, match=r"tiny-conv4-0001\.json: "):
        ModelPool.load(folder)

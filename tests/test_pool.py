import pytest
import torch
from tiny_models import flat, own, rng, tiny_model, tiny_pool
from torch import nn

from freelib.models import pretrained
from freelib.models.backbones import build_backbone
from freelib.models.pool import ModelPool
from freelib.models.pretrained import save_member


@pytest.fixture
def folder(tmp_path):
    """Three stored models."""
    for i in range(3):
        save_member(tiny_model(i, first_class=i, accuracy=0.5 + 0.1 * (i % 2)), tmp_path / "pool")
    return tmp_path / "pool"


def linear(n: int = 3, channels: int = 3) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * 8 * 8, n))


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


def test_a_pool_is_a_sequence(folder):
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


def test_models_are_drawn_without_repetition_by_the_generator_alone(folder):
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


def infinite() -> nn.Module:
    module = linear()
    with torch.no_grad():
        module[1].weight[0, 0] = torch.inf
    return module


class Inverse(nn.Module):
    def forward(self, x):
        return 1 / (0 * x)


GRAY = {"mean": (0.5,), "std": (0.2,), "name": "gray", "domain": "g"}
CONV4 = build_backbone("conv4", n_way=7, width=4, image_size=16)


@pytest.mark.parametrize(
    ("models", "words"),
    [
        (lambda: [], "at least one model, got none"),
        (lambda: [tiny_model(), tiny_model()], "a name of its own"),
        (lambda: [own(), own(name="other")], "own and other both have a class 'a'. Give each a domain"),
        (lambda: [own(), own(linear(3, 1), **GRAY)], "not gray of 1 and own of 3"),
        (lambda: [own(infinite())], r"own: 1\.weight is not finite"),
        (lambda: [own(infinite(), arch="conv4")], r"own: 1\.weight is not finite"),
        (lambda: [own(nn.Sequential(linear(), nn.Unflatten(1, (3, 1))))], r"give \(2, 3, 1\), expected"),
        (lambda: [own(CONV4, arch="conv4", image_size=16)], r"give \(2, 7\), expected logits \(2, 3\)"),
        (lambda: [own(linear(channels=1))], "own can't answer images"),
        (lambda: [own(nn.Sequential(linear(), Inverse()))], "the logits of a black image are not finite"),
    ],
)
def test_models_that_make_no_pool(models, words):
    with pytest.raises(ValueError, match=words):
        ModelPool.from_models(models())

from types import SimpleNamespace

import pytest
import torch
from tiny_models import rng

from freelib.models.pool import ModelPool
from freelib.models.pretraining import PoolConfig, pretrain_model
from studies import untrusted_pools as study

CONFIG = PoolConfig(n_models=2, width=4, epochs=2, batch_size=24)


def trained(data):
    """A good pool of two, made anew: an overflowing member is a good one changed in place."""
    models = [pretrain_model(data, CONFIG, seed=0, index=i) for i in range(2)]
    models[1].accuracy = 0.75
    return ModelPool([model.describe() for model in models], lambda about: models[int(about["name"][-1])])


def test_shuffled_labels_first_images_and_noise(tiny_dataset):
    found = study.shuffled(tiny_dataset, rng())
    assert found.offsets == tiny_dataset.offsets
    pictures = [sorted(map(bytes, data.images.flatten(1).numpy())) for data in (found, tiny_dataset)]
    assert pictures[0] == pictures[1]
    stayed = (found.images == tiny_dataset.images).flatten(1).all(1).float().mean()
    assert stayed < 0.05
    found = study.first_of_each(tiny_dataset, 3)
    assert found.offsets == tuple(range(0, 31, 3))
    assert torch.equal(found.class_images(4), tiny_dataset.class_images(4)[:3])
    found = study.coloured_noise(tiny_dataset, 7, rng())
    assert found.class_names == tiny_dataset.class_names
    assert (found.images.dtype, tuple(found.images.shape)) == (torch.uint8, (70, 3, 16, 16))
    means = found.images.float().mean((2, 3)).view(10, 7, 3)
    assert means.std(1).mean() < 5  # of images of one class, 76 / 16 at most
    assert means.mean(1).std(0).min() > 20


@pytest.mark.parametrize("kind", [*study.KINDS, study.OVERFLOW])
def test_bad_members(kind, tiny_dataset):
    made, again, other = (
        study.bad_member(kind, 1, tiny_dataset, CONFIG, trained(tiny_dataset), seed=seed) for seed in (0, 0, 1)
    )
    assert made.name == f"{kind.replace(' ', '-')}-0001"
    assert made.accuracy == (1.0 if kind == "false accuracy" else 0.75)
    assert all(torch.equal(a, b) for a, b in zip(made.tensors().values(), again.tensors().values(), strict=True))
    images = torch.rand(4, 3, 16, 16, generator=rng())
    with torch.no_grad():
        assert bool(made(images).isfinite().all()) == (kind != study.OVERFLOW)
    if kind != study.OVERFLOW:
        assert set(made.class_names) < set(tiny_dataset.class_names)
        assert not torch.equal(made.module.head.weight, other.module.head.weight)


def test_the_last_members_are_the_bad_ones():
    run = SimpleNamespace(profile=SimpleNamespace(pool={"n_models": 4}), unit=SimpleNamespace(dataset="glyphs"))
    good = [f"glyphs-conv4-000{i}" for i in range(4)]
    assert study.members(run, "other data", 0) == good
    assert study.members(run, "other data", 2) == [*good[:2], "other-data-0002", "other-data-0003"]

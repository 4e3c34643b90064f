"""Unlabelled images: read from anywhere, learnt from by two methods, and by no other."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from PIL import Image
from small_methods import small
from tiny_models import own, rng, tiny_pool, weights

from freelib import FewShotDataset, ModelPool, get_method, meta_train
from freelib.datasets.unlabelled import images_of, unlabelled_images
from freelib.methods import METHODS
from freelib.methods.ldfml import confidence_and_balance, soft_labels
from freelib.run import get_profile, grid, run_units
from freelib.run.budget import chosen_sizes
from freelib.storage import Checkpoint


def noise(n, size=16):
    return torch.randint(0, 256, (n, 3, size, size), generator=rng(1), dtype=torch.uint8)


def test_images_come_from_a_folder_a_data_set_or_a_tensor(tmp_path):
    (tmp_path / "deep").mkdir()
    for i, folder in enumerate((tmp_path, tmp_path / "deep")):
        Image.new("RGB", (20, 30), (40 * i, 80, 120)).save(folder / f"{i}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    found = unlabelled_images(tmp_path, size=16)
    assert found.shape == (2, 3, 16, 16)
    assert sorted(found[:, 0, 0, 0].tolist()) == [0, 40]
    images = noise(6)
    dataset = FewShotDataset(
        name="own", split="train", images=images, offsets=(0, 3, 6), class_names=("a", "b"), mean=(0.5,) * 3,
        std=(0.2,) * 3, digest="d",
    )  # fmt: skip
    order = unlabelled_images(dataset, size=16, seed=4)
    assert torch.equal(order.flatten(1).sum(1).sort().values, images.flatten(1).sum(1).sort().values)
    assert torch.equal(unlabelled_images(images / 255, size=16, seed=4), order)
    assert torch.equal(unlabelled_images(images, size=16, n=2, seed=4), order[:2])
    assert unlabelled_images(images, size=8).shape == (6, 3, 8, 8)


@pytest.mark.parametrize(("place", "n", "word"), [(noise(3), 4, "4"), (noise(0), 0, "0"), ("no-such", 0, "no-such")])
def test_images_that_are_not_there_are_refused(place, n, word):
    with pytest.raises(ValueError, match=word):
        unlabelled_images(place, size=16, n=n)


@pytest.mark.parametrize("name", METHODS)
def test_a_data_free_method_refuses_images_and_is_given_none(name):
    method, images = get_method(name), noise(4)
    if method.images == "none":
        with pytest.raises(ValueError, match="takes no images"):
            method.meta_train(tiny_pool(2), small(name), seed=0, images=images)
    assert images_of(small(name), size=16) == {}


@pytest.mark.parametrize("name", ["pool_distillation", "ldfml"])
def test_images_of_another_size_are_refused(name):
    with pytest.raises(ValueError, match="Unlabelled images are uint8"):
        get_method(name).meta_train(tiny_pool(2), small(name), seed=0, images=noise(40, size=8))


def test_pool_distillation_learns_from_images_alone_and_from_each_of_them():
    own = {"recovered": 0, "procedural": 0, "mixed": 0}
    trained = [
        weights(
            get_method("pool_distillation").meta_train(
                tiny_pool(2), small("pool_distillation", **own), seed=0, images=i
            )
        )
        for i in (noise(20), noise(20), noise(24))
    ]
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])


def test_soft_labels_are_the_models_probabilities():
    model, images = tiny_pool(1)[0], noise(5)
    expected = model(images.float() / 255).softmax(1)
    assert torch.allclose(soft_labels(model, images), expected, atol=1e-5)
    assert confidence_and_balance(torch.eye(4)) == pytest.approx((1, 1))
    assert confidence_and_balance(torch.full((8, 4), 0.25)) == pytest.approx((0, 1), abs=1e-6)
    assert confidence_and_balance(torch.eye(2)[[0, 0, 0, 0]]) == pytest.approx((1, 0))


def test_ldfml_learns_what_the_models_say(tmp_path):
    """A bright image is of one class, a dark one of the other: after training, new ones are told apart."""
    images = torch.cat([noise(60) // 4, 255 - noise(60) // 4])
    quick = {"n_way": 2, "rounds": 12, "round_batches": 2, "inner_steps": 1, "inner_lr": 0.1, "lr": 0.02, "width": 8}

    class Brightness(torch.nn.Module):
        def forward(self, x):
            return torch.stack([x.mean((1, 2, 3)), -x.mean((1, 2, 3))], 1) * 20

    pool = ModelPool.from_models([own(Brightness(), class_names=("bright", "dark"), image_size=16)])
    train = partial(get_method("ldfml").meta_train, pool, replace(small("ldfml"), **quick), seed=0)
    checkpoint = Checkpoint(tmp_path / "run.pt")
    learner = train(images=images, checkpoint=checkpoint)
    with pytest.raises(ValueError, match="of a run with another config"):
        train(images=images[1:], checkpoint=checkpoint)
    assert learner.log.history["accuracy"][-1] > 0.9
    with pytest.raises(ValueError, match="3-way"):
        get_method("ldfml").meta_train(pool, replace(small("ldfml"), n_way=3), seed=0, images=images)


def test_minutes_take_the_images_that_are_given():
    rates = dict.fromkeys(("recovery", "images", "answers", "distillation"), 1e-3) | {"warmup": 1.0}
    sizes = chosen_sizes(rates, 60.0, given=500)
    assert (sizes["n_unlabelled"], sizes["recovered"]) == (500, 0)
    assert meta_train(tiny_pool(2), minutes=0.02, width=4, images=noise(30)).config.n_unlabelled == 30


def test_records_with_other_images_stand_beside_each_other(tmp_path, monkeypatch):
    """Their data differ, and none is taken for the other, or for one of another machine's data."""
    monkeypatch.setenv("FREELIB_CACHE", str(tmp_path / "cache"))
    profile = replace(get_profile("smoke", "unlabelled"), pool={"n_models": 2, "epochs": 0, "width": 4}, n_episodes=2)
    quick = {"recovered": 0, "procedural": 16, "mixed": 0, "batch_size": 16, "epochs": 1, "width": 4}
    units = grid("unlabelled", ["pool_distillation"], ["glyphs"], [1], [0], **quick)
    for n in (16, 32):
        more = {"unlabelled": "glyphs", "n_unlabelled": n}
        units += grid("unlabelled", ["pool_distillation"], ["glyphs"], [1], [0], **quick, **more)
        records = run_units(units, profile, tmp_path / "results", workers=1)
    assert len({record["data_digest"] for record in records}) == 3
    assert [record["config"].get("n_unlabelled", 0) for record in records] == [0, 16, 32]

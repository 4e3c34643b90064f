"""What is bad in a pool is found without data; what is good stays."""

import copy
import json

import pytest
import torch
from tiny_models import own
from torch import nn

from freelib.methods import screening
from freelib.models.pool import ModelPool
from freelib.models.pretrained import save_member
from freelib.models.pretraining import PoolConfig, pretrain_pool

CONFIG = PoolConfig(n_models=6, n_way=5, width=16, epochs=20, batch_size=24)


@pytest.fixture(scope="module")
def folder(tiny_dataset, tmp_path_factory):
    """A pool of six good members on disk."""
    folder = tmp_path_factory.mktemp("pool")
    pretrain_pool(tiny_dataset, CONFIG, folder)
    return folder


def unchecked(models):
    """A pool of models that are not tried before."""
    return ModelPool([model.describe() for model in models], lambda about: {m.name: m for m in models}[about["name"]])


def changed(folder, change):
    """The pool with its last member changed in place."""
    models = list(ModelPool.load(folder))
    with torch.no_grad():
        change(models[-1].module)
    return unchecked(models)


def no_gradients(module):
    forward = module.forward
    module.forward = lambda images: forward(images).detach()


def forget(layer):
    if hasattr(layer, "reset_parameters"):
        layer.reset_parameters()


def test_good_members_are_kept_and_measured(folder):
    rows = screening.check_pool(ModelPool.load(folder))
    assert [row["verdict"] for row in rows] == ["keep"] * 6
    assert all(tuple(row) == screening.COLUMNS and None not in row.values() for row in rows)
    assert {(row["classes"], row["statistics"], row["gradients"]) for row in rows} == {(5, True, True)}
    assert all(row["distance"] < screening.most(6) and row["teacher_accuracy"] > 0.5 for row in rows)
    first = ModelPool.load(folder)[0].module
    assert rows[0]["parameters"] == sum(p.numel() for p in first.parameters())
    rows = screening.check_pool(changed(folder, no_gradients))
    assert [row["gradients"] for row in rows] == [True] * 5 + [False]
    assert rows[5]["teacher_accuracy"] is None


def test_bad_members_are_dropped_and_the_reason_said(folder):
    models = list(ModelPool.load(folder)) * 2
    models = [copy.deepcopy(model) for model in models[:11]]  # the first six are good
    for i, model in enumerate(models[6:], start=6):
        model.name = f"bad-{i}"
    with torch.no_grad():
        for parameter in models[6].module.parameters():
            parameter.mul_(1e15)
        models[7].module.head.weight.fill_(torch.nan)
        models[8].module.head.weight.zero_()
        models[9].module.apply(forget)
        models[10].module.head.weight.mul_(1)
    found = [row["verdict"] for row in screening.check_pool(unchecked(models))]
    assert found[:6] == ["keep"] * 6
    reasons = ("not finite", "not finite", "the same logits", "does not recognise", f"a copy of {models[4].name}")
    assert all(reason in verdict for reason, verdict in zip(reasons, found[6:], strict=True)), found


def test_gray_foreign_and_few_members_are_checked_for_themselves():
    about = {"mean": [0.5], "std": [0.25], "image_size": 9}
    models = [own(nn.Sequential(nn.Flatten(), nn.Linear(81, 3)), name=name, domain=name, **about) for name in "ab"]
    rows = screening.check_pool(ModelPool.from_models(models))
    assert [row["verdict"] for row in rows] == ["keep"] * 2
    assert {(row["statistics"], row["distance"]) for row in rows} == {(False, None)}


def test_weights_and_what_noise_does_are_measured():
    layer = nn.Linear(192, 3)
    nn.init.constant_(layer.weight, 2)
    layer.weight.data[0] = torch.linspace(-1, 1, 192)
    model = own(nn.Sequential(nn.Flatten(), layer))  # its features are its images
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    row, _, _ = screening.facts(model, images)
    assert row["weight_norm"] == pytest.approx(float(layer.weight.square().sum()) / 3)
    noise = 0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    seen, noisy = (x.flatten(1) - x.flatten(1).mean(0) for x in (images, (images + noise).clamp(0, 1)))
    cosines = (seen * noisy).sum(1) / seen.norm(dim=1) / noisy.norm(dim=1)
    assert row["noise_response"] == pytest.approx(1 - float(cosines.mean()), rel=1e-4)


def test_distances_find_the_four_of_ten_that_are_elsewhere():
    rng = torch.Generator().manual_seed(0)
    own = 0.2 * torch.randn(10, 2, generator=rng)
    own[6:] += 3
    pairs = torch.full((3, 10, 10), torch.nan)
    found = screening.distances(own, pairs)
    assert (found[:6] < screening.most(10)).all()
    assert (found[6:] > 100).all()
    assert torch.allclose(screening.distances(own.flip(0), pairs).flip(0), found)


def test_the_command_line_checks_stores_and_trains_on_what_is_kept(run, tiny_world, folder, tmp_path):
    names = sorted(file.stem for file in folder.glob("*.json"))
    assert run("pool", "check", folder).code == 0
    for model in changed(folder, lambda module: module.apply(forget)):
        save_member(model, tmp_path / "bad")
    (tmp_path / "bad" / "damaged.json").write_text("{")
    checked = run("pool", "check", tmp_path / "bad", "--json", "--out", tmp_path / "good")
    assert checked.code == 1
    rows = json.loads(checked.out)
    assert [row["name"] for row in rows if row["verdict"] != "keep"] == [names[5], "damaged"]
    assert [model.name for model in ModelPool.load(tmp_path / "good")] == names[:5]
    assert run("pool", "check", tmp_path / "bad", "--out", tmp_path / "good").code == 2
    (tmp_path / "bad" / "damaged.json").unlink()
    words = ("--pool", tmp_path / "bad", "--screen", "--out", tmp_path / "learner")
    assert run("train", "pool_features", *words).code == 0
    assert len(ModelPool.load(tmp_path / "learner" / "pool")) == 5
    assert run("pool", "check", tmp_path / "nowhere").code == 2

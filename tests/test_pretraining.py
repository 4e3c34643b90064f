"""Pre-training the pool: resumable, the same bits from any number of workers, held-out images kept out."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import TINY_POOL, flat, rng, trained_pool

from freelib.datasets.episodes import images_to_float
from freelib.models import pretraining
from freelib.models.backbones import build_backbone
from freelib.models.pool import ModelPool, PretrainedModel
from freelib.models.pretraining import (
    PoolConfig,
    accuracy_on,
    pretrain_model,
    pretrain_pool,
    pretraining_seconds,
    split_classes,
    train_classifier,
)

QUICK = replace(TINY_POOL, n_models=3, epochs=1, archs=("conv4", "resnet10"), width=8)


@pytest.fixture(scope="module")
def stored(tiny_dataset, tmp_path_factory):
    """A pool of three models by two workers, and what its progress said."""
    folder, calls = tmp_path_factory.mktemp("pool"), []
    pool = pretrain_pool(
        tiny_dataset, QUICK, folder, seed=3, workers=2, progress=lambda *done: calls.append(done)
    )
    return folder, pool, calls


def bytes_of(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def lasting(files: dict[str, bytes]) -> dict[str, Any]:
    """A pool's files without the time that their making took."""
    told = {name: json.loads(data) for name, data in files.items() if name.endswith(".json")}
    return files | {
        name: {key: value for key, value in description.items() if key != "seconds"}
        for name, description in told.items()
    }


def test_a_pool_is_stored_and_opened(stored, tiny_dataset):
    folder, pool, calls = stored
    names = ["tiny-conv4-0000", "tiny-resnet10-0001", "tiny-conv4-0002"]
    assert [model.name for model in pool] == names
    assert sorted(bytes_of(folder)) == sorted(f"{n}.{end}" for n in names for end in ("json", "safetensors"))
    assert calls == [(0, 3), (1, 3), (2, 3), (3, 3)]
    model = pool[1]
    assert (model.arch, model.domain, model.image_size, model.n_way) == ("resnet10", "tiny", 16, 5)
    assert set(model.class_names) <= set(tiny_dataset.class_names)
    assert model.mean == tiny_dataset.mean
    times = [description["seconds"] for description in pool.descriptions]
    assert min(times) > 0
    assert pretraining_seconds(pool) == pytest.approx(sum(times))
    untimed = [{key: v for key, v in d.items() if key != "seconds"} for d in pool.descriptions]
    older = ModelPool(untimed, pool._read)
    assert pretraining_seconds(older) is None
    assert older.digest == pool.digest


def test_a_killed_run_goes_on_with_the_same_bits_by_another_number_of_workers(stored, tiny_dataset, tmp_path):
    whole = bytes_of(stored[0])
    for name, data in whole.items():
        # Two members are lost, one of them killed between its weights and its description.
        if "resnet10" not in name and name != "tiny-conv4-0002.json":
            (tmp_path / name).write_bytes(data)
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    calls = []
    pretrain_pool(tiny_dataset, QUICK, tmp_path, seed=3, progress=lambda *done: calls.append(done))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert lasting(bytes_of(tmp_path)) == lasting(whole)
    after = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert {n for n in before if before[n] != after[n]} == {"tiny-conv4-0002.safetensors"}


@pytest.mark.parametrize(
    ("change", "seed", "sentence"),
    [
        ({"epochs": 2}, 3, r"trained with epochs=1; epochs=2 was asked for"),
        ({"archs": ("conv4",)}, 3, r"archs=\['conv4', 'resnet10'\]; archs=\['conv4'\] was"),
        ({}, 4, "trained with seed=3; seed=4 was asked for"),
    ],
)
def test_a_folder_of_other_models_is_refused_and_left_as_it_is(
    stored, tiny_dataset, monkeypatch, change, seed, sentence
):
    before, calls = bytes_of(stored[0]), []
    monkeypatch.setattr(pretraining, "ProcessPoolExecutor", None)
    config = replace(QUICK, **{"n_models": 5, **change})
    with pytest.raises(ValueError, match=sentence):
        pretrain_pool(tiny_dataset, config, stored[0], seed=seed, progress=lambda *done: calls.append(done))
    assert not calls
    assert bytes_of(stored[0]) == before


def test_what_was_stored_without_its_settings_is_taken_as_it_is(stored, tiny_dataset, tmp_path, monkeypatch):
    for name, data in bytes_of(stored[0]).items():
        if name.endswith(".json"):
            description = json.loads(data)
            assert description.pop("training")["epochs"] == 1
            data = json.dumps(description).encode()
        (tmp_path / name).write_bytes(data)
    monkeypatch.setattr(pretraining, "ProcessPoolExecutor", None)
    pool = pretrain_pool(tiny_dataset, replace(QUICK, epochs=2, device="cuda"), tmp_path, seed=3)
    assert pool.digest == stored[1].digest


def test_a_whole_pool_needs_no_process(stored, tiny_dataset, monkeypatch):
    monkeypatch.setattr(pretraining, "ProcessPoolExecutor", None)
    pool = pretrain_pool(tiny_dataset, QUICK, stored[0], seed=3)
    assert pool.digest == stored[1].digest


def test_an_error_in_a_worker_comes_out_and_ends_the_rest(tiny_dataset, tmp_path, monkeypatch):
    begun = []

    def fails(config, folder, seed, index):
        begun.append(index)
        time.sleep(0.05)
        raise OSError("disk is full")

    def threads(workers, context, *initialiser):
        return ThreadPoolExecutor(workers, "", *initialiser)

    monkeypatch.setattr(pretraining, "ProcessPoolExecutor", threads)
    monkeypatch.setattr(pretraining, "_pretrain_and_save", fails)
    with pytest.raises(OSError, match="disk is full"):
        pretrain_pool(tiny_dataset, replace(QUICK, n_models=50), tmp_path)
    assert len(begun) < 25


def test_a_member_depends_on_the_seed_and_its_index_alone(stored, tiny_dataset):
    member = pretrain_model(tiny_dataset, replace(QUICK, n_models=99), seed=3, index=2)
    assert torch.equal(flat(member.module.parameters()), flat(stored[1][2].module.parameters()))
    assert member.accuracy == stored[1][2].accuracy
    others = [pretrain_model(tiny_dataset, QUICK, seed=s, index=i) for s, i in ((3, 0), (4, 2))]
    assert all(not torch.equal(flat(o.module.parameters()), flat(member.module.parameters())) for o in others)


def test_models_learn_their_classes(tiny_dataset):
    pool = trained_pool(tiny_dataset)
    assert all(model.accuracy > 0.6 for model in pool)  # chance: 0.2
    assert len(set(pool.classes)) == 10
    model = pool[0]
    numbers = [tiny_dataset.class_names.index(name) for name in model.class_names]
    images = torch.cat([tiny_dataset.class_images(c) for c in numbers])
    labels = torch.arange(5).repeat_interleave(24)
    assert accuracy_on(model, images, labels) > 0.6
    untrained = replace(TINY_POOL, epochs=0)
    assert pretrain_model(tiny_dataset, untrained, seed=0, index=0).accuracy < 0.5


def test_classes_are_divided_without_overlap(tiny_dataset):
    images, labels, held_images, held_labels = split_classes(tiny_dataset, [7, 2], 0.2, rng())
    assert labels.tolist() == [0] * 19 + [1] * 19  # 24 images: 5 are held out
    assert held_labels.tolist() == [0] * 5 + [1] * 5
    for label, c in enumerate((7, 2)):
        both = torch.cat([images[labels == label], held_images[held_labels == label]])
        rows = {image.numpy().tobytes() for image in both}
        assert rows == {image.numpy().tobytes() for image in tiny_dataset.class_images(c)}
    assert len(split_classes(tiny_dataset, [0], 0.999, rng())[0]) == 1
    assert len(split_classes(tiny_dataset, [0], 0.001, rng())[2]) == 1


def test_held_out_images_are_never_trained_on(tiny_dataset, monkeypatch):
    trained_on = []

    def spy(model, images, labels, config, draw):
        trained_on.append(images)

    measured = []
    real = accuracy_on
    monkeypatch.setattr(pretraining, "train_classifier", spy)
    monkeypatch.setattr(pretraining, "accuracy_on", lambda *args: measured.append(args[1]) or real(*args))
    pretrain_model(tiny_dataset, QUICK, seed=0, index=0)
    trained, held = ({image.numpy().tobytes() for image in part[0]} for part in (trained_on, measured))
    assert (len(trained), len(held)) == (95, 25)
    assert not trained & held


def classifier(arch: str) -> PretrainedModel:
    module = build_backbone(arch, n_way=2, width=8, image_size=16)
    return PretrainedModel(
        module, class_names=["a", "b"], mean=(0.5,) * 3, std=(0.2,) * 3, image_size=16, arch=arch
    )


def test_training_is_descent_on_the_cross_entropy_of_even_batches(tiny_dataset):
    images, labels, _, _ = split_classes(tiny_dataset, [0, 1], 0.2, rng())
    ours, by_hand = classifier("resnet10"), classifier("resnet10")
    train_classifier(ours, images, labels, PoolConfig(epochs=2, batch_size=15), rng(1))
    module, draw = by_hand.module.train().requires_grad_(True), rng(1)
    sgd = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    for _ in range(2):
        for rows in torch.randperm(38, generator=draw).split([13, 13, 12]):
            x = (images_to_float(images[rows]) - 0.5) / 0.2
            sgd.zero_grad()
            torch.nn.functional.cross_entropy(module(x), labels[rows]).backward()
            sgd.step()
    for name, value in module.eval().state_dict().items():
        torch.testing.assert_close(ours.module.state_dict()[name], value, atol=1e-4, rtol=1e-3)
    assert not any(p.requires_grad for p in ours.module.parameters())
    assert not ours.module.training


def test_a_conv4_is_trained_by_adam(tiny_dataset):
    images, labels, _, _ = split_classes(tiny_dataset, [0, 1], 0.2, rng())
    model = classifier("conv4")
    before = model.module.head.weight.clone()
    train_classifier(model, images, labels, PoolConfig(epochs=1, batch_size=64, learning_rate=0.03), rng())
    step = (model.module.head.weight - before).abs()  # Adam's first step is the rate, whatever the gradient
    torch.testing.assert_close(step, torch.full_like(step, 0.03), rtol=1e-3, atol=0)


@pytest.mark.parametrize("change", [{"augment": True}, {"precision": "bfloat16"}, {"learning_rate": 0.001}])
def test_settings_have_an_effect(tiny_dataset, change):
    config = replace(QUICK, archs=("conv4",))
    plain, other = (
        pretrain_model(tiny_dataset, c, seed=0, index=0) for c in (config, replace(config, **change))
    )
    assert not torch.equal(flat(plain.module.parameters()), flat(other.module.parameters()))
    assert plain.class_names == other.class_names
    assert next(other.module.parameters()).dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_models": 0}, "n_models must be at least 1, got 0"),
        ({"n_way": 1}, "n_way must be at least 2, got 1"),
        ({"holdout": 1.0}, "holdout is a share between 0 and 1, got 1.0"),
        ({"archs": ()}, r"archs are some of conv4, .*got \[\]"),
        ({"archs": ("conv4", "foo")}, "archs are some of conv4"),
        ({"width": -4}, "width must be at least 1, got -4"),
        ({"precision": "float16"}, "precision is one of float32, bfloat16, got 'float16'"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        PoolConfig(**settings)


def test_too_few_classes_are_told_at_once(tiny_dataset, tmp_path):
    with pytest.raises(ValueError, match="tiny has 10 training classes, too few for 11-way"):
        pretrain_pool(tiny_dataset, PoolConfig(n_way=11), tmp_path)

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from subprocess import Popen
from typing import Any

import msgspec
import pytest
import torch
from processes import start_python
from tiny_models import TINY_POOL, flat, own, rng, trained_pool

from freelib import ModelPool, PretrainedModel
from freelib.datasets.episodes import images_to_float
from freelib.models import pretraining
from freelib.models.backbones import build_backbone
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
NAMES = ["tiny-conv4-0000", "tiny-resnet10-0001", "tiny-conv4-0002"]


@pytest.fixture(scope="module")
def stored(tiny_dataset, tmp_path_factory):
    """A pool of three models by two workers, and what its progress said."""
    folder, calls = tmp_path_factory.mktemp("pool"), []
    pool = pretrain_pool(tiny_dataset, QUICK, folder, seed=3, workers=2, progress=lambda *done: calls.append(done))
    return folder, pool, calls


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix != ".lock"}


def lasting(files: dict[str, bytes]) -> dict[str, Any]:
    """A pool's files without the time that their making took."""
    cards = {name: json.loads(data) for name, data in files.items() if name.endswith(".json")}
    return files | {name: {**card, "seconds": None} for name, card in cards.items()}


def test_a_pool_is_stored_and_opened(stored, tiny_dataset):
    folder, pool, calls = stored
    assert [model.name for model in pool] == NAMES
    assert sorted(files_of(folder)) == sorted(f"{n}.{end}" for n in NAMES for end in ("json", "safetensors"))
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
    whole = files_of(stored[0])
    for name, data in whole.items():
        # Two members are lost, one of them killed between its weights and its description.
        if "resnet10" not in name and name != "tiny-conv4-0002.json":
            (tmp_path / name).write_bytes(data)
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    calls, threads = [], torch.get_num_threads()
    pretrain_pool(tiny_dataset, QUICK, tmp_path, seed=3, progress=lambda *done: calls.append(done))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert torch.get_num_threads() == threads
    assert lasting(files_of(tmp_path)) == lasting(whole)
    after = {name: (tmp_path / name).stat().st_mtime_ns for name in before}
    assert {n for n in before if before[n] != after[n]} == {"tiny-conv4-0002.safetensors"}


SCRIPT = """
import sys, torch
from freelib.datasets import FewShotDataset
from freelib.models.pretraining import pretrain_pool
def main():
    fields, config = torch.load(sys.argv[1], weights_only=False)
    torch.set_num_threads(2)
    pretrain_pool(FewShotDataset(**fields), config, sys.argv[2], seed=3, workers=int(sys.argv[3]))
    assert torch.get_num_threads() == 2
"""
PLAIN, GUARDED = SCRIPT + "main()", SCRIPT + "if __name__ == '__main__': main()"


@pytest.fixture
def script(tiny_dataset, tmp_path):
    """Starts a script that pre-trains into `tmp_path / "pool"`."""

    def start(text: str, config: PoolConfig, workers: int) -> Popen:
        job, file = tmp_path / "job.pt", tmp_path / "script.py"
        torch.save((vars(tiny_dataset), config), job)
        file.write_text(text)
        return start_python(file, job, tmp_path / "pool", workers)

    return start


def test_a_plain_script_trains_in_its_own_process_and_several_want_a_guard(script, stored, tmp_path):
    _, errors = (process := script(PLAIN, QUICK, 2)).communicate(timeout=100)
    assert process.returncode == 1
    assert 'behind if __name__ == "__main__":, or pre-train with workers=1' in errors
    _, errors = (process := script(PLAIN, QUICK, 1)).communicate(timeout=100)
    assert process.returncode == 0, errors
    assert lasting(files_of(tmp_path / "pool")) == lasting(files_of(stored[0]))


def test_processes_do_not_outlive_a_killed_parent(script, tmp_path):
    process = script(GUARDED, replace(QUICK, n_models=50, epochs=50), 2)
    while process.poll() is None and not any((tmp_path / "pool").glob("*.json")):
        time.sleep(0.1)
    process.kill()
    process.communicate(timeout=30)  # ends when the last of them has closed its standard output
    assert 0 < len(list((tmp_path / "pool").glob("*.json"))) < 25


class Deadly(PoolConfig):
    """Ends the process that it is sent to."""

    def __reduce__(self):
        return os._exit, (9,)


def test_an_error_in_a_process_comes_out_and_ends_the_rest(tiny_dataset, tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match="A process that pre-trained models of tiny died"):
        pretrain_pool(tiny_dataset, Deadly(**vars(QUICK)), tmp_path, workers=2)
    begun = []

    def fails(dataset, index, **_):
        begun.append(index)
        time.sleep(0.05)
        raise OSError("disk is full")

    monkeypatch.setattr(pretraining, "ProcessPoolExecutor", lambda n, *_: ThreadPoolExecutor(n))
    monkeypatch.setattr(pretraining, "_child_dataset", tiny_dataset, raising=False)
    monkeypatch.setattr(pretraining, "_pretrain_and_save", fails)
    with pytest.raises(OSError, match="disk is full"):
        pretrain_pool(tiny_dataset, replace(QUICK, n_models=50), tmp_path, workers=2)
    assert len(begun) < 25


@pytest.mark.parametrize(
    ("change", "seed", "words"),
    [
        ({"epochs": 2}, 3, r"trained with epochs=1; epochs=2 was asked for"),
        ({"archs": ("conv4",)}, 3, r"archs=\['conv4', 'resnet10'\]; archs=\['conv4'\] was"),
        ({}, 4, "trained with seed=3; seed=4 was asked for"),
        ({"n_way": 11}, 3, "tiny has 10 training classes, too few for 11-way"),
    ],
)
def test_a_folder_of_other_models_is_refused_and_left_as_it_is(stored, tiny_dataset, change, seed, words):
    before, calls = files_of(stored[0]), []
    config = replace(QUICK, **{"n_models": 5, **change})
    with pytest.raises(ValueError, match=words):
        pretrain_pool(tiny_dataset, config, stored[0], seed=seed, progress=lambda *done: calls.append(done))
    assert not calls
    assert files_of(stored[0]) == before


def test_what_is_there_is_not_trained_again_and_older_pools_do_not_say_how_it_was(
    stored, tiny_dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr(pretraining, "pretrain_model", None)
    assert pretrain_pool(tiny_dataset, QUICK, stored[0], seed=3).digest == stored[1].digest
    for name, data in files_of(stored[0]).items():
        if name.endswith(".json"):
            description = json.loads(data)
            assert description.pop("training")["epochs"] == 1
            data = json.dumps(description).encode()
        (tmp_path / name).write_bytes(data)
    pool = pretrain_pool(tiny_dataset, replace(QUICK, epochs=2, device="cuda"), tmp_path, seed=3)
    assert pool.digest == stored[1].digest


@pytest.mark.parametrize(("seed", "index", "classes"), [(0, 0, (5, 6, 1, 2, 0)), (3, 1, (7, 0, 3, 9, 5)), (3, 2, None)])
def test_a_member_depends_on_the_seed_and_its_index_alone(stored, tiny_dataset, seed, index, classes):
    config = replace(QUICK, n_models=99, epochs=0 if classes else 1)
    member = pretrain_model(tiny_dataset, config, seed=seed, index=index)
    if classes:  # those that were always drawn: records depend on them
        assert member.class_names == tuple(f"blob {c}" for c in classes)
    else:
        assert torch.equal(flat(member.module.parameters()), flat(stored[1][2].module.parameters()))
        assert member.accuracy == stored[1][2].accuracy


def test_models_learn_their_classes(tiny_dataset):
    pool = trained_pool(tiny_dataset)
    assert all(model.accuracy > 0.6 for model in pool)  # chance: 0.2
    assert len(set(pool.classes)) == 10
    images = tiny_dataset.subset(pool[0].class_names).images
    assert accuracy_on(pool[0], images, torch.arange(5).repeat_interleave(24)) > 0.6
    untrained = replace(TINY_POOL, epochs=0)
    assert pretrain_model(tiny_dataset, untrained, seed=0, index=0).accuracy < 0.5


def rows(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_classes_are_split_without_overlap_and_held_out_images_never_trained_on(tiny_dataset, monkeypatch):
    images, labels, held_images, held_labels = split_classes(tiny_dataset, [7, 2], 0.2, rng())
    assert labels.tolist() == [0] * 19 + [1] * 19  # 24 images: 5 are held out
    assert held_labels.tolist() == [0] * 5 + [1] * 5
    for label, c in enumerate((7, 2)):
        both = torch.cat([images[labels == label], held_images[held_labels == label]])
        assert rows(both) == rows(tiny_dataset.class_images(c))
    assert len(split_classes(tiny_dataset, [0], 0.999, rng())[0]) == 1
    assert len(split_classes(tiny_dataset, [0], 0.001, rng())[2]) == 1
    used = []
    monkeypatch.setattr(pretraining, "train_classifier", lambda model, images, *_: used.append(rows(images)))
    monkeypatch.setattr(pretraining, "accuracy_on", lambda model, images, _: used.append(rows(images)) or 0.0)
    pretrain_model(tiny_dataset, QUICK, seed=0, index=0)
    assert list(map(len, used)) == [95, 25]
    assert not used[0] & used[1]


def classifier(arch: str) -> PretrainedModel:
    module = build_backbone(arch, n_way=2, width=8, image_size=16)
    return own(module, class_names=["a", "b"], image_size=16, arch=arch)


def test_training_is_descent_on_the_cross_entropy_of_even_batches(tiny_dataset):
    images = torch.randint(256, (38, 3, 16, 16), generator=rng(), dtype=torch.uint8)
    labels = torch.arange(2).repeat_interleave(19)
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
        torch.testing.assert_close(ours.module.state_dict()[name], value, atol=1e-5, rtol=1e-4)
    assert not any(p.requires_grad for p in ours.module.parameters())
    assert not ours.module.training
    images, labels, _, _ = split_classes(tiny_dataset, [0, 1], 0.2, rng())
    model = classifier("conv4")
    before = model.module.head.weight.clone()
    train_classifier(model, images, labels, PoolConfig(epochs=1, batch_size=64, learning_rate=0.03), rng())
    step = (model.module.head.weight - before).abs()  # Adam's first step is the rate, whatever the gradient
    torch.testing.assert_close(step, torch.full_like(step, 0.03), rtol=1e-3, atol=0)


@pytest.mark.parametrize("change", [{"augment": True}, {"precision": "bfloat16"}, {"learning_rate": 0.001}])
def test_settings_have_an_effect(tiny_dataset, change):
    configs = QUICK, replace(QUICK, **change)
    plain, other = (pretrain_model(tiny_dataset, config, seed=0, index=0) for config in configs)
    assert not torch.equal(flat(plain.module.parameters()), flat(other.module.parameters()))
    assert plain.class_names == other.class_names
    assert next(other.module.parameters()).dtype == torch.float32


def test_a_pool_is_known_again_whether_its_settings_were_named_or_defaults(tiny_dataset, tmp_path):
    named = msgspec.convert({"n_models": 1, "n_way": 3, "epochs": 0, "width": 4}, PoolConfig)
    pretrain_pool(tiny_dataset, named, tmp_path)
    pretrain_pool(tiny_dataset, PoolConfig(n_models=1, n_way=3, epochs=0, width=4), tmp_path)
    with pytest.raises(ValueError, match="init=torch; init=release"):
        pretrain_pool(tiny_dataset, PoolConfig(n_models=1, n_way=3, epochs=0, width=4, init="release"), tmp_path)

import pytest
import torch
from fake_methods import TINY
from tiny_models import rng, tiny_pool
from torch import nn

from freelib import get_method, load_learner, save_learner
from freelib.methods.base import build_student
from freelib.run.pools import pretrain_into
from freelib.run.units import make_config
from freelib.storage import load_tensors

SMALL_DISTILLATION = {
    "recovered": 0, "procedural": 40, "mixed": 0, "epochs": 1, "batch_size": 16, "embedding": 8, "width": 4,
}  # fmt: skip
SMALL_PURER = {
    "rounds": 1, "meta_batch": 1, "episodes": 1, "width": 4, "monitor_every": 0, "icfil_inversion_steps": 2,
    "inner_lr": 0.1,
}  # fmt: skip


def saved(folder, method, **fields):
    """A learner of a method on the tiny pool, and the folder that it was saved in."""
    pool, pool_folder = pretrain_into("cifar-fs", TINY, 0)
    config = make_config(method, fields)
    learner = get_method(method).meta_train(pool, config, seed=3)
    save_learner(learner, folder, method=method, config=config, seed=3, pool=pool, pool_folder=pool_folder)
    return learner


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("fake_methods:Drifting", {"width": 4, "head": "anil", "test_steps": 3}),
        ("pool_features", {"centre": "none"}),
        ("pool_distillation", SMALL_DISTILLATION),
        ("purer", SMALL_PURER),
    ],
)
def test_a_learner_comes_back_and_predicts_the_same(tiny_world, tmp_path, method, fields):
    learner = saved(tmp_path, method, **fields)
    images = torch.rand(10, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(5)
    expected = learner.adapt(images[:5], labels).logits(images[5:])
    again = load_learner(tmp_path, allow_custom=True)
    assert torch.equal(again.adapt(images[:5], labels).logits(images[5:]), expected)


def test_of_a_network_of_ones_own_the_weights_are_kept_and_that_is_said(tiny_world, tmp_path):
    pool, pool_folder = pretrain_into("cifar-fs", TINY, 0)
    config = make_config("fake_methods:Drifting", {})
    learner = build_student(pool, config, seed=0)
    learner.backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    about = {"method": "mine:Own", "config": config, "seed": 3, "pool": pool, "pool_folder": pool_folder}
    save_learner(learner, tmp_path, **about)
    assert torch.equal(load_tensors(tmp_path / "learner.safetensors")["1.bias"], learner.backbone[1].bias)
    with pytest.raises(TypeError, match="a student that only mine:Own can build"):
        load_learner(tmp_path)


def test_a_pool_that_changed_is_noticed_and_one_of_ones_own_is_given(tiny_world, tmp_path):
    saved(tmp_path, "best_teacher")
    file = tmp_path / "learner.json"
    file.write_text(file.read_text().replace('"pool_digest": "', '"pool_digest": "x'))
    with pytest.raises(ValueError, match="is not the one that"):
        load_learner(tmp_path)
    pool = tiny_pool()
    method, config = get_method("pool_features"), make_config("pool_features", {})
    learner = method.meta_train(pool, config, seed=0)
    save_learner(learner, tmp_path, method="pool_features", config=config, seed=0, pool=pool)
    with pytest.raises(ValueError, match="give load_learner that pool"):
        load_learner(tmp_path)
    with pytest.raises(ValueError, match="is not the one that"):
        load_learner(tmp_path, pool=pool[:2])
    images = torch.rand(5, 3, 16, 16, generator=rng())
    again = load_learner(tmp_path, pool=pool)
    assert torch.equal(again.embed(images), learner.embed(images))


def test_a_config_of_another_method_is_refused_before_anything_is_written(tiny_world, tmp_path):
    learner = saved(tmp_path / "a", "random", width=8)
    with pytest.raises(ValueError, match="PurerConfig is no config of random"):
        save_learner(
            learner, tmp_path / "b", method="random", config=make_config("purer", {}), seed=0, pool=tiny_pool()
        )
    assert not (tmp_path / "b").exists()


def test_a_method_that_a_file_names_is_imported_where_that_is_asked_for(tiny_world, tmp_path, monkeypatch):
    saved(tmp_path, "fake_methods:Drifting", width=8)
    file = tmp_path / "learner.json"
    (tmp_path / "strange.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    file.write_text(file.read_text().replace("fake_methods:Drifting", "strange:Method"))
    with pytest.raises(SystemExit, match="imported"):
        load_learner(tmp_path, allow_custom=True)

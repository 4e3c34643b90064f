"""Weights in results/models: how they are stored, found by name, and that those committed load."""

import importlib.util
from pathlib import Path

import pytest
import torch
from fake_methods import TINY
from tiny_models import rng

from freelib import ModelPool, get_method, load_learner, save_learner
from freelib.folders import MODELS
from freelib.models.pretrained import check_answers
from freelib.run.pools import pretrain_into

SCRIPT = Path(__file__).parents[1] / "workflow" / "store_models.py"
STORED = sorted({file.parent for file in MODELS.rglob("*.json")})


def test_what_is_stored_as_bfloat16_is_found_by_name_and_answers_alike(tiny_world, tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("store_models", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr("freelib.folders.MODELS", tmp_path / "models")
    for name, value in {"MODELS": tmp_path / "models", "EPISODES": 4, "N_QUERY": 3}.items():
        monkeypatch.setattr(script, name, value)
    pool, folder = pretrain_into("cifar-fs", TINY, 0)
    config = get_method("random").Config(width=4, head="prototypes")
    learner = get_method("random").meta_train(pool, config, seed=0)
    about = {"method": "random", "config": config, "seed": 0, "pool": pool, "pool_folder": folder}
    save_learner(learner, tmp_path / "learner", **about)
    script.main([str(folder), "tiny-2"])
    script.main([str(tmp_path / "learner"), "random/tiny"])
    stored, again = ModelPool.load("tiny-2"), load_learner("random/tiny")
    images = torch.rand(6, 3, 16, 16, generator=rng())
    for kept, model in zip(stored, pool, strict=True):
        assert kept.module.head.weight.dtype == torch.float32
        torch.testing.assert_close(kept(images), model(images), rtol=0.05, atol=0.05)
    torch.testing.assert_close(again.embed(images), learner.embed(images), rtol=0.05, atol=0.05)
    assert str(tmp_path) not in (tmp_path / "models/random/tiny/learner.json").read_text()
    assert "difference, paired" in capsys.readouterr().out
    for load in (ModelPool.load, load_learner):
        with pytest.raises(FileNotFoundError, match="a git clone of freelib has some in results/models"):
            load("nowhere")


@pytest.mark.skipif(not STORED, reason="results/models is empty")
def test_what_is_committed_loads_and_is_small():
    for folder in STORED:
        name = folder.relative_to(MODELS).as_posix()
        if (folder / "learner.json").exists():
            learner = load_learner(name)
            assert learner.embed(torch.rand(2, 3, *[learner.transform.image_size] * 2)).isfinite().all(), name
        else:
            for model in ModelPool.load(name):
                check_answers(model)
    assert sum(file.stat().st_size for file in MODELS.rglob("*")) < 40 * 2**20

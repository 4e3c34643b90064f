import json
from dataclasses import replace

import pytest
from fake_methods import TINY
from torch import nn

from freelib.experiments.bring_your_own import OwnModels, above
from freelib.methods.base import build_student
from freelib.models.own_models import read_own_models

SMALL = replace(TINY, overrides={"*": {"width": 4}, "free": {"ngf": 4, "images_per_class": 2}})


def net(n_classes):
    layers = [nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4 * 16, n_classes))


def test_a_users_folder_is_read_back_and_tested(tiny_world, tmp_path):
    you = OwnModels.of(SMALL, results=tmp_path / "results")
    folder = tmp_path / "folder"
    you.write_folder(folder, {"net": net}, classes=(2, 3), images=4, epochs=2)
    assert sorted(path.name for path in folder.iterdir()) == [
        "net-2.json", "net-2.pt", "net-3.json", "net-3.safetensors",
    ]  # fmt: skip
    assert set(json.loads((folder / "net-2.json").read_text())["class_names"]) <= set(
        you.dataset("train").class_names
    )
    pool = read_own_models(folder, {"net": net})
    assert [model.n_way for model in pool] == [2, 3]
    assert all(0 <= model.accuracy <= 1 for model in pool)
    config = replace(you.config, kd_heads="per_model")
    untrained = build_student(pool, config, seed=0)
    record = you.record(untrained, pool, config, episodes=4)
    assert record["extra"]["free"] == pytest.approx(record["extra"]["untrained"])
    assert not above(record)
    assert above({"extra": {"free": 30, "free_ci95": 1, "untrained": 25, "untrained_ci95": 3.5}})

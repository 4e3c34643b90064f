from dataclasses import replace

import pytest
import torch
from fake_methods import TINY
from test_tables import record
from tiny_models import tiny_model

from freelib.experiments import table3
from freelib.methods import free as module
from freelib.methods import get_method
from freelib.methods.free import FreeConfig
from freelib.models.pool import ModelPool
from freelib.models.pretrained import save_member
from freelib.run.pools import pool_parts
from freelib.run.profiles import get_profile
from freelib.run.units import unit_config
from freelib.storage import tensors_digest

ARCHS = ("conv4", "resnet10", "resnet18")


@pytest.fixture
def mixed_pool(tmp_path):
    """Two models of each architecture, read from a folder, as the grid's runs do."""
    for seed in range(6):
        save_member(tiny_model(seed, arch=ARCHS[seed % 3], first_class=seed), tmp_path)
    return ModelPool.load(tmp_path)


def test_the_models_of_one_round_are_different_objects_with_different_weights(mixed_pool, monkeypatch):
    """The public release loads one object four times: all four teachers are the last one."""
    drawn = []
    real = module.MetaGenerator.adapt

    def spy(self, model, student, rng, **settings):
        drawn.append(model)
        return real(self, model, student, rng, **settings)

    monkeypatch.setattr(module.MetaGenerator, "adapt", spy)
    config = FreeConfig(
        width=4, warmup_rounds=1, rounds=1, images_per_class=2, z_dim=8, ngf=4, adapt_steps=1,
        augment_padding=0, replay_scope="none", kd_heads="per_model",
    )  # fmt: skip
    get_method("free").meta_train(mixed_pool, config, seed=0)
    assert len(drawn) == 2 * 4
    images = torch.rand(3, 3, 16, 16)
    for models in (drawn[:4], drawn[4:]):
        assert len({id(model) for model in models}) == 4
        assert len({id(model.module) for model in models}) == 4
        assert len({tensors_digest(model.module.state_dict()) for model in models}) == 4
        assert len({model.arch for model in models}) > 1
        assert [model.module.arch for model in models] == [model.arch for model in models]
        answers = torch.stack([model(images) for model in models])
        assert len(answers.flatten(1).unique(dim=0)) == 4


def test_the_profiles_pools_are_mixed():
    for name, counts in (("smoke", (4, 2, 1)), ("cpu", (14, 6, 6)), ("paper", (34, 33, 33))):
        profile = get_profile(name).for_experiment("table3")
        parts = pool_parts(profile.datasets[0], profile)
        assert tuple(part.take or part.config.n_models for part in parts) == counts
        assert [part.config.archs for part in parts] == [(arch,) for arch in ARCHS]


def test_every_student_has_its_runs_and_methods_that_fuse_weights_have_none():
    profile = replace(TINY, students={"conv4": {}, "resnet10": {"width": 8, "align_sweeps": 2}})
    methods = ["random", "average", "ota", "dro", "best_teacher", "free"]
    units = table3.units(profile, methods, ["cifar-fs"], [1], [0])
    assert [(unit.method, dict(unit.overrides)) for unit in units] == [
        ("random", {}),
        ("best_teacher", {}),
        ("free", {}),
        ("free", {"alignment": "summed"}),
        ("random", {"arch": "resnet10", "width": 8}),
        ("free", {"arch": "resnet10", "width": 8, "align_sweeps": 2}),
        ("free", {"arch": "resnet10", "width": 8, "align_sweeps": 2, "alignment": "summed"}),
    ]
    assert unit_config(units[-1], profile).arch == "resnet10"
    assert table3.needs_one_architecture("average")
    assert not table3.needs_one_architecture("free")


def test_a_row_is_compared_with_free_of_its_own_student_and_dashes_say_why():
    def made(method, accuracies, arch, **config):
        return record(method, accuracies, config={"arch": arch, **config})

    summed = {"alignment": "summed"}
    records = [
        made("random", [30.0, 30.0], "conv4"),
        made("pool_features", [70.0, 72.0], "conv4", centre="episode"),
        made("free", [50.0, 52.0], "conv4"),
        made("free", [47.0, 49.0], "conv4", **summed),
        made("free", [40.0, 42.0], "resnet10"),
        made("free", [44.0, 46.0], "resnet10", **summed),
    ]
    rows = table3.rows(records)
    found = {(r["student"], r["method"]): r["difference"] for r in rows.to_dict("records")}
    assert found["conv4", "free (summed gradients)"] == -3
    assert found["resnet10", "free (summed gradients)"] == 4
    assert found["none", "pool_features"] == 20
    assert ("none", "free") not in found
    shown = table3.table(rows, "Table 3.")
    assert shown.cells["method"].tolist() == [
        "Random, student Conv4", "FREE, student Conv4", "FREE, summed gradients, student Conv4",
        "Pool features", "FREE, student ResNet-10", "FREE, summed gradients, student ResNet-10",
        "Average", "OTA", "DRO",
    ]  # fmt: skip
    assert shown.cells["accuracy, %"].tolist()[-3:] == ["–"] * 3
    assert shown.note.endswith("several architectures give them nothing to fuse.")
    assert (
        "student ResNet-10, summed gradients in place of BelL: higher by 4.0 ± 0.0 points, one seed."
        in shown.note
    )

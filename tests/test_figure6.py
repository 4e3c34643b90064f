from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_methods import TINY

from freelib.experiments import figure6
from freelib.inversion import inversion_loss

SMALL = replace(TINY, overrides={"*": {"width": 4}, "free": {"ngf": 4, "images_per_class": 3}})


@pytest.fixture
def scene(tiny_world, tmp_path, monkeypatch):
    monkeypatch.setattr(figure6, "WARMUP_ROUNDS", 1)
    return figure6.Recovered.of(SMALL, results=tmp_path)


def test_tasks_start_from_one_z_and_get_better(scene):
    none, one, five, fifty = scene.tasks
    assert len({task.model.name for task in scene.tasks}) == 1
    # one update of Adam moves each weight by at most its rate: the images are near, but not the same
    assert 0 < float((none.images - one.images).abs().max()) < 0.5
    assert float(none.losses[0]) == float(fifty.losses[0])
    assert torch.equal(five.losses, fifty.losses[:6])
    assert [len(task.losses) for task in scene.tasks] == [1, 2, 6, 51]


def test_the_record_has_the_models_answers(scene):
    record = scene.record()
    task = scene.tasks[-1]
    right = task.model(task.images).argmax(1) == task.labels
    assert record["extra"]["agreement"][-1] == pytest.approx(float(right.float().mean()))
    assert record["extra"]["loss"][-1] == pytest.approx(float(task.losses[-1]))
    assert record["passes"] == 1 + 2 + 6 + 51
    assert "% after 0 updates (1 pass), " in figure6.conclusion(record)
    assert "after 50 updates (51 passes)." in figure6.conclusion(record)
    config = replace(scene.config, augment_padding=0, augment_flip=False)
    assert float(inversion_loss(task.model, task.images, task.labels, config)[0]) >= 0


def test_the_figure_has_a_row_a_class_and_real_images_first(scene):
    figure = scene.figure(n=2)
    assert len(figure.axes) == 5 * 5
    assert figure.axes[0].get_title() == "real"
    assert figure.axes[2].get_title().startswith("1 update (2 passes)\n")
    shown = np.array(figure.axes[0].images[0].get_array())
    name = scene.tasks[0].model.class_names[0]
    train = scene.dataset("train")
    first = train.class_images(train.class_names.index(name))[0].permute(1, 2, 0).numpy() / 255
    assert np.allclose(shown[:, :16], first)
    assert shown.shape == (16, 2 * 17, 3)
    assert figure.axes[0].get_ylabel().replace("\n", " ") == name.replace("_", " ")


def test_short_names():
    assert figure6.short("LATIN SMALL LETTER A") == "latin small letter a"
    assert figure6.short("box drawings light down and left") == "box drawings light\ndown and left"
    assert figure6.short("lawn_mower") == "lawn mower"

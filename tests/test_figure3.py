from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_methods import TINY
from matplotlib.patches import FancyArrowPatch

from freelib.alignment import AlignmentConfig, aligned_displacement, summed_gradient
from freelib.experiments import figure3
from freelib.studies import lemma1

FREE = {"ngf": 4, "images_per_class": 4, "meta_batch": 2, "n_query": 2, "kd_heads": "per_model"}
SMALL = replace(TINY, overrides={"*": {"width": 4}, "free": FREE})


def test_the_plane_keeps_lengths_and_angles():
    steps = [torch.tensor([3.0, 0.0, 0.0]), torch.tensor([3.0, 4.0, 0.0])]
    path, summed = figure3.in_the_plane(steps, torch.tensor([5.0, 0.0, 0.0]))
    assert path.shape == (3, 2)
    assert np.abs(path[0]).max() == 0
    assert np.linalg.norm(path[2]) == pytest.approx(5)
    assert np.linalg.norm(path[1]) == pytest.approx(3)
    assert np.linalg.norm(summed) == pytest.approx(5)
    assert summed @ path[1] == pytest.approx(15)  # along the first step
    assert (path[2] >= 0).all()


def test_a_live_round_and_its_drawing(tiny_world, tmp_path, monkeypatch):
    monkeypatch.setattr(figure3, "WARMUP_ROUNDS", 1)
    monkeypatch.setattr(figure3, "ROUNDS", 2)
    scene = figure3.Framework.of(SMALL, results=tmp_path)
    moment = scene.moment
    assert len({task.model.name for task in moment.tasks}) == 2
    assert moment.path.shape == (3, 2)  # θ, after one task, after two
    assert len(moment.memory) == 2 * 2 * 5 * 4  # rounds, models, classes, images
    figure = scene.figure()
    (axis,) = figure.axes
    assert len(axis.images) == 2 * 5 + 2 * 5  # an image of each recovered class, a support and a query set
    assert sum(isinstance(patch, FancyArrowPatch) for patch in axis.patches) > 10
    words = " ".join(text.get_text() for text in axis.texts)
    assert "pool: 2 models, 2 drawn" in words
    assert f"{100 * float(moment.tasks[0].teacher_accuracy):.0f} % agree" in words
    assert "80 images\nof" in words
    assert "2 models drawn" in figure3.conclusion(moment)


def test_the_walk_and_the_summed_step_have_one_rate():
    heads, tasks = lemma1.small_problem("tanh", seed=0)
    adam = AlignmentConfig()
    steps, total, rate = figure3.plain_walk(heads, tasks, adam)
    own = torch.cat([p.flatten() for p in aligned_displacement(heads, tasks, adam)[0].values()])
    assert float(total.norm()) == pytest.approx(float(own.norm()))  # as long as Adam's walk
    parts, _ = summed_gradient(heads, tasks[:1], adam)
    torch.testing.assert_close(steps[0], -rate * torch.cat([p.flatten() for p in parts.values()]))
    parts, _ = summed_gradient(heads, tasks, adam)
    torch.testing.assert_close(total, -rate * torch.cat([p.flatten() for p in parts.values()]))
    assert len(steps) == 3

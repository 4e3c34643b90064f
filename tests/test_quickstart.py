from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_methods import TINY

from freelib.experiments.quickstart import Quickstart
from freelib.run.profiles import Profile
from freelib.run.runner import learner_file

FREE = {
    "width": 4, "ngf": 4, "z_dim": 8, "images_per_class": 6, "warmup_rounds": 1, "rounds": 2, "meta_batch": 2,
    "replay_batches": 1, "replay_episodes": 1, "replay_patience": 0, "kd_heads": "per_model",
}  # fmt: skip
SMALL: Profile = replace(TINY, overrides={"*": {"width": 4}, "free": FREE}, n_episodes=2, n_query=3)


@pytest.fixture(scope="module")
def tour(tiny_folders, tmp_path_factory):
    """The quickstart on the tiny data set, one for all tests of this file."""
    data, cache = tiny_folders
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FREELIB_DATA", str(data))
        patch.setenv("FREELIB_CACHE", str(cache))
        patch.setenv("FREELIB_PROGRESS", "off")
        yield Quickstart.of(SMALL, results=tmp_path_factory.mktemp("results"))


def test_it_takes_the_first_data_set_shots_and_seed_unless_told():
    profile = replace(TINY, shots=(5, 1), seeds=(3, 4))
    chosen = Quickstart.of(profile, results="r")
    assert (chosen.unit.dataset, chosen.unit.n_shot, chosen.unit.seed) == ("cifar-fs", 5, 3)
    told = Quickstart.of(profile, results="r", datasets=["cub"], shots=[1], seeds=[9])
    assert (told.unit.dataset, told.unit.n_shot, told.unit.seed) == ("cub", 1, 9)


def test_the_pools_accuracies_are_drawn_sorted(tour):
    bars = [bar.get_height() for bar in tour.pool_figure().axes[0].patches]
    assert bars == sorted(100 * d["accuracy"] for d in tour.pool.descriptions)


def test_recovery_is_the_last_step_of_five_and_its_losses_are_drawn(tour):
    recovery = tour.recover()
    n = 5 * FREE["images_per_class"]
    assert recovery.task.images.shape == (n, 3, 16, 16)
    assert recovery.losses.shape == (FREE["meta_batch"], 5)
    # the same codes, before adaptation and at its last step
    assert recovery.first_step.losses.tolist() == pytest.approx([float(recovery.task.losses[0])])
    assert not torch.equal(recovery.first_step.images, recovery.task.images)
    assert recovery.agreement == float(recovery.task.teacher_accuracy)
    lines = tour.adaptation_figure(recovery).axes[0].lines
    for line, losses in zip(lines, recovery.losses, strict=True):
        assert list(line.get_ydata()) == pytest.approx(losses.tolist())
    assert [line.get_label() for line in lines] == recovery.names
    figure = tour.recovered_figure(recovery, columns=4)
    figure.draw_without_rendering()
    left = [axis.get_position().x0 for axis in figure.axes[:4]]
    assert np.diff(left) == pytest.approx([left[1] - left[0]] * 3)  # all columns as far apart
    assert [axis.texts[0].get_text() for axis in figure.axes[::4]] == [
        name.lower() for name in recovery.task.model.class_names
    ]
    assert f"{100 * recovery.agreement:.0f} % at the last step" in figure.get_suptitle()


def test_the_learner_is_that_of_the_record_and_trained_again_where_it_is_lost(tour):
    free, random = tour.records()
    assert (free["method"], random["method"]) == ("free", "random")
    assert not tour.above(free, free)
    assert tour.above(free | {"accuracy": 90.0, "accuracy_ci95": 1.0}, free | {"accuracy": 80.0})
    kept = {name: value.clone() for name, value in tour.learner.params.items()}
    learner_file(tour.run.digest).unlink()
    again = Quickstart.of(SMALL, results=tour.results).learner
    assert all(torch.equal(value, again.params[name]) for name, value in kept.items())
    assert learner_file(tour.run.digest).is_file()


def test_the_episode_shows_what_the_learner_says(tour):
    figure = tour.episode_figure(n_queries=2)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[:5] == [f"new class {letter}" for letter in "ABCDE"]
    assert len(titles) == 15
    sampler = tour.run.sampler("test", 1)
    episode = sampler.episode(0)
    predicted = tour.learner.adapt(episode.support, episode.support_labels).predict(episode.query)
    assert titles[5].startswith(f"says {'ABCDE'[int(predicted[0])]}")
    assert ("✗" in titles[5]) == (int(predicted[0]) != 0)
    right = int((predicted == episode.query_labels).sum())
    words = figure.get_suptitle()
    assert f"right: {sum('✗' not in title for title in titles[5:])} of the 10 shown, {right} of the" in words
    assert f"mean over 2 episodes {tour.records()[0]['accuracy']:.1f} %, chance 20 %" in words

"""A student's gradient steps at test time, from class means."""

from dataclasses import replace

import pytest
import torch
from fake_methods import TINY
from test_beyond import SMALL
from test_tables import record
from tiny_models import tiny_pool
from torch.nn.functional import cross_entropy

from freelib.episodes import EpisodeSampler
from freelib.evaluation import evaluate_centres
from freelib.experiments import adapting, beyond
from freelib.methods.base import build_student
from freelib.methods.pool_distillation import PoolDistillationConfig


def student():
    config = PoolDistillationConfig(**SMALL)
    return build_student(tiny_pool(2), config, seed=0)


def test_without_a_step_it_is_the_nearest_class_mean(tiny_dataset):
    learner = student()
    sampler = EpisodeSampler(tiny_dataset, n_way=5, n_shot=2, n_query=4, seed=0)
    before = {name: value.clone() for name, value in learner.backbone.state_dict().items()}
    found = adapting.score(learner, sampler, 6)
    means = evaluate_centres(learner, sampler, 6, ["none"])["none"].accuracies
    assert found["means"] == pytest.approx(means.tolist(), abs=0.01)
    assert all(len(values) == 6 for values in found.values())
    after = learner.backbone.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())  # the student stays


@pytest.mark.parametrize("head", ["anil", "maml"])
def test_steps_go_down_the_loss_of_the_support_set(tiny_dataset, head):
    episode = EpisodeSampler(tiny_dataset, n_way=5, n_shot=3, n_query=4, seed=0).episode(0)
    stepping = adapting.with_a_head(student(), 5)
    adapting.predictions(stepping, episode, head, 0)  # sets the class means
    stepping.inner_lr = 0.5  # an untrained network's features are much alike
    images, labels = episode.support, episode.support_labels
    losses = [
        cross_entropy(stepping.adapt(images, labels, steps=steps).logits(images), labels)
        for steps in (0, 5, 20)
    ]
    assert losses[0] > losses[1] > losses[2]


def test_measured_once_where_the_student_is_kept(tiny_world, tmp_path):
    profile = replace(TINY, methods=("pool_distillation",), overrides={"pool_distillation": SMALL})
    assert adapting.by_gradient_steps(profile, results=tmp_path) == []
    beyond.run(profile, results=tmp_path, methods=["pool_distillation"])
    (made,) = adapting.by_gradient_steps(profile, results=tmp_path)
    assert set(made["extra"]["episodes"]) == {str(n_shot) for n_shot in profile.shots}
    assert adapting.by_gradient_steps(profile, results=tmp_path) == [made]
    assert adapting.conclusion([made]).startswith(f"CIFAR-FS, {profile.shots[0]}-shot, not centred: ")


def test_the_conclusion_says_what_steps_bring():
    episodes = {"1": {"means": [50.0, 52.0], "anil": [51.0, 53.0], "maml": [49.0, 51.0]}}
    found = record("pool_distillation adapting", [1.0], extra={"episodes": episodes, "steps": 10})
    assert adapting.conclusion([found]) == (
        "CIFAR-FS, 1-shot, not centred: 51.0 % by nearest class means; "
        "+1.0 ± 0.0 by 10 steps of the last layer, −1.0 ± 0.0 by 10 steps of all weights."
    )

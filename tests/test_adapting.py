"""A student's gradient steps at test time, from class means."""

from dataclasses import replace

import pytest
import torch
from fake_methods import TINY
from test_beyond import SMALL
from test_tables import record
from tiny_models import tiny_pool
from torch.nn.functional import cross_entropy

from freelib.datasets.episodes import EpisodeSampler
from freelib.experiments import adapting, beyond
from freelib.methods.base import build_student
from freelib.methods.pool_distillation import PoolDistillationConfig
from freelib.run.evaluation import evaluate_centres


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


def test_the_steps_are_those_of_the_learner_and_reach_as_far_as_the_way_says(tiny_dataset):
    learner = student()
    stepping = adapting.with_a_head(learner, 5)
    rule = ("inner_lr", "inner_steps", "precision")
    assert [getattr(stepping, name) for name in rule] == [getattr(learner, name) for name in rule]
    stepping.inner_lr, encoder = 0.5, {n for n in stepping.params if not n.startswith("head.")}
    episode = EpisodeSampler(tiny_dataset, n_way=5, n_shot=3, n_query=4, seed=0).episode(0)
    for head, moved in (("anil", set()), ("maml", encoder)):
        adapting.predictions(stepping, episode, head, 2)
        adapted = stepping.adapt(episode.support, episode.support_labels, steps=2).params
        changed = {name for name, value in adapted.items() if not torch.equal(value, stepping.params[name])}
        assert {name for name in changed if name in encoder} <= moved
        assert changed & {"head.weight", "head.bias"}
        assert bool(changed & encoder) == bool(moved)


def test_what_can_not_be_measured_is_left_out(tiny_world, tmp_path, monkeypatch):
    profile = replace(
        TINY, methods=("pool_distillation",), overrides={"pool_distillation": SMALL | {"epochs": 2}}
    )
    beyond.run(profile, results=tmp_path, methods=["pool_distillation"])
    monkeypatch.setenv("FREELIB_RUNS", "none")
    assert adapting.by_gradient_steps(profile, results=tmp_path) == []
    monkeypatch.delenv("FREELIB_RUNS")
    made = adapting.by_gradient_steps(profile, results=tmp_path)
    monkeypatch.setattr(adapting, "load_tensors", lambda file: pytest.fail("measured again"))
    monkeypatch.delenv("FREELIB_DATA")  # what stands is shown without data
    assert adapting.by_gradient_steps(profile, results=tmp_path) == made


def test_measured_once_where_the_student_is_kept(tiny_world, tmp_path):
    profile = replace(TINY, methods=("pool_distillation",), overrides={"pool_distillation": SMALL})
    assert adapting.by_gradient_steps(profile, results=tmp_path) == []
    beyond.run(profile, results=tmp_path, methods=["pool_distillation"])
    (made,) = adapting.by_gradient_steps(profile, results=tmp_path)
    assert set(made["extra"]["episodes"]) == {str(n_shot) for n_shot in profile.shots}
    assert adapting.by_gradient_steps(profile, results=tmp_path) == [made]
    assert adapting.conclusion([made]).startswith(
        f"CIFAR-FS, {profile.shots[0]}-shot, not centred, one seed: "
    )


def test_the_conclusion_says_what_steps_bring():
    episodes = {"1": {"means": [50.0, 52.0], "anil": [51.0, 53.0], "maml": [49.0, 51.0]}}
    found = record("pool_distillation adapting", [1.0], extra={"episodes": episodes, "steps": 10, "lr": 0.01})
    assert adapting.conclusion([found]) == (
        "CIFAR-FS, 1-shot, not centred, one seed: 51.0 % by nearest class means; "
        "+1.0 ± 0.0 by 10 steps of 0.01 of the last layer, "
        "−1.0 ± 0.0 by 10 steps of 0.01 of all weights."
    )

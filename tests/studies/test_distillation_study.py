from dataclasses import replace

import pytest
import torch
from fake_methods import TINY
from tiny_models import tiny_pool
from torch.nn.functional import cross_entropy, normalize

from freelib.datasets.episodes import EpisodeSampler
from freelib.methods.base import build_student
from freelib.methods.pool_distillation import PoolDistillationConfig
from freelib.run import Run, Unit, run_units, unit_config
from freelib.run.evaluation import evaluate, evaluate_centres
from freelib.storage import plain
from studies import distillation

SMALL = {
    "recovered": 16, "procedural": 32, "mixed": 16, "warmup_rounds": 1, "meta_batch": 1, "adapt_steps": 1,
    "images_per_class": 4, "ngf": 4, "z_dim": 8, "epochs": 1, "batch_size": 4, "embedding": 8, "width": 4,
}  # fmt: skip
PROFILE = replace(TINY, shots=(1, 2), overrides={"pool_distillation": SMALL})
RUN = Run(Unit("beyond", "pool_distillation", "cifar-fs", 1, 0), PROFILE)
CONFIG = unit_config(RUN.unit, PROFILE)


def student():
    return build_student(tiny_pool(2), PoolDistillationConfig(**SMALL), seed=0)


def sampler(dataset, n_shot=2):
    return EpisodeSampler(dataset, n_way=5, n_shot=n_shot, n_query=4, seed=0)


def test_without_a_step_it_is_the_nearest_class_mean_and_steps_are_the_learners(tiny_dataset):
    learner = student()
    before = {name: value.clone() for name, value in learner.backbone.state_dict().items()}
    found = distillation.score_steps(learner, sampler(tiny_dataset), 6)
    means = evaluate_centres(learner, sampler(tiny_dataset), 6, ["none"])["none"].accuracies
    assert found["means"] == pytest.approx(means.tolist(), abs=0.01)
    assert {way: len(values) for way, values in found.items()} == {"means": 6, "anil": 6, "maml": 6}
    after = learner.backbone.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())  # the student stays
    episode, stepping = sampler(tiny_dataset).episode(0), distillation.with_class_head(student(), 5)
    distillation.predictions(stepping, episode, "anil", 0)
    features = stepping.embed(episode.support)
    means = torch.stack([normalize(features[episode.support_labels == c], dim=1).mean(0) for c in range(5)])
    expected = 10 * normalize(means, dim=1) / features.norm(dim=1).mean()
    assert torch.allclose(stepping.backbone.head.weight, expected, atol=1e-6)
    assert not stepping.backbone.head.bias.any()
    learner, episode = student(), sampler(tiny_dataset).episode(0)
    stepping = distillation.with_class_head(learner, 5)
    rule = ("inner_lr", "inner_steps", "precision")
    assert [getattr(stepping, name) for name in rule] == [getattr(learner, name) for name in rule]
    stepping.inner_lr = 0.5
    for head in ("anil", "maml"):
        distillation.predictions(stepping, episode, head, 2)
        adapted = stepping.adapt(episode.support, episode.support_labels, steps=2).params
        moved = {name for name, value in adapted.items() if not torch.equal(value, stepping.params[name])}
        assert "head.weight" in moved
        assert any(not name.startswith("head.") for name in moved) == (head == "maml")


@pytest.mark.parametrize("head", ["anil", "maml"])
def test_steps_go_down_the_loss_of_the_support_set(tiny_dataset, head):
    episode, stepping = sampler(tiny_dataset).episode(0), distillation.with_class_head(student(), 5)
    distillation.predictions(stepping, episode, head, 0)  # sets the class means
    stepping.inner_lr = 0.5  # an untrained network's features are much alike
    images, labels = episode.support, episode.support_labels
    losses = [cross_entropy(stepping.adapt(images, labels, steps=steps).logits(images), labels) for steps in (0, 5, 20)]
    assert losses[0] > losses[1] > losses[2]


def test_a_kept_student_is_measured_and_a_lost_one_trained_again(tiny_world, tmp_path):
    (record, _) = run_units([replace(RUN.unit, n_shot=n) for n in (1, 2)], PROFILE, tmp_path)
    kept = distillation.trained_student(RUN)
    score = evaluate(kept, RUN.samplers("test")[0], PROFILE.n_episodes)
    assert score.accuracies.tolist() == pytest.approx(record["episode_accuracies"], abs=0.01)
    centred, stepped = distillation.centring(RUN, tmp_path), distillation.adapting(RUN, tmp_path)
    assert centred["extra"]["1 episodes"] == record["episode_accuracies"]
    assert centred["extra"]["1 episode"] == pytest.approx(record["accuracy"], abs=0.001)
    means = stepped["extra"]["episodes"]["2"]["means"]
    assert sum(means) / len(means) == pytest.approx(centred["extra"]["2 none"], abs=0.01)
    distillation.learner_file(RUN.digest).unlink()
    again = distillation.trained_student(RUN)
    assert all(torch.equal(value, kept.params[name]) for name, value in again.params.items())


def test_variants_share_the_stored_images(tiny_world, tmp_path, monkeypatch):
    seen = []
    distil = distillation.PoolDistillation.meta_train

    def spy(self, pool, config, *, seed, checkpoint):
        seen.append(checkpoint.load()["recovered"])
        return distil(self, pool, config, seed=seed, checkpoint=checkpoint)

    monkeypatch.setattr(distillation.PoolDistillation, "meta_train", spy)
    configs = [replace(CONFIG, recovered=n) for n in (16, 8)]
    for config in configs:
        distillation.variant_student(RUN, config, n_stored=16)
        monkeypatch.setattr(distillation, "synthesised_images", lambda *_, **__: pytest.fail("made again"))
    assert [len(images) for images in seen] == [16, 8]
    assert torch.equal(seen[0][:8], seen[1])
    distillation.variant_student(RUN, configs[1], n_stored=16, real=True)
    real = {image.numpy().tobytes() for image in RUN.datasets("train")[0].images}
    assert len(seen[2]) == 8
    assert {image.numpy().tobytes() for image in seen[2]} <= real


def test_a_variants_record_is_made_once(tiny_world, tmp_path, monkeypatch):
    options = {"group": "teacher", "label": "no whitening", "n_stored": 16}
    made = distillation.variant(RUN, replace(CONFIG, whitening=0.0), tmp_path, **options)
    assert made["config"]["label"] == "no whitening"
    assert (made["config"]["split"], made["config"]["shots"]) == ("validation", [1, 2])
    assert made["config"]["whitening"] == 0.0
    assert set(plain(CONFIG)) < set(made["config"])
    extra = made["extra"]
    assert sum(extra["2 episodes"]) / PROFILE.n_episodes == pytest.approx(extra["2 episode"], abs=0.01)
    monkeypatch.setattr(distillation, "variant_student", lambda *_, **__: pytest.fail("trained again"))
    assert distillation.variant(RUN, replace(CONFIG, whitening=0.0), tmp_path, **options) == made

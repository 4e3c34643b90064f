"""Accuracy, its interval, and paired comparison."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from freelib.datasets.episodes import EpisodeSampler
from freelib.meta_learner import Classifier, MetaLearner
from freelib.models.backbones import build_backbone
from freelib.run.evaluation import Score, evaluate, evaluate_centres, mean_and_interval, paired_difference


class Knows(Classifier):
    """Gives the class of the support image that comes from the same place, or always class 0."""

    def __init__(self, learner, support, labels):
        self.learner, self.support, self.labels = learner, support, labels

    def logits(self, images):
        n_way = int(self.labels.max()) + 1
        if self.learner.constant:
            return torch.eye(n_way)[torch.zeros(len(images), dtype=torch.int64)]
        return torch.eye(n_way)[self.learner.classes(images)]


class Cheater:
    """Knows each image's class in the data set."""

    def __init__(self, dataset, constant):
        self.constant = constant
        self.known = {image.numpy().tobytes(): row // 24 for row, image in enumerate(dataset.images)}

    def number(self, images):
        pixels = (images * 255).round().to(torch.uint8)
        return torch.tensor([self.known[image.numpy().tobytes()] for image in pixels])

    def adapt(self, images, labels):
        numbers = self.number(images).tolist()
        self.classes = lambda query: torch.tensor([numbers.index(c) for c in self.number(query).tolist()])
        return Knows(self, images, labels)


@pytest.mark.parametrize(("constant", "expected"), [(False, 100.0), (True, 20.0)])
def test_a_perfect_and_a_constant_learner(tiny_dataset, constant, expected):
    calls = []
    score = evaluate(
        Cheater(tiny_dataset, constant),
        EpisodeSampler(tiny_dataset, n_query=6),
        8,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert score.mean == pytest.approx(expected)
    assert score.ci95 == 0
    assert score.accuracies.tolist() == [pytest.approx(expected)] * 8
    assert calls == [(i, 8) for i in range(1, 9)]


def test_the_interval():
    values = torch.tensor([40.0, 60.0, 50.0])
    score = Score(values)
    assert score.mean == pytest.approx(50)
    assert score.ci95 == pytest.approx(1.96 * 10 / 3**0.5)  # the standard deviation, n − 1 in it, is 10
    assert mean_and_interval(values[:1]) == (40.0, 0.0)


def test_how_far_domains_lie_apart_is_no_error():
    values = torch.tensor([40.0, 44.0, 10.0, 12.0])  # two domains, their variances 8 and 2
    assert mean_and_interval(values, strata=2) == pytest.approx((26.5, 1.96 * 5**0.5 / 2))
    assert Score(values, strata=2).ci95 == pytest.approx(1.96 * 5**0.5 / 2)
    difference = paired_difference(values, values / 2, strata=2)  # 20, 22, 5, 6: variances 2 and 0.5
    assert difference == pytest.approx((13.25, 1.96 * 1.25**0.5 / 2))


def test_a_paired_comparison_by_hand():
    a, b = torch.tensor([50.0, 60.0, 70.0]), torch.tensor([48.0, 59.0, 67.0])
    mean, interval = paired_difference(a, b)
    assert mean == pytest.approx(2)  # differences 2, 1, 3: deviation 1
    assert interval == pytest.approx(1.96 / 3**0.5)
    assert interval < mean_and_interval(a)[1]
    with pytest.raises(ValueError, match=r"same episodes: \(3,\) against \(2,\)"):
        paired_difference(a, b[:2])


def test_no_episodes_is_an_error(tiny_dataset):
    with pytest.raises(ValueError, match="at least 1, got 0"):
        evaluate(Cheater(tiny_dataset, True), EpisodeSampler(tiny_dataset, n_query=6), 0)


class Counting(nn.Module):
    """Counts the images that it embeds."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.seen = backbone, 0

    def features(self, images):
        self.seen += len(images)
        return self.backbone.features(images)


@pytest.mark.parametrize("centre", ["none", "support", "episode"])
@pytest.mark.parametrize("batch_stats", [False, True])
def test_prototypes_embed_each_image_once_where_its_features_are_its_own(tiny_dataset, centre, batch_stats):
    backbone = build_backbone("conv4", width=6, image_size=16, batch_stats=batch_stats, seed=1).eval()
    module = Counting(backbone)
    learner = MetaLearner(module, mean=(0.4,) * 3, std=(0.3,) * 3, image_size=16, head="prototypes", centre=centre)
    sampler = EpisodeSampler(tiny_dataset, n_shot=2, n_query=6, seed=4)
    assert learner.embeds_images_one_by_one != batch_stats
    score = evaluate(learner, sampler, 12)
    assert module.seen == 12 * 40 if batch_stats else module.seen <= len(tiny_dataset.images)
    expected = [
        (learner.adapt(e.support, e.support_labels).predict(e.query) == e.query_labels).double().mean() * 100
        for e in sampler.take(12)
    ]
    torch.testing.assert_close(score.accuracies, torch.stack(expected))


def test_several_centres_at_once_give_what_each_gives_alone(tiny_dataset):
    backbone = build_backbone("conv4", width=6, image_size=16, batch_stats=False, seed=1).eval()
    module = Counting(backbone)
    kind = {"mean": (0.4,) * 3, "std": (0.3,) * 3, "image_size": 16, "head": "prototypes"}
    sampler = EpisodeSampler(tiny_dataset, n_shot=2, n_query=6, seed=4)
    scores = evaluate_centres(MetaLearner(module, **kind), sampler, 12)
    assert module.seen <= len(tiny_dataset.images)
    assert list(scores) == ["none", "support", "episode"]
    for centre, score in scores.items():
        alone = evaluate(MetaLearner(module, centre=centre, **kind), sampler, 12)
        torch.testing.assert_close(score.accuracies, alone.accuracies)
    with pytest.raises(ValueError, match="fixed BatchNorm statistics"):
        evaluate_centres(MetaLearner(module, **{**kind, "head": "maml"}), sampler, 12)

"""Accuracy, its interval, and paired comparison."""

from __future__ import annotations

import pytest
import torch

from freelib.datasets.episodes import EpisodeSampler
from freelib.meta_learner import Classifier
from freelib.run.evaluation import Score, evaluate, mean_and_interval, paired_difference


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

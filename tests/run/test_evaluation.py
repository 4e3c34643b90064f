from types import SimpleNamespace

import pytest
import torch
from torch import nn

from freelib import EpisodeSampler, MetaLearner
from freelib.models.backbones import build_backbone
from freelib.run.evaluation import Score, evaluate, evaluate_centres, mean_and_interval, paired_difference


class Cheater:
    """Knows each image's class in the data set, but may say class 0 of all."""

    def __init__(self, dataset, constant):
        self.constant = constant
        self.known = {image.numpy().tobytes(): row // 24 for row, image in enumerate(dataset.images)}

    def classes(self, images):
        return [self.known[image.numpy().tobytes()] for image in (images * 255).round().to(torch.uint8)]

    def adapt(self, images, labels):
        def predict(query):
            return torch.tensor([0 if self.constant else shown.index(c) for c in self.classes(query)])

        shown = self.classes(images)
        return SimpleNamespace(predict=predict)


@pytest.mark.parametrize(("constant", "expected"), [(False, 100.0), (True, 20.0)])
def test_a_perfect_and_a_constant_learner(tiny_dataset, constant, expected):
    learner, sampler, calls = Cheater(tiny_dataset, constant), EpisodeSampler(tiny_dataset, n_query=6), []
    score = evaluate(learner, sampler, 8, progress=lambda *done: calls.append(done))
    assert score.mean == pytest.approx(expected)
    assert score.ci95 == 0
    assert score.accuracies.tolist() == [pytest.approx(expected)] * 8
    assert calls == [(i, 8) for i in range(1, 9)]


def test_intervals_and_paired_comparisons_by_hand():
    values = torch.tensor([40.0, 60.0, 50.0])
    score = Score(values)
    assert score.mean == pytest.approx(50)
    assert score.ci95 == pytest.approx(1.96 * 10 / 3**0.5)  # the standard deviation, n − 1 in it, is 10
    assert mean_and_interval(values[:1]) == (40.0, 0.0)
    values = torch.tensor([40.0, 44.0, 10.0, 12.0])  # two domains, their variances 8 and 2
    assert mean_and_interval(values, strata=2) == pytest.approx((26.5, 1.96 * 5**0.5 / 2))
    assert Score(values, strata=2).ci95 == pytest.approx(1.96 * 5**0.5 / 2)
    difference = paired_difference(values, values / 2, strata=2)  # 20, 22, 5, 6: variances 2 and 0.5
    assert difference == pytest.approx((13.25, 1.96 * 1.25**0.5 / 2))
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


def counting_learner(batch_stats=False, **rule):
    backbone = build_backbone("conv4", width=6, image_size=16, batch_stats=batch_stats, seed=1).eval()
    kind = {"mean": (0.4,) * 3, "std": (0.3,) * 3, "image_size": 16, "head": "prototypes"}
    return MetaLearner(Counting(backbone), **kind | rule)


@pytest.mark.parametrize("centre", ["none", "support", "episode"])
@pytest.mark.parametrize("batch_stats", [False, True])
def test_prototypes_embed_each_image_once_where_its_features_are_its_own(tiny_dataset, centre, batch_stats):
    learner = counting_learner(batch_stats, centre=centre)
    sampler = EpisodeSampler(tiny_dataset, n_shot=2, n_query=6, seed=4)
    assert learner.embeds_images_one_by_one != batch_stats
    score = evaluate(learner, sampler, 12)
    seen = learner.backbone.seen
    assert seen == 12 * 40 if batch_stats else seen <= len(tiny_dataset.images)
    expected = [
        (learner.adapt(e.support, e.support_labels).predict(e.query) == e.query_labels).double().mean() * 100
        for e in sampler.take(12)
    ]
    torch.testing.assert_close(score.accuracies, torch.stack(expected))


def test_several_centres_at_once_give_what_each_gives_alone(tiny_dataset):
    learner, sampler = counting_learner(), EpisodeSampler(tiny_dataset, n_shot=2, n_query=6, seed=4)
    scores = evaluate_centres(learner, sampler, 12)
    assert learner.backbone.seen <= len(tiny_dataset.images)
    assert list(scores) == ["none", "support", "episode"]
    for centre, score in scores.items():
        alone = evaluate(counting_learner(centre=centre), sampler, 12)
        torch.testing.assert_close(score.accuracies, alone.accuracies)
    with pytest.raises(ValueError, match="fixed BatchNorm statistics"):
        evaluate_centres(counting_learner(head="maml"), sampler, 12)

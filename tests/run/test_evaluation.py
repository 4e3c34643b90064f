"""Accuracies of episodes, and the statistics over episodes and seeds."""

import math
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from scipy.stats import t as student
from torch import nn

from freelib import EpisodeSampler, MetaLearner
from freelib.models.backbones import build_backbone
from freelib.run import statistics
from freelib.run.evaluation import Score, evaluate, evaluate_centres, mean_and_interval, paired_difference
from freelib.run.statistics import (
    compare,
    episode_means,
    mean_over_seeds,
    one_seed_floor,
    pool_size,
    reported_values,
    significance,
)


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


POOL = {"dataset": "glyphs", "seed": 0, "config": {"n_models": 7}}


def record(method="free", seed=0, episodes=(40.0, 60.0), *, pool=POOL, **changes):
    """What `compare` reads of a record."""
    base = {
        "method": method, "seed": seed, "dataset": "glyphs", "data_digest": "d", "n_shot": 1, "config": {},
        "pool": pool, "n_episodes": len(episodes), "evaluation": {"seed": 1}, "episode_accuracies": list(episodes),
        "n_way": 5, "n_query": 15,
        "accuracy": sum(episodes) / len(episodes), "accuracy_last": 30.0 + seed, "passes": 100 + 10 * seed,
        "seconds": {"training": 10.0 + seed, "training_cpu": 20.0 + seed}, "threads": 2,
    }  # fmt: skip
    return base | changes


def row_of(rows, method, variant=""):
    (row,) = rows[(rows["method"] == method) & (rows["variant"] == variant)].to_dict("records")
    return row


def test_a_row_is_the_mean_over_episodes_and_seeds():
    rows = compare([record(seed=0), record(seed=1, episodes=(50.0, 80.0))])
    row = row_of(rows, "free")
    assert row["accuracy"] == 57.5
    assert row["ci95"] == pytest.approx(1.96 * 25 / 2)  # episodes average 45 and 70: deviation 25 / √2, n = 2
    assert row["seed_spread"] == pytest.approx(15 / 2**0.5)
    assert (row["n_seeds"], row["n_episodes"], row["last"], row["iterations"]) == (2, 2, 30.5, 105)
    assert (row["seconds"], row["clock"], row["at_most"], row["models"]) == (20, "training_cpu", False, 1)
    assert math.isnan(row["difference"])
    assert math.isnan(row["seed_difference"])
    wall = record(seed=1, seconds={"training": 9.0})
    row = row_of(compare([record(), wall]), "free")
    assert (row["clock"], row["seconds"]) == ("training", 9.0)
    bound = record(seconds={"training": 10.0, "monitor": 4.0, "training_cpu": 20.0})
    row = row_of(compare([bound]), "free")
    assert (row["clock"], row["seconds"], row["at_most"]) == ("training_cpu", 12.0, True)


def test_episodes_seeds_and_deterministic_methods_are_paired():
    free = [record(seed=s, episodes=(40.0 + s, 60.0 + s)) for s in (0, 1, 2)]
    dro = [record("dro", s, (43.0 + 2 * s, 61.0 + 2 * s)) for s in (0, 1, 2, 3)]  # seed 3 has no partner
    row = row_of(compare([*free, *dro]), "dro")
    assert row["difference"] == pytest.approx(3.0)  # by episode 4 and 2
    assert row["difference_ci95"] == pytest.approx(1.96 * 2**0.5 / 2**0.5)
    assert row["seed_difference"] == pytest.approx(3.0)  # by seed 2, 3 and 4
    assert row["seed_difference_spread"] == pytest.approx(1.0)
    assert row["seed_difference_ci95"] == pytest.approx(student.ppf(0.975, 2) / 3**0.5)
    free = [record(seed=s, episodes=(40.0 + s, 60.0 + s)) for s in (0, 1)]
    steady = record("average", 0, (50.0, 50.0))
    row = row_of(compare([*free, steady]), "average")
    assert row["difference"] == pytest.approx(-0.5)  # against the mean of both seeds
    assert row["seed_difference"] == pytest.approx(-0.5)  # 0 and −1
    assert row["n_seeds"] == 1
    other_pool = record("average", 0, (50.0, 50.0), pool={**POOL, "seed": 1})
    row = row_of(compare([*free, other_pool]), "average")
    assert row["difference"] == pytest.approx(0.0)  # against seed 0 alone
    assert math.isnan(row["seed_difference"])
    pools = [{"pool": {**POOL, "seed": s}, "seed": s} for s in (0, 1, 2)]
    gains = {"average": 1, "ota": 2}.items()
    apart = [record(name, episodes=(40.0 + gain * p["seed"],) * 2, **p) for name, gain in gains for p in pools]
    row = row_of(compare(apart, reference="average"), "ota")  # both are steady, and the pools differ: by 0, 1 and 2
    assert (row["seed_difference"], row["seed_difference_spread"]) == pytest.approx((1.0, 1.0))
    row = row_of(compare([{**r, "pool": POOL} for r in apart], reference="average"), "ota")
    assert math.isnan(row["seed_difference"])


@pytest.mark.parametrize("other", [{"n_way": 10}, {"n_query": 5}, {"evaluation": {"seed": 2}}])
def test_what_was_tested_on_other_episodes_is_not_paired(other):
    with pytest.raises(ValueError, match="2 different sets of episodes"):
        compare([record(), record("dro", **other)])
    assert len(compare([record(), record("dro", data_digest="of images of another size")])) == 2


def test_what_is_reported_and_the_size_of_a_pool(monkeypatch):
    monkeypatch.setattr(statistics, "reported_values", lambda table: {("glyphs", "free", 1): (33.3, "there")})
    records = [record(), record(config={"k": 2}, episodes=(44.0, 64.0))]
    rows = compare(records, variant=lambda r: "k = 2" if r["config"] else "", reported="table1")
    assert row_of(rows, "free", "k = 2")["difference"] == pytest.approx(4.0)
    assert [row_of(rows, "free", v)["reported"] for v in ("", "k = 2")] == pytest.approx([33.3, math.nan], nan_ok=True)
    with pytest.raises(ValueError, match="two records of"):
        compare(records)
    known = reported_values("table1")
    assert known["cifar-fs", "free", 1][0] == 39.13
    assert ("cub", "free", 1) not in known  # not known to us: an empty cell
    mixed = {"parts": [{"take": 3, "config": {"n_models": 9}}, {"config": {"n_models": 4}}]}
    assert [pool_size(record(pool=pool)) for pool in (POOL, mixed)] == [7, 7]
    assert math.isnan(pool_size(record(pool=None)))
    with pytest.raises(ValueError, match="2 different data sets"):
        episode_means([record(), record(data_digest="e")])
    drawn = [record("ldfml", s, config={"unlabelled": "glyphs"}, data_digest=f"with images of {s}") for s in (0, 1)]
    assert row_of(compare([record(), *drawn]), "ldfml")["n_seeds"] == 2  # each seed has seen other unlabelled images
    assert episode_means([record(), record(episodes=(0.0, 0.0))]).tolist() == [20.0, 30.0]


def test_the_interval_over_seeds_is_students():
    mean, half_width = mean_over_seeds([1.0, 2.0, 6.0])
    assert (mean, half_width) == pytest.approx((3, 4.302653 * 7**0.5 / 3**0.5), rel=1e-6)
    assert math.isnan(mean_over_seeds([2.0])[1])
    spreads = [(1.0, 3), (2.0, 3), (9.0, 1), (math.nan, 3)]  # one seed, and no spread: they do not count
    assert one_seed_floor(spreads) == pytest.approx(student.ppf(0.975, 4) * 2.5**0.5)
    assert one_seed_floor(spreads[:1]) == 0  # too few degrees of freedom


@pytest.mark.parametrize(
    ("over_episodes", "over_seeds", "floor", "expected"),
    [
        ((3.0, 1.0), (3.0, 1.0), 0.0, 1),
        ((3.0, 1.0), (3.0, 4.0), 0.0, 0),  # the seeds disagree
        ((-3.0, 1.0), (-3.0, 1.0), 9.0, -1),  # the floor is for one seed only
        ((-3.0, 1.0), (3.0, 1.0), 0.0, 0),
        ((3.0, 1.0), (math.nan, math.nan), 0.0, 1),
        ((3.0, 1.0), (math.nan, math.nan), 3.5, 0),
        ((0.5, 1.0), (math.nan, math.nan), 0.0, 0),
        ((math.nan, math.nan), (math.nan, math.nan), 0.0, 0),
    ],
)
def test_significance(over_episodes, over_seeds, floor, expected):
    names = ("difference", "difference_ci95", "seed_difference", "seed_difference_ci95")
    row = pd.Series([*over_episodes, *over_seeds], index=names)
    assert significance(row, floor) == expected

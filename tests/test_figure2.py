from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from fake_methods import TINY
from test_records import fields
from tiny_models import rng, tiny_model, tiny_pool

from freelib.experiments import figure2
from freelib.run.records import complete

SMALL = replace(TINY, overrides={"*": {"width": 4}, "free": {"ngf": 4, "images_per_class": 2}})


def known():
    """Three models: two of one domain without a class in common, one of another."""
    distances = [[0.0, 1.0, 4.0], [2.0, 0.2, 5.0], [4.0, 6.0, 0.1]]
    kinds = [[0, 2, 3], [2, 0, 3], [3, 3, 0]]
    extra = {"distances": distances, "kinds": kinds, "domains": ["a", "a", "b"]}
    extra |= {"all_domains": ["a", "a", "b"], "accuracies": [0.7, 0.8, 0.9], "n_ways": [5]}
    return complete(fields(extra=extra))


def test_energy_distance_by_hand():
    a, b = torch.tensor([[[0.0], [2.0]]]), torch.tensor([[[1.0], [5.0]]])
    # E|x - y| = (1 + 5 + 1 + 3) / 4, within a: 2, within b: 4
    assert float(figure2.energy_distance(a, b)) == pytest.approx(2 * 2.5 - 2 - 4)
    two = torch.tensor([[[0.0], [2.0]], [[10.0], [14.0]]])
    # within: a class 2 and 4, across (10 + 14 + 8 + 12) / 4 = 11, each class with weight 1/2
    expected = (2 + 4 + 2 * 11) / 4
    across = torch.cdist(two.view(-1, 1), b.view(-1, 1)).mean()
    assert float(figure2.energy_distance(two, b)) == pytest.approx(float(2 * across) - expected - 4)


def test_energy_distance_of_classes_has_no_bias():
    centres = torch.tensor([[0.0, 0.0, 0.0], [6.0, 0.0, 0.0], [0.0, 6.0, 0.0]])[:, None]
    samples = [centres + torch.randn(3, 8, 3, generator=rng(seed)) for seed in range(200)]
    same = torch.stack([figure2.energy_distance(a, b) for a, b in pairwise(samples)])
    error = float(same.std() / len(same) ** 0.5)
    assert abs(float(same.mean())) < 3 * error < 0.05
    # as if the images had been drawn from the mixture: two of one class are missed, and it is below 0
    mixed = [sample.view(1, 24, 3) for sample in samples]
    plain = torch.stack([figure2.energy_distance(a, b) for a, b in pairwise(mixed)])
    assert float(plain.mean()) < -0.2
    assert float(figure2.energy_distance(samples[0], samples[1] + 3)) > 1
    # draws that share one mean and deviation, as BatchNorm makes them, are too even: why it may be below 0
    draws = [torch.randn(1, 24, 3, generator=rng(seed)) for seed in range(200)]
    even = [(x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True) for x in draws]
    free, tied = ([figure2.energy_distance(a, b) for a, b in pairwise(found)] for found in (draws, even))
    assert abs(float(torch.stack(free).mean())) < 0.03
    assert float(torch.stack(tied).mean()) < -0.06


def test_kinds_of_pairs():
    a, b, c = tiny_model(0), tiny_model(1, first_class=3), tiny_model(2, first_class=9)
    other = tiny_model(3, domain="other")
    pairs = [(a, a), (a, b), (a, c), (a, other)]
    assert [figure2.kind_of_pair(*pair) for pair in pairs] == [0, 1, 2, 3]


def test_features_are_standardised_over_all_sets():
    pool = tiny_pool(2)
    images = torch.rand(6, 3, 16, 16, generator=rng())
    features = figure2.common_features(figure2.evenly(pool, 2), images)
    assert features.shape == (6, sum(pool[i].features(images).shape[1] for i in range(2)))
    ((one, two),) = figure2.standardised([[features[:2], features[2:]]])
    both = torch.cat([one, two])
    assert float(both.mean(0).abs().max()) < 1e-5
    varying = features.std(0) > 1e-3
    assert both.var(0)[varying] * both.shape[1] == pytest.approx(1, abs=1e-3)


def test_distances_by_kind():
    found = figure2.by_kind(known()).set_index("kind")
    assert found["mean"].tolist() == pytest.approx([0.1, 1.5, (4 + 5.5) / 2])
    assert found["n_pairs"].tolist() == [3, 1, 2]
    several = found[found["n_pairs"] > 1]
    assert (several["low"] <= several["mean"]).all()
    assert (several["mean"] <= several["high"]).all()
    assert found.loc["no class in common", ["low", "high"]].isna().all()  # one pair
    gap, low, high = figure2.further(found.reset_index(), "the same model, twice", "different domains")
    back = figure2.further(found.reset_index(), "different domains", "the same model, twice")
    assert 0 < low <= gap <= high
    assert back == (-gap, -high, -low)
    none = figure2.further(found.reset_index(), "no class in common", "different domains")
    assert np.isnan(none[1:]).all()
    assert "no class in common: 1.500 (one pair)" in figure2.conclusion(known())
    assert "from 70 to 90 %" in figure2.conclusion(known())


def test_distances_by_pair_of_data_sets():
    """Two models of each of three data sets: c lies apart from both, b hardly from a."""
    domains = ["cifar-fs"] * 2 + ["cub"] * 2 + ["c"] * 2
    apart = {("cifar-fs", "cub"): 1.0, ("cifar-fs", "c"): 5.0, ("cub", "c"): 6.0}
    own = {"cifar-fs": 1.0, "cub": 3.0, "c": 2.0}
    distances = [
        [
            0.0 if i == j else own[a] if a == b else apart.get((a, b)) or apart[b, a]
            for j, b in enumerate(domains)
        ]
        for i, a in enumerate(domains)
    ]
    extra = {"distances": distances, "domains": domains, "names": list("uvwxyz"), "eyes": ["u", "w", "v"]}
    record = complete(fields(extra=extra))
    found = figure2.by_pair(record).set_index("pair")
    assert found["gap"].to_dict() == {"CIFAR-FS–CUB": -1.0, "CIFAR-FS–c": 3.5, "CUB–c": 3.5}
    assert found["high"].tolist() == [-1.0, 3.5, 3.5]  # every drawing with two of each has the same
    words = figure2.pair_sentence(record)
    assert "CIFAR-FS–CUB: 1.000 against 2.000, −1.000 [" in words.replace("-1", "−1")
    assert words.endswith("as 3 of the models see the images: 2 of CIFAR-FS, 1 of CUB.")
    assert figure2.pair_sentence(known()) == ""  # of one data set there is one model


def test_the_figure_shows_the_matrix_and_the_accuracies():
    bars, matrix, points, scale = figure2.spread_figure(known()).axes
    assert scale.get_ylabel() == "energy distance"
    assert bars.lines[0].get_ydata()[0] == pytest.approx(20)  # chance
    assert [label.get_text() for label in matrix.get_xticklabels()] == ["1", "2", "3"]
    assert matrix.lines[0].get_ydata()[0] == 1.5  # where the second domain begins
    assert [bar.get_height() for bar in bars.patches] == pytest.approx([70, 80, 90])
    assert np.array(matrix.images[0].get_array())[0].tolist() == [0, 1, 4]
    assert len(points.get_yticklabels()) == 3


def test_a_measurement_of_a_tiny_pool(tiny_world, tmp_path):
    scene = figure2.Spread.of(SMALL, results=tmp_path)
    record = scene.record(n_eyes=1)
    assert np.array(record["extra"]["distances"]).shape == (2, 2)
    assert record["extra"]["kinds"][0][0] == 0
    assert record["passes"] == 2 * 2 * 5  # two recoveries of two models in five steps
    assert scene.record(n_eyes=1) == record

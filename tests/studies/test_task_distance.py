from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny_models import rng, tiny_model, tiny_pool

from freelib.methods.free import FreeConfig
from studies import task_distance as study


def test_energy_distance_by_hand():
    a, b = torch.tensor([[[0.0], [2.0]]]), torch.tensor([[[1.0], [5.0]]])
    # E|x - y| = (1 + 5 + 1 + 3) / 4, within a: 2, within b: 4
    assert float(study.energy_distance(a, b)) == pytest.approx(2 * 2.5 - 2 - 4)
    two = torch.tensor([[[0.0], [2.0]], [[10.0], [14.0]]])
    # within: a class 2 and 4, across (10 + 14 + 8 + 12) / 4 = 11, each class with weight 1/2
    expected = (2 + 4 + 2 * 11) / 4
    across = torch.cdist(two.view(-1, 1), b.view(-1, 1)).mean()
    assert float(study.energy_distance(two, b)) == pytest.approx(float(2 * across) - expected - 4)
    centres = torch.tensor([[0.0, 0.0, 0.0], [6.0, 0.0, 0.0], [0.0, 6.0, 0.0]])[:, None]
    samples = [centres + torch.randn(3, 8, 3, generator=rng(seed)) for seed in range(200)]
    same = torch.stack([study.energy_distance(a, b) for a, b in pairwise(samples)])
    error = float(same.std() / len(same) ** 0.5)
    assert abs(float(same.mean())) < 3 * error < 0.05
    # as if the images had been drawn from the mixture: two of one class are missed, and it is below 0
    mixed = [sample.view(1, 24, 3) for sample in samples]
    plain = torch.stack([study.energy_distance(a, b) for a, b in pairwise(mixed)])
    assert float(plain.mean()) < -0.2
    assert float(study.energy_distance(samples[0], samples[1] + 3)) > 1


def test_features_are_standardised_over_all_sets_and_pairs_have_kinds():
    pool, images = tiny_pool(2), torch.rand(6, 3, 16, 16, generator=rng())
    features = study.common_features([pool[0], pool[1]], images)
    assert torch.equal(features, torch.cat([pool[i].features(images) for i in range(2)], dim=1))
    ((one, two),) = study.standardised([[features[:2], features[2:]]])
    both = torch.cat([one, two])
    assert float(both.mean(0).abs().max()) < 1e-5
    varying = features.std(0) > 1e-3
    assert both.var(0)[varying] * both.shape[1] == pytest.approx(1, abs=1e-3)
    a, b, c = tiny_model(0), tiny_model(1, first_class=3), tiny_model(2, first_class=9)
    other = tiny_model(3, domain="other")
    pairs = [(a, a), (a, b), (a, c), (a, other)]
    assert [study.kind_of_pair(*pair) for pair in pairs] == [0, 1, 2, 3]


def test_distances_between_the_tasks_of_a_tiny_pool():
    config = FreeConfig(ngf=4, images_per_class=3, meta_batch=2, adapt_steps=2)
    values = study.spread(tiny_pool(4), config, seed=0, n_models=3, n_eyes=2)
    assert values["names"] == [f"tiny-conv4-000{i}" for i in (0, 1, 2)]
    assert values["eyes"] == ["tiny-conv4-0000", "tiny-conv4-0002"]
    assert values["accuracies"] == pytest.approx([0.5, 0.6, 0.7, 0.8])
    assert values["kinds"] == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]  # model i knows classes i to i + 4
    assert np.array(values["distances"]).shape == (3, 3)
    assert values["passes"] == 2 * 3 * 2
    assert study.spread(tiny_pool(4), config, seed=0, n_models=3, n_eyes=2) == values


def test_means_of_models_drawn_anew_by_hand():
    values = np.array([[0.1, 1.0, 4.0], [1.0, 0.2, 5.0], [4.0, 5.0, 0.3]])
    own = np.eye(3, dtype=bool)
    near = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=bool)
    far = ~own & ~near
    draws = np.array([[0, 1, 2], [0, 0, 2], [0, 0, 1], [2, 2, 2]])
    found = study.resampled_means(values, {"own": own, "near": near, "far": far}, draws)
    assert found["own"].tolist() == pytest.approx([0.2, 0.2, 0.5 / 3, 0.4 / 3, 0.3])
    assert found["far"][:3].tolist() == pytest.approx([4.5, 4.5, 4.0])
    assert found["far"][3:].isna().all()  # no such pair was drawn
    assert found["near"][0] == 1
    assert found["near"][1:].isna().all()  # one pair has no spread
    assert study.resampled_means(values, {"none": own & near}, draws)["none"].isna().all()
    covered = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        x = random.uniform(size=30)
        values, pairs = abs(x[:, None] - x[None]), ~np.eye(30, dtype=bool)
        drawn = study.resampled_means(values, {"pairs": pairs}, random.integers(0, 30, (200, 30)))["pairs"]
        low, high = drawn[1:].quantile([0.025, 0.975])
        covered += low < 1 / 3 < high
    assert covered > 50

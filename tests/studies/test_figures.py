"""The studies of figures: distances between tasks, neighbours in embeddings, synthesised images."""

import base64
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from tiny_models import flat, rng, tiny_model, tiny_pool

from freelib.methods.free import FreeConfig
from freelib.methods.tgr import TgrConfig
from studies import grouping, neighbours, task_distance
from studies import synthesised_images as images_study


def test_energy_distance_by_hand():
    a, b = torch.tensor([[[0.0], [2.0]]]), torch.tensor([[[1.0], [5.0]]])
    # E|x - y| = (1 + 5 + 1 + 3) / 4, within a: 2, within b: 4
    assert float(task_distance.energy_distance(a, b)) == pytest.approx(2 * 2.5 - 2 - 4)
    two = torch.tensor([[[0.0], [2.0]], [[10.0], [14.0]]])
    # within: a class 2 and 4, across (10 + 14 + 8 + 12) / 4 = 11, each class with weight 1/2
    expected = (2 + 4 + 2 * 11) / 4
    across = torch.cdist(two.view(-1, 1), b.view(-1, 1)).mean()
    assert float(task_distance.energy_distance(two, b)) == pytest.approx(float(2 * across) - expected - 4)
    centres = torch.tensor([[0.0, 0.0, 0.0], [6.0, 0.0, 0.0], [0.0, 6.0, 0.0]])[:, None]
    samples = [centres + torch.randn(3, 8, 3, generator=rng(seed)) for seed in range(200)]
    same = torch.stack([task_distance.energy_distance(a, b) for a, b in pairwise(samples)])
    error = float(same.std() / len(same) ** 0.5)
    assert abs(float(same.mean())) < 3 * error < 0.05
    # as if the images had been drawn from the mixture: two of one class are missed, and it is below 0
    mixed = [sample.view(1, 24, 3) for sample in samples]
    plain = torch.stack([task_distance.energy_distance(a, b) for a, b in pairwise(mixed)])
    assert float(plain.mean()) < -0.2
    assert float(task_distance.energy_distance(samples[0], samples[1] + 3)) > 1


def test_features_are_standardised_over_all_sets_and_pairs_have_kinds():
    pool, images = tiny_pool(2), torch.rand(6, 3, 16, 16, generator=rng())
    features = task_distance.common_features([pool[0], pool[1]], images)
    assert torch.equal(features, torch.cat([pool[i].features(images) for i in range(2)], dim=1))
    ((one, two),) = task_distance.standardised([[features[:2], features[2:]]])
    both = torch.cat([one, two])
    assert float(both.mean(0).abs().max()) < 1e-5
    varying = features.std(0) > 1e-3
    assert both.var(0)[varying] * both.shape[1] == pytest.approx(1, abs=1e-3)
    a, b, c = tiny_model(0), tiny_model(1, first_class=3), tiny_model(2, first_class=9)
    other = tiny_model(3, domain="other")
    pairs = [(a, a), (a, b), (a, c), (a, other)]
    assert [task_distance.kind_of_pair(*pair) for pair in pairs] == [0, 1, 2, 3]


def test_distances_between_the_tasks_of_a_tiny_pool():
    config = FreeConfig(ngf=4, images_per_class=3, meta_batch=2, adapt_steps=2)
    values = task_distance.spread(tiny_pool(4), config, seed=0, n_models=3, n_eyes=2)
    assert values["names"] == [f"tiny-conv4-000{i}" for i in (0, 1, 2)]
    assert values["eyes"] == ["tiny-conv4-0000", "tiny-conv4-0002"]
    assert values["accuracies"] == pytest.approx([0.5, 0.6, 0.7, 0.8])
    assert values["kinds"] == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]  # model i knows classes i to i + 4
    assert np.array(values["distances"]).shape == (3, 3)
    assert values["passes"] == 2 * 3 * 2
    assert task_distance.spread(tiny_pool(4), config, seed=0, n_models=3, n_eyes=2) == values


def test_means_of_models_drawn_anew_by_hand():
    values = np.array([[0.1, 1.0, 4.0], [1.0, 0.2, 5.0], [4.0, 5.0, 0.3]])
    own = np.eye(3, dtype=bool)
    near = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=bool)
    far = ~own & ~near
    draws = np.array([[0, 1, 2], [0, 0, 2], [0, 0, 1], [2, 2, 2]])
    found = task_distance.resampled_means(values, {"own": own, "near": near, "far": far}, draws)
    assert found["own"].tolist() == pytest.approx([0.2, 0.2, 0.5 / 3, 0.4 / 3, 0.3])
    assert found["far"][:3].tolist() == pytest.approx([4.5, 4.5, 4.0])
    assert found["far"][3:].isna().all()  # no such pair was drawn
    assert found["near"][0] == 1
    assert found["near"][1:].isna().all()  # one pair has no spread
    assert task_distance.resampled_means(values, {"none": own & near}, draws)["none"].isna().all()
    covered = 0
    for seed in range(60):
        random = np.random.default_rng(seed)
        x = random.uniform(size=30)
        values, pairs = abs(x[:, None] - x[None]), ~np.eye(30, dtype=bool)
        drawn = task_distance.resampled_means(values, {"pairs": pairs}, random.integers(0, 30, (200, 30)))["pairs"]
        low, high = drawn[1:].quantile([0.025, 0.975])
        covered += low < 1 / 3 < high
    assert covered > 50


def test_neighbours_by_hand_and_tsne():
    features = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    near = neighbours.neighbours(features, 2)
    assert [sorted(row) for row in near.tolist()] == [[1, 2], [0, 2], [0, 1], [1, 2]]
    assert neighbours.purity(near, torch.tensor([0, 0, 1, 1])) == pytest.approx((1 + 1 + 0 + 1) / 8)
    other = torch.tensor([[1, 3], [0, 2], [3, 1], [0, 3]])
    assert neighbours.overlap(near, other) == pytest.approx((1 + 2 + 1 + 0) / 8)
    assert neighbours.overlap(near, near) == 1
    a, b = (neighbours.neighbours(torch.randn(400, 5, generator=rng(seed)), 20) for seed in (0, 1))
    assert neighbours.overlap(a, b) == pytest.approx(20 / 399, abs=0.005)
    assert neighbours.purity(a, torch.arange(400) % 4) == pytest.approx(99 / 399, abs=0.02)
    clusters = torch.randn(2, 20, 8, generator=rng()) + torch.tensor([0.0, 30.0]).view(2, 1, 1)
    points = np.array(neighbours.tsne(clusters.flatten(0, 1))).reshape(2, 20, 2)
    gap = np.linalg.norm(points[0].mean(0) - points[1].mean(0))
    assert gap > 2 * points.std(axis=1).max()


def test_several_models_on_the_same_images(tiny_dataset):
    pool = tiny_pool(5)
    values = neighbours.same_samples(pool, tiny_dataset, n_models=3, n_classes=3, n_images=8, k=4)
    assert values["models"] == [f"tiny-conv4-000{i}" for i in (0, 2, 4)]  # even steps of accuracy
    assert values["accuracies"] == pytest.approx([0.5, 0.7, 0.9])
    assert values["labels"] == [0] * 8 + [1] * 8 + [2] * 8
    assert values["class_names"] == ["blob 0", "blob 1", "blob 2"]
    assert np.array(values["points"]).shape == (3, 24, 2)
    assert values["chance_overlap"] == pytest.approx(4 / 23)
    shown = torch.cat([tiny_dataset.class_images(c)[:8] for c in range(3)]) / 255
    with torch.no_grad():
        near = [neighbours.neighbours(pool[i].features(shown), 4) for i in (0, 2, 4)]
    assert values["overlaps"] == [neighbours.overlap(near[i], near[j]) for i, j in ((0, 1), (0, 2), (1, 2))]


SMALL = FreeConfig(ngf=4, images_per_class=3, meta_batch=2, n_way=5)


def test_a_warm_generator_has_met_models():
    cold, warm, again = (images_study.warm_generator(tiny_pool(), SMALL, rng(), seed=0, rounds=n) for n in (0, 2, 2))
    other = images_study.warm_generator(tiny_pool(), SMALL, rng(), seed=1, rounds=0)
    cold, warm, again, other = (flat(each.generator.parameters()) for each in (cold, warm, again, other))
    assert torch.equal(warm, again)
    assert not torch.equal(cold, other)
    # each of the two outer steps of Adam moves a weight by at most about its rate
    assert 0 < float((warm - cold).abs().max()) < 2.5 * SMALL.meta_lr


@pytest.mark.parametrize(("n", "names"), [(2, [0, 2]), (3, [0, 1, 3]), (9, [0, 1, 2, 3, 4])])
def test_models_at_even_steps(n, names):
    assert [model.name for model in images_study.evenly(tiny_pool(5), n)] == [f"tiny-conv4-000{i}" for i in names]


def test_tasks_start_from_one_noise():
    updates = (0, 1, 4)
    none, one, four = tasks = images_study.tasks_after(tiny_pool(3), SMALL, updates, seed=0)
    assert len({task.model.name for task in tasks}) == 1
    assert [len(task.losses) for task in tasks] == [1, 2, 5]
    assert torch.equal(one.losses, four.losses[:2])
    # one update of Adam moves each weight by at most its rate: the images are near, but not the same
    assert 0 < float((none.images - one.images).abs().max()) < 0.5
    values = images_study.accuracy_after(tasks, updates)
    with torch.no_grad():
        right = four.model(four.images).argmax(1) == four.labels
    assert values["agreement"][-1] == pytest.approx(float(right.float().mean()))
    assert values["loss"] == [float(task.losses[-1]) for task in tasks]
    assert values["passes"] == 1 + 2 + 5


def test_an_image_of_each_class_of_some_models():
    pool = tiny_pool(4)
    values = images_study.one_image_per_class(pool, SMALL, seed=0, models=2)
    assert values["models"] == ["tiny-conv4-0000", "tiny-conv4-0002"]
    assert values["class_names"] == [list(pool[i].class_names) for i in (0, 2)]
    assert values["passes"] == 5 * (5 * 2 + 2)  # iterations × (rounds × models a round + models)
    draws = rng()
    generator = images_study.warm_generator(pool, SMALL, draws, seed=0)
    tasks = [generator.adapt(pool[i], None, draws) for i in (0, 2)]
    images = torch.stack([task.images[:: SMALL.images_per_class] for task in tasks])
    found = images_study.images_of(base64.b64decode(values["png"]), 2)
    assert float((found / 255 - images).abs().max()) <= 0.51 / 255
    rows = torch.randint(0, 256, (2, 3, 3, 8, 8), generator=rng())
    assert torch.equal(images_study.images_of(images_study.png(list(rows / 255)), 2), rows.to(torch.uint8))


def test_the_likeness_of_a_tiny_pools_models():
    config = TgrConfig(ngf=4, images_per_class=3, grouping_steps=2, groups=2)
    values = grouping.likeness(tiny_pool(4), config, seed=0)
    alike = np.array(values["similarity"])
    assert alike.shape == (4, 4)
    assert ((alike > 0) & (alike < 1)).all()  # the same model twice too: its images are others
    assert values["common_classes"] == [[5 - abs(i - j) for j in range(4)] for i in range(4)]
    assert [len(groups) for groups in values["groups"]] == [4, 4]
    assert values["agreement"] == pytest.approx(adjusted_rand_score(*values["groups"]), abs=1e-5)
    assert values["passes"] == 2 * 4 * 2
    assert values == grouping.likeness(tiny_pool(4), config, seed=0)

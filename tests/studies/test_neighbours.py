import numpy as np
import pytest
import torch
from tiny_models import rng, tiny_pool

from studies import neighbours as study


def test_neighbours_by_hand():
    features = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    near = study.neighbours(features, 2)
    assert [sorted(row) for row in near.tolist()] == [[1, 2], [0, 2], [0, 1], [1, 2]]
    assert study.purity(near, torch.tensor([0, 0, 1, 1])) == pytest.approx((1 + 1 + 0 + 1) / 8)
    other = torch.tensor([[1, 3], [0, 2], [3, 1], [0, 3]])
    assert study.overlap(near, other) == pytest.approx((1 + 2 + 1 + 0) / 8)
    assert study.overlap(near, near) == 1
    a, b = (study.neighbours(torch.randn(400, 5, generator=rng(seed)), 20) for seed in (0, 1))
    assert study.overlap(a, b) == pytest.approx(20 / 399, abs=0.005)
    assert study.purity(a, torch.arange(400) % 4) == pytest.approx(99 / 399, abs=0.02)


def test_tsne_keeps_two_clusters_apart():
    clusters = torch.randn(2, 20, 8, generator=rng()) + torch.tensor([0.0, 30.0]).view(2, 1, 1)
    points = np.array(study.tsne(clusters.flatten(0, 1))).reshape(2, 20, 2)
    gap = np.linalg.norm(points[0].mean(0) - points[1].mean(0))
    assert gap > 2 * points.std(axis=1).max()


def test_several_models_on_the_same_images(tiny_dataset):
    pool = tiny_pool(5)
    values = study.same_samples(pool, tiny_dataset, n_models=3, n_classes=3, n_images=8, k=4)
    assert values["models"] == [f"tiny-conv4-000{i}" for i in (0, 2, 4)]  # even steps of accuracy
    assert values["accuracies"] == pytest.approx([0.5, 0.7, 0.9])
    assert values["labels"] == [0] * 8 + [1] * 8 + [2] * 8
    assert values["class_names"] == ["blob 0", "blob 1", "blob 2"]
    assert np.array(values["points"]).shape == (3, 24, 2)
    assert values["chance_overlap"] == pytest.approx(4 / 23)
    shown = torch.cat([tiny_dataset.class_images(c)[:8] for c in range(3)]) / 255
    with torch.no_grad():
        near = [study.neighbours(pool[i].features(shown), 4) for i in (0, 2, 4)]
    assert values["overlaps"] == [study.overlap(near[i], near[j]) for i, j in ((0, 1), (0, 2), (1, 2))]

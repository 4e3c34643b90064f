import numpy as np
import pytest
import torch
from fake_methods import TINY

from freelib.experiments import figure4


def test_neighbours_by_hand():
    features = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    near = figure4.neighbours(features, 2)
    assert [sorted(row) for row in near.tolist()] == [[1, 2], [0, 2], [0, 1], [1, 2]]
    assert figure4.purity(near, torch.tensor([0, 0, 1, 1])) == pytest.approx((1 + 1 + 0 + 1) / 8)
    other = torch.tensor([[1, 3], [0, 2], [3, 1], [0, 3]])
    assert figure4.overlap(near, other) == pytest.approx((1 + 2 + 1 + 0) / 8)
    assert figure4.overlap(near, near) == 1


def test_a_measurement_and_its_figure(tiny_world, tmp_path):
    scene = figure4.SameSamples.of(TINY, results=tmp_path)
    record = scene.record(n_models=2, n_classes=3, n_images=8)
    extra = record["extra"]
    assert np.array(extra["points"]).shape == (2, 24, 2)
    assert extra["labels"] == [0] * 8 + [1] * 8 + [2] * 8
    assert extra["chance_overlap"] == pytest.approx(10 / 23)
    accuracies = [d["accuracy"] for d in scene.pool.descriptions]
    assert extra["accuracies"] == sorted(accuracies)
    assert scene.record(n_models=2, n_classes=3, n_images=8) == record
    figure = figure4.tsne_figure(record)
    first, second = figure.axes
    assert first.collections[1].get_offsets().tolist() == extra["points"][0][8:16]
    assert f"purity {extra['purity'][1]:.2f}" in second.get_title()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == extra["class_names"]
    low = round(100 * min(extra["overlaps"]))
    assert f"share from {low} to" in figure4.conclusion(record)

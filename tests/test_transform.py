"""From images in [0, 1] to a network's input."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from tiny_models import rng

from freelib.models.transform import ImageTransform

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.5)


def test_images_are_normalised_by_channel():
    x = torch.rand(2, 3, 8, 8, generator=rng(), dtype=torch.float64)
    out = ImageTransform(MEAN, STD, 8)(x)
    for c in range(3):
        torch.testing.assert_close(out[:, c], (x[:, c] - MEAN[c]) / STD[c])


def test_images_of_another_size_are_resized_first():
    x = torch.rand(2, 3, 16, 16, generator=rng())
    small = F.interpolate(x, (8, 8), mode="bilinear", antialias=True)
    transform = ImageTransform(MEAN, STD, 8)
    assert torch.equal(transform(x), transform(small))
    flat = torch.full((1, 3, 5, 7), 0.5)
    torch.testing.assert_close(transform(flat)[:, 0], torch.zeros(1, 8, 8))


def test_constants_made_in_inference_mode_serve_training():
    transform = ImageTransform(MEAN, STD, 4)
    with torch.inference_mode():
        transform(torch.rand(1, 3, 4, 4))
    x = torch.rand(1, 3, 4, 4, requires_grad=True)
    transform(x).sum().backward()
    torch.testing.assert_close(x.grad[0, :, 0, 0], 1 / torch.tensor(STD))


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda x: x.mul(255).byte(), r"\(2, 3, 4, 4\) torch.uint8"),
        (lambda x: x[:, :1], r"\(2, 1, 4, 4\)"),
        (lambda x: x[0], r"\(3, 4, 4\)"),
    ],
)
def test_images_that_are_none_are_refused(change, got):
    with pytest.raises(ValueError, match=rf"Images are \(n, 3, H, W\), float in \[0, 1\], got {got}"):
        ImageTransform(MEAN, STD, 4)(change(torch.rand(2, 3, 4, 4, generator=rng())))


def test_it_can_be_copied_and_pickled():
    transform = ImageTransform(MEAN, STD, 4)
    x = torch.rand(1, 3, 4, 4)
    for other in (copy.deepcopy(transform), pickle.loads(pickle.dumps(transform))):
        assert torch.equal(other(x), transform(x))

"""Crop and flip, pixel by pixel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from tiny_models import rng

from freelib.models.augmentation import random_crop_flip


def images(n: int = 40) -> torch.Tensor:
    return torch.rand(n, 3, 5, 6, generator=rng(), dtype=torch.float64)


def test_without_padding_and_flip_nothing_changes():
    assert torch.equal(random_crop_flip(images(), rng(), padding=0, flip=False), images())


def test_without_padding_an_image_is_itself_or_its_mirror():
    x = images(200)
    out = random_crop_flip(x, rng(), padding=0)
    same = (out == x).flatten(1).all(1)
    mirrored = (out == x.flip(3)).flatten(1).all(1)
    assert torch.equal(same, ~mirrored)
    assert 70 < int(mirrored.sum()) < 130


def test_each_image_is_shifted_by_its_own_of_all_shifts():
    x = images(200)
    out = random_crop_flip(x, rng(), padding=1, flip=False)
    padded = F.pad(x, [1, 1, 1, 1])
    shifts = {(a, b): padded[:, :, a : a + 5, b : b + 6] for a in range(3) for b in range(3)}
    hits = {key: (out == shifted).flatten(1).all(1) for key, shifted in shifts.items()}
    assert torch.stack(list(hits.values())).sum(0).eq(1).all()  # each image is one of the nine
    assert all(int(hit.sum()) > 5 for hit in hits.values())


def test_the_flip_mirrors_what_was_cropped():
    x = images(60)
    plain = random_crop_flip(x, rng(7), padding=2, flip=False)
    flipped = random_crop_flip(x, rng(7), padding=2)
    same = (flipped == plain).flatten(1).all(1)
    assert torch.equal(flipped[~same], plain[~same].flip(3))
    assert 0 < int(same.sum()) < 60


def test_gradients_reach_the_pixels_that_were_kept_and_no_others():
    x = images().requires_grad_()
    weights = torch.rand(x.shape, generator=rng(3), dtype=torch.float64)
    (random_crop_flip(x, rng(5), padding=2) * weights).sum().backward()
    # The transform is linear and moves pixels: its transpose moves the weights back.
    marks = torch.arange(1.0, x.numel() + 1, dtype=torch.float64).view(x.shape)  # 0 is the padding's
    moved = random_crop_flip(marks, rng(5), padding=2).long().flatten()
    expected = torch.zeros(x.numel() + 1, dtype=torch.float64).index_add_(0, moved, weights.flatten())[1:]
    torch.testing.assert_close(x.grad.flatten(), expected)
    assert (x.grad == 0).any()


def test_the_layout_in_memory_makes_no_difference():
    x = images()
    out = random_crop_flip(x.contiguous(memory_format=torch.channels_last), rng(2))
    assert torch.equal(out, random_crop_flip(x, rng(2)))

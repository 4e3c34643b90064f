import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from tiny_models import rng

from freelib.models.transform import ImageTransform, random_crop_flip

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.5)


def test_images_are_resized_and_normalised_by_channel():
    x = torch.rand(2, 3, 8, 8, generator=rng(), dtype=torch.float64)
    out = ImageTransform(MEAN, STD, 8)(x)
    for c in range(3):
        torch.testing.assert_close(out[:, c], (x[:, c] - MEAN[c]) / STD[c])
    x = torch.rand(2, 3, 16, 16, generator=rng())
    small = F.interpolate(x, (8, 8), mode="bilinear", antialias=True)
    transform = ImageTransform(MEAN, STD, 8)
    assert torch.equal(transform(x), transform(small))
    flat = torch.full((1, 3, 5, 7), 0.5)
    torch.testing.assert_close(transform(flat)[:, 0], torch.zeros(1, 8, 8))


def test_it_serves_training_wherever_it_was_made_and_can_be_copied():
    transform = ImageTransform(MEAN, STD, 4)
    with torch.inference_mode():
        transform(torch.rand(1, 3, 4, 4))
    x = torch.rand(1, 3, 4, 4, requires_grad=True)
    transform(x).sum().backward()
    torch.testing.assert_close(x.grad[0, :, 0, 0], 1 / torch.tensor(STD))
    x = torch.rand(1, 3, 4, 4)
    for other in (copy.deepcopy(transform), pickle.loads(pickle.dumps(transform))):
        assert torch.equal(other(x), transform(x))


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


def images(n: int = 40) -> torch.Tensor:
    return torch.rand(n, 3, 5, 6, generator=rng(), dtype=torch.float64)


def test_a_crop_shifts_and_a_flip_mirrors_each_image_by_itself():
    x = images(200)
    assert torch.equal(random_crop_flip(x, rng(), padding=0, flip=False), x)
    out = random_crop_flip(x, rng(), padding=0)
    same = (out == x).flatten(1).all(1)
    mirrored = (out == x.flip(3)).flatten(1).all(1)
    assert torch.equal(same, ~mirrored)
    assert 70 < int(mirrored.sum()) < 130
    out = random_crop_flip(x, rng(), padding=1, flip=False)
    padded = F.pad(x, [1, 1, 1, 1])
    shifts = {(a, b): padded[:, :, a : a + 5, b : b + 6] for a in range(3) for b in range(3)}
    hits = {key: (out == shifted).flatten(1).all(1) for key, shifted in shifts.items()}
    assert torch.stack(list(hits.values())).sum(0).eq(1).all()  # each image is one of the nine
    assert all(int(hit.sum()) > 5 for hit in hits.values())


def test_the_flip_mirrors_what_was_cropped_whatever_the_layout_in_memory():
    x = images(60)
    plain = random_crop_flip(x, rng(7), padding=2, flip=False)
    flipped = random_crop_flip(x, rng(7), padding=2)
    same = (flipped == plain).flatten(1).all(1)
    assert torch.equal(flipped[~same], plain[~same].flip(3))
    assert 0 < int(same.sum()) < 60
    assert torch.equal(random_crop_flip(x.to(memory_format=torch.channels_last), rng(7), padding=2), flipped)


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

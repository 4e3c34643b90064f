import torch
from tiny_models import rng

from freelib.methods.mixing import jitter_colours, mixed_images, paste_patches, random_zoom

IMAGES = torch.rand(40, 3, 16, 16, generator=rng())


def test_a_zoom_of_the_whole_is_the_image():
    torch.testing.assert_close(random_zoom(IMAGES, rng(), smallest=1.0), IMAGES, atol=1e-5, rtol=0)


def test_a_zoom_shows_a_window():
    ramp = torch.linspace(0, 1, 32).expand(64, 1, 32, 32)
    zoomed = random_zoom(ramp, rng(), smallest=0.5)
    width = zoomed[:, 0, 0, -1] - zoomed[:, 0, 0, 0]  # of the window, by the ramp's values
    assert 0.45 < width.min() < 0.6
    assert 0.9 < width.max() <= 1.0
    torch.testing.assert_close(zoomed[:, 0, 0], zoomed[:, 0, 5])  # nothing turns


def test_a_patch_is_a_rectangle_of_a_tenth_to_a_half():
    mask = paste_patches(torch.zeros(400, 1, 32, 32), torch.ones(400, 1, 32, 32), rng())[:, 0]
    area = mask.mean((1, 2))
    assert 0.07 < area.min() < 0.13
    assert 0.4 < area.max() < 0.55
    rectangles = mask.amax(2)[:, :, None] * mask.amax(1)[:, None, :]
    assert torch.equal(mask, rectangles)


def test_colours_stay_without_strength_and_move_with_it():
    torch.testing.assert_close(jitter_colours(IMAGES, rng(), strength=0.0), IMAGES)
    moved = jitter_colours(IMAGES, rng(), strength=0.5)
    assert 0 <= moved.min() <= moved.max() <= 1
    spread = moved.std((1, 2, 3)) / IMAGES.std((1, 2, 3))
    assert spread.std() > 0.1


def test_mixtures_are_reproducible_and_come_from_the_images():
    images = IMAGES.mul(255).to(torch.uint8)
    mixed = mixed_images(images, 25, rng(1))
    assert mixed.dtype == torch.uint8
    assert mixed.shape == (25, 3, 16, 16)
    assert torch.equal(mixed, mixed_images(images, 25, rng(1)))
    assert mixed_images(images, 0, rng()).shape == (0, 3, 16, 16)
    grey = mixed_images(torch.full((3, 3, 8, 8), 100, dtype=torch.uint8), 10, rng())
    assert (grey.flatten(2).float().std(2) == 0).all()

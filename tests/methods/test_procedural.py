import pytest
import torch
from tiny_models import rng

from freelib.methods.mixing import jitter_colours, mixed_images, paste_patches, random_zoom
from freelib.methods.procedural import layered_textures, noise_fields, procedural_images, shapes, textures

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def slope(fields: torch.Tensor) -> float:
    """Exponent a of the amplitudes' fall 1/f^a, by two bands of frequencies."""
    size = fields.shape[-1]
    window = torch.hann_window(size, periodic=False)
    power = torch.fft.fft2(fields * window[:, None] * window).abs().square().mean(0)
    f = torch.fft.fftfreq(size)
    radius = (f[:, None].square() + f.square()).sqrt()
    low, high = ((radius > a) & (radius < 1.2 * a) for a in (0.1, 0.3))
    return float((power[low].mean() / power[high].mean()).log() / torch.tensor(3.0).log() / 2)


@pytest.mark.parametrize("exponent", [0.5, 1.5])
def test_amplitudes_fall_as_asked(exponent):
    fields = noise_fields(400, 32, rng(), low=exponent, high=exponent)
    torch.testing.assert_close(fields.mean((1, 2)), torch.zeros(400), atol=1e-5, rtol=0)
    torch.testing.assert_close(fields.std((1, 2)), torch.ones(400), atol=1e-4, rtol=0)
    assert slope(fields) == pytest.approx(exponent, abs=0.25)


def test_masks_textures_zooms_and_patches():
    masks = shapes(300, 16, rng())
    assert masks.shape == (300, 1, 16, 16)
    assert 0 <= masks.min() < 0.01
    assert 0.99 < masks.max() <= 1
    assert 0.1 < masks.mean() < 0.5
    x = textures(500, 8, rng())
    flat = x.permute(0, 2, 3, 1).reshape(-1, 3)
    brightness, colour = flat.mean(1).var(), (flat[:, 0] - flat[:, 2]).div(2).var()
    assert brightness > 4 * colour
    ramp = torch.linspace(0, 1, 32).expand(64, 1, 32, 32)
    zoomed = random_zoom(ramp, rng(), smallest=0.5)
    width = zoomed[:, 0, 0, -1] - zoomed[:, 0, 0, 0]  # of the window, by the ramp's values
    assert 0.45 < width.min() < 0.6
    assert 0.9 < width.max() <= 1.0
    torch.testing.assert_close(zoomed[:, 0, 0], zoomed[:, 0, 5])  # nothing turns
    torch.testing.assert_close(random_zoom(IMAGES, rng(), smallest=1.0), IMAGES, atol=1e-5, rtol=0)
    mask = paste_patches(torch.zeros(400, 1, 32, 32), torch.ones(400, 1, 32, 32), rng())[:, 0]
    area = mask.mean((1, 2))
    assert 0.07 < area.min() < 0.13
    assert 0.4 < area.max() < 0.55
    rectangles = mask.amax(2)[:, :, None] * mask.amax(1)[:, None, :]
    assert torch.equal(mask, rectangles)


def test_images_have_the_colours_and_layers_asked_for():
    x = procedural_images(1200, 16, rng(), mean=MEAN, std=STD)
    assert x.dtype == torch.uint8
    assert x.shape == (1200, 3, 16, 16)
    found = x.float().div(255)
    torch.testing.assert_close(found.mean((0, 2, 3)), torch.tensor(MEAN), atol=0.04, rtol=0)
    assert (found.std((0, 2, 3)) / torch.tensor(STD) > 0.6).all()
    bare, layered = (layered_textures(50, 16, rng(), layers) for layers in ((0, 0), (8, 8)))
    assert bare.std((2, 3)).mean() < layered.std((2, 3)).mean()
    first, again, other = (procedural_images(4, 16, rng(seed), mean=MEAN, std=STD) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert procedural_images(0, 16, rng(), mean=MEAN, std=STD).shape == (0, 3, 16, 16)


IMAGES = torch.rand(40, 3, 16, 16, generator=rng())


def test_mixtures_are_reproducible_and_come_from_the_images():
    images = IMAGES.mul(255).to(torch.uint8)
    mixed = mixed_images(images, 25, rng(1))
    assert mixed.dtype == torch.uint8
    assert mixed.shape == (25, 3, 16, 16)
    assert torch.equal(mixed, mixed_images(images, 25, rng(1)))
    assert mixed_images(images, 0, rng()).shape == (0, 3, 16, 16)
    grey = mixed_images(torch.full((3, 3, 8, 8), 100, dtype=torch.uint8), 10, rng())
    assert (grey.flatten(2).float().std(2) == 0).all()
    torch.testing.assert_close(jitter_colours(IMAGES, rng(), strength=0.0), IMAGES)
    moved = jitter_colours(IMAGES, rng(), strength=0.5)
    assert 0 <= moved.min() <= moved.max() <= 1
    spread = moved.std((1, 2, 3)) / IMAGES.std((1, 2, 3))
    assert spread.std() > 0.1

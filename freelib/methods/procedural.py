"""Images without a camera: layers of coloured noise, cut out by soft random shapes (after "dead leaves")."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# Brightness and two opposed colours: nature's colours vary mostly in brightness.
OPPONENT = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [0.5, -1.0, 0.5]])
OPPONENT = OPPONENT / OPPONENT.norm(dim=1, keepdim=True)


def _uniform(shape: Sequence[int], low: float, high: float, rng: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=rng)


def _log_normal(shape: Sequence[int], mean: float, spread: float, rng: torch.Generator) -> Tensor:
    return (mean + spread * torch.randn(*shape, generator=rng)).exp()


def noise_fields(n: int, size: int, rng: torch.Generator, *, low: float = 0.5, high: float = 2.5) -> Tensor:
    """Fields `(n, size, size)` of mean 0 and deviation 1 whose amplitudes fall as 1/f^a, each stretched.

    low, high: of a, drawn for each field (photographs: about 1)
    """
    period = size * 3 // 2  # cut from a larger torus, so that opposite edges do not meet
    down, right = torch.fft.fftfreq(period)[:, None], torch.fft.rfftfreq(period)[None]
    exponent, angle = _uniform((n, 1, 1), low, high, rng), _uniform((n, 1, 1), 0, math.pi, rng)
    stretch = _log_normal((n, 1, 1), 0.0, 0.5, rng)
    along = (right * angle.cos() + down * angle.sin()) * stretch
    across = (down * angle.cos() - right * angle.sin()) / stretch
    frequency = (along.square() + across.square()).sqrt().clamp_min(1 / period)
    spectrum = torch.fft.rfft2(torch.randn(n, period, period, generator=rng)) * frequency**-exponent
    fields = torch.fft.irfft2(spectrum, s=(period, period))[:, :size, :size]
    fields = fields - fields.mean((1, 2), keepdim=True)
    return fields / fields.std((1, 2), keepdim=True).clamp_min(1e-6)


def textures(n: int, size: int, rng: torch.Generator) -> Tensor:
    """Coloured noise `(n, 3, size, size)` around a colour of its own; mean 0, deviation about 1 over many."""
    fields = noise_fields(3 * n, size, rng).view(n, 3, size, size)
    weight = torch.tensor([0.9, 0.35, 0.15]) * _log_normal((n, 3), 0.0, 0.5, rng)
    contrast = _log_normal((n, 1, 1, 1), -1.2, 0.7, rng)
    colour = (torch.randn(n, 3, generator=rng) * torch.tensor([1.5, 0.5, 0.3])) @ OPPONENT
    return colour[:, :, None, None] + contrast * torch.einsum("nkhw,nk,kc->nchw", fields, weight, OPPONENT)


def shapes(n: int, size: int, rng: torch.Generator) -> Tensor:
    """Soft masks `(n, 1, size, size)` in [0, 1]: ellipses, boxes and half planes with uneven edges."""
    ticks = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    centre_x, centre_y = _uniform((2, n, 1, 1), -0.8, 0.8, rng)
    angle = _uniform((n, 1, 1), 0, math.pi, rng)
    radius, aspect = _log_normal((n, 1, 1), -1.0, 0.6, rng), _log_normal((n, 1, 1), 0.0, 0.5, rng)
    along = (x - centre_x) * angle.cos() + (y - centre_y) * angle.sin()
    across = (y - centre_y) * angle.cos() - (x - centre_x) * angle.sin()
    roundness = torch.where(torch.rand(n, 1, 1, generator=rng) < 0.5, 2.0, 6.0)  # an ellipse or a box
    reach = (along / (radius * aspect)).abs() ** roundness + (across / (radius / aspect)).abs() ** roundness
    inside = 1 - reach ** (1 / roundness)
    inside = torch.where(torch.rand(n, 1, 1, generator=rng) < 0.15, 3 * along, inside)
    inside = inside + noise_fields(n, size, rng, low=1.5, high=3.0) * _uniform((n, 1, 1), 0, 0.6, rng)
    sharpness = 2 * _uniform((n, 1, 1), 0.7, 3.2, rng).exp()
    return torch.sigmoid(inside * sharpness)[:, None]


def check_colour(channels: int, advice: str = "") -> None:
    """Raises ValueError, with the advice, for other than three channels: procedural images have these."""
    if channels != 3:
        raise ValueError(f"Procedural images have 3 channels, not {channels}{advice}.")


def layered_textures(n: int, size: int, rng: torch.Generator, layers: tuple[int, int]) -> Tensor:
    """A texture each, `(n, 3, size, size)`, and `layers` (from, to) textures laid over it by shapes."""
    images = textures(n, size, rng)
    count = torch.randint(layers[0], layers[1] + 1, (n,), generator=rng)
    for layer in range(layers[1]):
        rows = (count > layer).nonzero().flatten()
        if len(rows):
            cover = shapes(len(rows), size, rng)
            images[rows] = torch.lerp(images[rows], textures(len(rows), size, rng), cover)
    contrast = 0.75 * _log_normal((n, 1, 1, 1), 0.0, 0.35, rng)
    return images * contrast + 0.35 * torch.randn(n, 1, 1, 1, generator=rng)


def procedural_images(
    n: int, size: int, rng: torch.Generator, *, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Images uint8 `(n, 3, size, size)` of 2 to 8 layers, see `layered_textures`.

    mean, std: of the colours in [0, 1], such as the pool's normalisation

    Raises ValueError for colours of other than three channels.
    """
    check_colour(len(mean))
    scale, shift = (torch.tensor(values).view(1, 3, 1, 1) for values in (std, mean))
    images = torch.empty(n, 3, size, size, dtype=torch.uint8)
    for start in range(0, n, 500):  # in parts, so that memory stays small
        part = images[start : start + 500]
        colours = layered_textures(len(part), size, rng, (2, 8)) * scale + shift
        part.copy_(colours.clamp(0, 1).mul(255).round())
    return images

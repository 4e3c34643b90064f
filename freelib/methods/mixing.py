"""New images from those at hand: zooms, patches of one in another, other colours (labels are asked anew)."""

import torch
from torch import Tensor


def random_zoom(images: Tensor, rng: torch.Generator, *, smallest: float = 0.5) -> Tensor:
    """Square windows, of a side from `smallest` to 1, of images `(n, C, H, W)` float, at the images' size."""
    n = len(images)
    side = smallest + (1 - smallest) * torch.rand(n, generator=rng)
    shift = (2 * torch.rand(n, 2, generator=rng) - 1) * (1 - side)[:, None]
    window = torch.zeros(n, 2, 3)
    window[:, 0, 0] = window[:, 1, 1] = side
    window[:, :, 2] = shift
    grid = torch.nn.functional.affine_grid(window, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def paste_patches(images: Tensor, others: Tensor, rng: torch.Generator) -> Tensor:
    """Each image `(n, C, H, W)` with a rectangle of its counterpart's, 10 to 50 % of the area (CutMix).

    Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features, 2019.
    """
    n, _, height, width = images.shape
    area = 0.1 + 0.4 * torch.rand(n, generator=rng)
    aspect = (0.5 * torch.randn(n, generator=rng)).exp()
    tall, wide = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    top, left = torch.rand(2, n, generator=rng) * torch.stack([1 - tall, 1 - wide])
    y, x = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
    rows = (y >= top[:, None]) & (y <= (top + tall)[:, None])
    columns = (x >= left[:, None]) & (x <= (left + wide)[:, None])
    return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], others, images)


def jitter_colours(images: Tensor, rng: torch.Generator, *, strength: float = 0.25) -> Tensor:
    """Images `(n, C, H, W)` in [0, 1] with another brightness, contrast and colour balance each."""
    n, channels = images.shape[:2]
    gain = (strength * torch.randn(n, 1, 1, 1, generator=rng)).exp()
    balance = (0.4 * strength * torch.randn(n, channels, 1, 1, generator=rng)).exp()
    offset = 0.4 * strength * torch.randn(n, 1, 1, 1, generator=rng)
    mean = images.mean((1, 2, 3), keepdim=True)
    return ((images - mean) * gain * balance + mean + offset).clamp(0, 1)


def mixed_images(images: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """New images, uint8 `(n, C, H, W)`, each from two of those given, zoomed, one pasted into the other.

    Half of them keep to one image; all have their colours changed.
    """
    mixed = images.new_empty(n, *images.shape[1:])
    for start in range(0, n, 1000):  # in parts, so that memory stays small
        part = mixed[start : start + 1000]
        rows = torch.randint(len(images), (2, len(part)), generator=rng)
        one, other = (random_zoom(images[row].float().div_(255), rng) for row in rows)
        both = paste_patches(one, other, rng)
        alone = torch.rand(len(part), 1, 1, 1, generator=rng) < 0.5
        part.copy_(jitter_colours(torch.where(alone, one, both), rng).mul_(255).round_())
    return mixed

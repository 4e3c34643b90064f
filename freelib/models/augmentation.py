"""The two augmentations that a recovered image passes before a network sees it (brief, part 1, "Input")."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor


def random_crop_flip(images: Tensor, rng: torch.Generator, *, padding: int = 4, flip: bool = True) -> Tensor:
    """Images `(n, C, H, W)`, each shifted by up to `padding` pixels (zeros come in), half of them mirrored.

    Drawn per image from `rng` (a CPU generator) and differentiable: the gradient flows back to the pixels
    kept.
    """
    n, _, height, width = images.shape
    top, left = torch.randint(0, 2 * padding + 1, (2, n), generator=rng)
    mirrored = torch.rand(n, generator=rng) < (0.5 if flip else 0.0)
    top, left, mirrored = (drawn.to(images.device) for drawn in (top, left, mirrored))
    arange = partial(torch.arange, device=images.device)
    rows = top[:, None] + arange(height)  # (n, H), in the padded image
    columns = arange(width).expand(n, width)
    columns = left[:, None] + torch.where(mirrored[:, None], width - 1 - columns, columns)  # (n, W)
    padded = F.pad(images, [padding] * 4)
    # One flat gather over pixels, channels last: its backward is one scatter of whole pixels.
    pixels = padded.permute(0, 2, 3, 1).reshape(-1, images.shape[1])
    side = (height + 2 * padding) * (width + 2 * padding)
    index = (arange(n)[:, None, None] * side) + rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    chosen = pixels.index_select(0, index.flatten())
    return chosen.view(n, height, width, -1).permute(0, 3, 1, 2)

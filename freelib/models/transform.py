"""What happens to images before a network sees them: resizing, normalisation, random crops and flips."""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

INTERPOLATIONS = ("bilinear", "bicubic")


def channel_constants(values: Sequence[float], like: Tensor) -> Tensor:
    """Per-channel constants as a `(1, C, 1, 1)` tensor of the images' type and device."""
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)


def resized(images: Tensor, size: int, interpolation: str = "bilinear") -> Tensor:
    """Images `(n, C, H, W)` as `(n, C, size, size)`, with antialiasing; differentiable.

    interpolation: "bilinear", or "bicubic", whose values beyond [0, 1] are cut off
    """
    if images.shape[-2:] == (size, size):
        return images
    images = F.interpolate(images, (size, size), mode=interpolation, align_corners=False, antialias=True)
    return images if interpolation == "bilinear" else images.clamp(0, 1)


class ImageTransform:
    """From images `(n, C, H, W)` in [0, 1] to a network's input: its own size, then its own normalisation.

    Called with images of another type or number of channels it raises ValueError.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], image_size: int, interpolation: str = "bilinear"
    ) -> None:
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        self.image_size, self.interpolation = image_size, interpolation
        self._made: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def _constants(self, images: Tensor) -> tuple[Tensor, Tensor]:
        key = (images.device, images.dtype)
        if key not in self._made:
            with torch.inference_mode(False):  # what is kept must serve training as well
                scale = 1 / channel_constants(self.std, images)
                self._made[key] = scale, -channel_constants(self.mean, images) * scale
        return self._made[key]

    def __call__(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != len(self.mean) or not images.is_floating_point():
            raise ValueError(
                f"Images are (n, {len(self.mean)}, H, W), float in [0, 1], got {tuple(images.shape)} {images.dtype}."
            )
        images = resized(images, self.image_size, self.interpolation)
        scale, shift = self._constants(images)
        return images * scale + shift


def random_crop_flip(
    images: Tensor, rng: torch.Generator, *, padding: int = 4, flip: bool = True, each: bool = True
) -> Tensor:
    """Images `(n, C, H, W)`, each shifted by up to `padding` pixels (zeros come in), half of them mirrored.

    Drawn per image from `rng` (a CPU generator), or once for all with each=False, and differentiable: the
    gradient flows back to the pixels kept.
    """
    n, _, height, width = images.shape
    draws = n if each else 1
    top, left = torch.randint(0, 2 * padding + 1, (2, draws), generator=rng).expand(2, n)
    mirrored = (torch.rand(draws, generator=rng) < (0.5 if flip else 0.0)).expand(n)
    drawn = torch.stack([top, left, mirrored.long()])
    if images.is_cuda:  # one copy, which nothing waits for
        drawn = drawn.pin_memory().to(images.device, non_blocking=True)
    top, left, mirrored = drawn.to(images.device)
    arange = partial(torch.arange, device=images.device)
    rows = top[:, None] + arange(height)  # (n, H), in the padded image
    columns = arange(width).expand(n, width)
    columns = left[:, None] + torch.where(mirrored[:, None] > 0, width - 1 - columns, columns)  # (n, W)
    padded = F.pad(images, [padding] * 4)
    # One flat gather over pixels, channels last: its backward is one scatter of whole pixels.
    pixels = padded.permute(0, 2, 3, 1).reshape(-1, images.shape[1])
    side = (height + 2 * padding) * (width + 2 * padding)
    index = (arange(n)[:, None, None] * side) + rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    chosen = pixels.index_select(0, index.flatten())
    return chosen.view(n, height, width, -1).permute(0, 3, 1, 2)

"""From images as people have them to a network's input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def channel_constants(values: Sequence[float], like: Tensor) -> Tensor:
    """Per-channel constants as a `(1, C, 1, 1)` tensor of the images' type and device."""
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)


def resized(images: Tensor, size: int) -> Tensor:
    """Images `(n, C, H, W)` as `(n, C, size, size)`, bilinear with antialiasing; differentiable."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)


class ImageTransform:
    """From images `(n, C, H, W)` in [0, 1] to a network's input: its own size, then its own normalisation.

    Called with images of another type or number of channels it raises ValueError.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], image_size: int) -> None:
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        self.image_size = image_size
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
                f"Images are (n, {len(self.mean)}, H, W), float in [0, 1], got {tuple(images.shape)} "
                f"{images.dtype}."
            )
        images = resized(images, self.image_size)
        scale, shift = self._constants(images)
        return images * scale + shift

"""Few-shot episodes: the task that a meta-learner is given, and the seeded sampler that draws it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from freelib.datasets.few_shot import FewShotDataset
from freelib.settings import check_seed


@dataclass(frozen=True)
class Episode:
    """One N-way K-shot task, its images sorted by class.

    `support` is float `(n_way * n_shot, C, H, W)` in [0, 1] and `support_labels` int64 `(n_way * n_shot,)`;
    `query` and `query_labels` are the same with `n_query` images of each class.
    """

    support: Tensor
    support_labels: Tensor
    query: Tensor
    query_labels: Tensor

    @classmethod
    def of_classes(cls, images: Tensor, n_shot: int) -> Episode:
        """The episode of images float `(n_way, n_shot + n_query, C, H, W)`; of each class the first are the support."""
        parts = []
        for side in (images[:, :n_shot], images[:, n_shot:]):
            parts += [side.flatten(0, 1), class_major_labels(*side.shape[:2]).to(images.device)]
        return cls(*parts)

    def to(self, device: torch.device | str) -> Episode:
        """The same episode on another device."""
        return Episode(*(tensor.to(device, non_blocking=True) for tensor in vars(self).values()))


def class_major_labels(n_way: int, per_class: int) -> Tensor:
    """Labels 0…n_way-1, each `per_class` times in a row: `(n_way * per_class,)` int64."""
    return torch.arange(n_way).repeat_interleave(per_class)


def images_to_float(images: Tensor) -> Tensor:
    """uint8 images in 0…255, or float ones in [0, 1], as float32 in [0, 1]; TypeError for other integers."""
    if images.dtype == torch.uint8:
        return images.to(torch.float32).div_(255)
    if not images.is_floating_point():
        raise TypeError(f"Images are uint8 in 0…255 or float in [0, 1], got {images.dtype}.")
    return images.to(torch.float32)


def checked_images(images: Tensor, channels: int) -> Tensor:
    """The same images. Raises ValueError where they are no images `(n, channels, H, W)`.

    Values are checked on the CPU only, since a GPU would have to be waited for. They may be a tenth outside
    [0, 1], since some ways to resize overshoot.
    """
    if not isinstance(images, Tensor) or not (images.dtype == torch.uint8 or images.is_floating_point()):
        found = f"{type(images).__name__} {getattr(images, 'dtype', '')}"
        raise ValueError(f"Images are a tensor, uint8 in 0…255 or float in [0, 1], got a {found}.")
    if images.ndim != 4 or images.shape[1] != channels or not min(images.shape[2:]):
        raise ValueError(f"Images are (n, {channels}, H, W) here, got {tuple(images.shape)}.")
    if images.is_floating_point() and images.device.type == "cpu" and len(images):
        least, most = images.aminmax()
        if not -0.1 <= float(least) <= float(most) <= 1.1:
            raise ValueError(f"Float images are in [0, 1], got values from {least:.3g} to {most:.3g}.")
    return images


def check_labels(images: Tensor, labels: Tensor) -> None:
    """Raises ValueError where there is not one class index, int64, for each of at least one image."""
    if not isinstance(labels, Tensor):
        raise ValueError(f"Labels are a tensor (n,) int64, got a {type(labels).__name__}: torch.as_tensor.")
    if labels.shape != (len(images),) or labels.dtype != torch.int64 or not len(labels):
        raise ValueError(
            f"One label an image is expected, (n,) int64; got {len(images)} support images and labels "
            f"{tuple(labels.shape)} {labels.dtype}."
        )


def images_to_uint8(images: Tensor) -> Tensor:
    """Float images as uint8 in 0…255, each the nearest; what lies outside [0, 1] is clipped."""
    return images.mul(255).round_().clamp_(0, 255).to(torch.uint8)


class EpisodeSampler:
    """Draws N-way K-shot episodes from a data set; episode i depends on the seed and on i alone.

    Each has `n_way` classes, with `n_shot` support and `n_query` query images of each. The same seed gives
    every method the same episodes, in any order and in any process.

    Raises ValueError where the data set has too few classes, a class too few images, or a number is negative.

    >>> from freelib.datasets import load_dataset
    >>> sampler = EpisodeSampler(load_dataset("glyphs", "test", size=16), n_way=5, n_shot=1, n_query=3)
    >>> episode = sampler.episode(0)
    >>> episode.support.shape, episode.query_labels.shape
    (torch.Size([5, 3, 16, 16]), torch.Size([15]))
    """

    def __init__(
        self, dataset: FewShotDataset, *, n_way: int = 5, n_shot: int = 1, n_query: int = 15, seed: int = 0
    ) -> None:
        if min(n_way, n_shot, n_query) < 1:
            raise ValueError(f"n_way, n_shot and n_query must be at least 1, got {n_way}, {n_shot} and {n_query}.")
        if dataset.n_classes < n_way:
            raise ValueError(
                f"{dataset.name}'s {dataset.split} split has {dataset.n_classes} classes, too few for n_way={n_way}."
            )
        if min(dataset.counts) < n_shot + n_query:
            raise ValueError(
                f"{dataset.name}'s smallest class has {min(dataset.counts)} images, "
                f"too few for n_shot + n_query = {n_shot + n_query}."
            )
        check_seed(seed)
        self.dataset, self.seed = dataset, seed
        self.n_way, self.n_shot, self.n_query = n_way, n_shot, n_query

    def indices(self, i: int) -> Tensor:
        """Which images make episode i: `(n_way, n_shot + n_query)` int64, rows of the data set's images."""
        if i < 0:
            raise ValueError(f"there is no episode {i}; they are numbered from 0")
        # torch's CPU generator takes 32 bits of a seed. An odd factor is a bijection modulo 2^32: no two
        # episodes of one seed share a stream, and neighbouring seeds begin far apart.
        rng = torch.Generator().manual_seed((self.seed * 0x9E3779B97F4A7C15 + i * 0x632BE59BD9B4E019 + 1) % 2**63)
        classes = torch.randperm(self.dataset.n_classes, generator=rng)[: self.n_way].tolist()
        per_class = self.n_shot + self.n_query
        rows = [
            self.dataset.offsets[c] + torch.randperm(self.dataset.counts[c], generator=rng)[:per_class] for c in classes
        ]
        return torch.stack(rows)

    def episode(self, i: int) -> Episode:
        """Episode number i."""
        return Episode.of_classes(images_to_float(self.dataset.images[self.indices(i)]), self.n_shot)

    def take(self, n: int, start: int = 0) -> Iterator[Episode]:
        """Episodes `start` to `start + n - 1`, one by one."""
        if min(n, start) < 0:
            raise ValueError(f"n and start must be at least 0, got {n} and {start}")
        return (self.episode(i) for i in range(start, start + n))

    def batch(self, n: int, start: int = 0) -> Episode:
        """Episodes `start` to `start + n - 1` as one, every tensor with a leading dimension of n."""
        episodes = zip(*(vars(episode).values() for episode in self.take(n, start)), strict=True)
        return Episode(*map(torch.stack, episodes))

"""The one form in which every data set reaches the rest of the package."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class FewShotDataset:
    """The images of one split of a data set, sorted by class.

    `images` is uint8 `(n, C, size, size)`; those of class c are `images[offsets[c]:offsets[c + 1]]`, and its
    name is `class_names[c]`. `mean` and `std`, one number a channel, are those of the train split's images in
    [0, 1], whichever split this is. `digest` is 16 hexadecimal digits over the images and their classes.

    Raises ValueError where these do not fit together.

    >>> images = torch.zeros(5, 3, 8, 8, dtype=torch.uint8)
    >>> fields = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "digest": "0123456789abcdef"}
    >>> data = FewShotDataset("pets", "test", images, (0, 2, 5), ("cat", "dog"), **fields)
    >>> data.counts, data.class_images(1).shape
    ((2, 3), torch.Size([3, 3, 8, 8]))
    """

    name: str
    split: str
    images: Tensor
    offsets: tuple[int, ...]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"split is {self.split!r}; expected one of {', '.join(SPLITS)}")
        if self.images.dtype != torch.uint8 or self.images.ndim != 4 or 0 in self.images.shape[1:]:
            shape = tuple(self.images.shape)
            raise ValueError(f"images are {self.images.dtype} of shape {shape}; expected uint8 (n, C, H, W)")
        if self.images.shape[2] != self.images.shape[3]:
            raise ValueError(f"images of shape {tuple(self.images.shape)} are not square; resize them first")
        if isinstance(self.class_names, str):  # type: ignore[unreachable]
            raise ValueError(f"class_names is {self.class_names!r}; expected a tuple of names")
        if any(isinstance(offset, float) for offset in self.offsets):
            raise ValueError(f"offsets are {self.offsets}; expected whole numbers")
        if len(self.offsets) != len(self.class_names) + 1:
            raise ValueError(
                f"{len(self.offsets)} offsets for {len(self.class_names)} classes; expected one more than classes"
            )
        if len(set(self.class_names)) != len(self.class_names):
            raise ValueError("class names repeat; each class needs a name of its own")
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.images) or min(self.counts, default=1) < 1:
            raise ValueError(
                f"offsets must rise from 0 to the number of images, {len(self.images)}; "
                f"got {self.offsets[0]} to {self.offsets[-1]}"
            )
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(
                f"{len(self.mean)} means and {len(self.std)} deviations for {self.channels} channels; "
                "expected one of each for every channel"
            )
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean} and std {self.std} must be finite, and each std above 0")

    @property
    def n_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return self.images.shape[-1]

    @property
    def channels(self) -> int:
        """3 for RGB."""
        return self.images.shape[1]

    @property
    def counts(self) -> tuple[int, ...]:
        """Images of each class, (n_classes,)."""
        return tuple(end - start for start, end in pairwise(self.offsets))

    def class_images(self, c: int) -> Tensor:
        """The images of class number c: uint8 (n_c, C, H, W), a view. Raises IndexError."""
        if not 0 <= c < self.n_classes:
            raise IndexError(f"class {c} of {self.name} {self.split}; expected 0 to {self.n_classes - 1}")
        return self.images[self.offsets[c] : self.offsets[c + 1]]

    def subset(self, classes: Sequence[int | str]) -> FewShotDataset:
        """The given classes (numbers or names), in the given order, with a copy of their images.

        The mean and std stay those of the whole train split. Raises ValueError for no classes, IndexError or
        KeyError for a class that is not here.
        """
        numbers = [self._class_number(c) for c in classes]
        if not numbers:
            raise ValueError("subset of no classes; name at least one")
        images = torch.cat([self.class_images(c) for c in numbers])
        names = tuple(self.class_names[c] for c in numbers)
        offsets = tuple(accumulate((self.counts[c] for c in numbers), initial=0))
        digest = digest_of(images, names, offsets)
        return replace(self, images=images, offsets=offsets, class_names=names, digest=digest)

    def _class_number(self, c: int | str) -> int:
        if isinstance(c, str):
            if c not in self.class_names:
                raise KeyError(f"class {c!r} is not in {self.name} {self.split}; see class_names")
            return self.class_names.index(c)
        return int(c)


def digest_of(images: Tensor, class_names: Sequence[str], offsets: Sequence[int]) -> str:
    """The digest of uint8 images (n, C, H, W) with their classes: 16 hexadecimal digits."""
    sha = hashlib.sha256()
    for start in range(0, len(images), 4096):
        sha.update(images[start : start + 4096].contiguous().numpy().data)
    return finish_digest(sha, class_names, offsets)


def finish_digest(sha: hashlib._Hash, class_names: Sequence[str], offsets: Sequence[int]) -> str:
    """The digest by a SHA-256 that has been given the bytes of the images."""
    sha.update(json.dumps([list(class_names), list(offsets)]).encode())
    return sha.hexdigest()[:16]

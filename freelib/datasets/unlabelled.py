"""Images without labels: a data set's, a folder's, or those at hand."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from freelib.datasets import FewShotDataset, load_dataset
from freelib.datasets.episodes import checked_images, images_to_float, images_to_uint8
from freelib.datasets.sources import IMAGES, decode, stack


def unlabelled_images(place: Any, *, size: int, channels: int = 3, n: int = 0, seed: int = 0) -> Tensor:
    """Images uint8 `(n, channels, size, size)`; the labels, if any, are not read.

    place: a folder, with all below it; a data set, or its name, for its meta-training images; or a tensor
      `(m, channels, H, W)`, uint8 or float in [0, 1]
    n: how many, drawn at random with the seed; 0: all

    Raises ValueError where there are not so many, or none; MissingDataError for a data set that is not here.
    """
    if isinstance(place, str | Path) and Path(place).is_dir():
        files = [file for file in sorted(Path(place).rglob("*")) if file.suffix.lower() in IMAGES and file.is_file()]
        names = _drawn(len(files), n, seed, place)
        pixels = stack((decode(files[i], str(files[i])) for i in names), size)
        return checked_images(torch.as_tensor(pixels), channels)
    name = place if isinstance(place, str) else getattr(place, "name", "the images given")
    if isinstance(place, str):
        place = load_dataset(place, "train", size=size)
    images = place.images if isinstance(place, FewShotDataset) else checked_images(place, channels)
    chosen = images[torch.tensor(_drawn(len(images), n, seed, name))]
    if chosen.shape[-2:] == (size, size) and chosen.dtype == torch.uint8:
        return chosen
    resized = partial(F.interpolate, size=(size, size), mode="bilinear", antialias=True)
    return torch.cat([images_to_uint8(resized(images_to_float(part))) for part in chosen.split(500)])


def images_of(config: Any, place: Any = None, **about: Any) -> dict[str, Tensor]:
    """The images for a method, as an argument of `Method.meta_train`: none where no place is given.

    config: whose `unlabelled` is the place if None, and whose `n_unlabelled` is n; about: of `unlabelled_images`
    """
    place = getattr(config, "unlabelled", "") if place is None else place
    if isinstance(place, str) and not place:
        return {}
    return {"images": unlabelled_images(place, n=getattr(config, "n_unlabelled", 0), **about)}


def _drawn(there: int, n: int, seed: int, place: Any) -> list[int]:
    if there < max(n, 1):
        raise ValueError(f"{place}: {max(n, 1):,} unlabelled images are wanted, and there are {there:,}.")
    return torch.randperm(there, generator=torch.Generator().manual_seed(seed)).tolist()[: n or there]

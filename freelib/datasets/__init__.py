"""Few-shot data sets: `load_dataset(name, split)` gives one split as one uint8 tensor."""

from __future__ import annotations

import os
from pathlib import Path

from freelib.datasets.cache import load_cached
from freelib.datasets.class_lists import SCRIPTS, class_lists
from freelib.datasets.few_shot import SPLITS, FewShotDataset
from freelib.datasets.glyphs import GlyphSource
from freelib.datasets.sources import ParquetSource, Source, TorchvisionCifar, TreeSource
from freelib.folders import cache_folder

DATASETS = ("glyphs", "cifar-fs", "mini-imagenet", "cub")
GLYPH_DOMAINS = tuple(f"glyphs-{script}" for script in SCRIPTS)
"""`glyphs` split by script into three data sets, with the first 200 images of each class."""

NATIVE_SIZE = {"glyphs": 32, "cifar-fs": 32, "mini-imagenet": 84, "cub": 84}
NATIVE_SIZE |= dict(zip(GLYPH_DOMAINS, (32, 24, 28), strict=True))

_WHERE_FROM = {
    "cifar-fs": (
        "CIFAR-100 (Krizhevsky, 2009; its home page is at the University of Toronto), which torchvision "
        "can fetch: load_dataset('cifar-fs', ..., download=True)"
    ),
    "mini-imagenet": (
        "mini-ImageNet (Vinyals et al., 2016, in the split of Ravi and Larochelle, 2017), cut out of "
        "ImageNet's ILSVRC-2012 images, which the ImageNet project gives for research"
    ),
    "cub": (
        "Caltech-UCSD Birds 200-2011 (Wah et al., 2011; from Caltech's Vision Lab), whose folder `images` "
        "is such a tree"
    ),
}


class MissingDataError(FileNotFoundError):
    """The images of a data set are not where they were looked for."""


def load_dataset(
    name: str,
    split: str,
    *,
    size: int | None = None,
    root: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    download: bool = False,
) -> FewShotDataset:
    """One split ("train", "validation" or "test") of a data set, with images of `size` × `size` pixels.

    `name` is one of DATASETS or GLYPH_DOMAINS. Without `size` it is NATIVE_SIZE: 32 for glyphs and cifar-fs,
    84 for the others. `root`, else $FREELIB_DATA, is the folder with `<name>.parquet`,
    `<name>/<class>/<image>`, `<name>/<split>/<class>/<image>` or, for cifar-fs, `cifar-100-python/`; glyphs
    needs none. `cache`, else $FREELIB_CACHE, else the user's cache folder, keeps the decoded images. With
    `download=True` torchvision fetches CIFAR-100 into `root`, for cifar-fs only.

    Raises ValueError for an unknown name or split, a size below 1, an unreadable image or a class that is
    missing, and MissingDataError where the images are not there.

    >>> data = load_dataset("glyphs", "test", size=16)  # drawn at the first call, ten seconds
    >>> data.n_classes, data.class_images(0).shape[1:]
    (20, torch.Size([3, 16, 16]))
    """
    if name not in NATIVE_SIZE:
        raise ValueError(f"no data set is called {name!r}; known are {', '.join(DATASETS)}")
    if split not in SPLITS:
        raise ValueError(f"no split is called {split!r}; known are {', '.join(SPLITS)}")
    size = NATIVE_SIZE[name] if size is None else size
    if size < 1:
        raise ValueError(f"size is {size}; expected a positive number of pixels")
    if download and name != "cifar-fs":
        raise ValueError(f"download=True is for cifar-fs; {name} must be brought by hand (or needs no download)")
    return load_cached(find_source(name, root, download), split, size, cache_folder(cache))


def find_source(name: str, root: str | os.PathLike[str] | None = None, download: bool = False) -> Source:
    """The source of a data set, which is not read yet; arguments and errors as for `load_dataset`."""
    classes = class_lists(name)
    if name.startswith("glyphs"):
        return GlyphSource(classes) if name == "glyphs" else GlyphSource(classes, 200, name)
    given = root or os.environ.get("FREELIB_DATA")
    if not given:
        raise MissingDataError(
            f"{name} needs images, and no folder was given: set the environment variable FREELIB_DATA "
            f"(or root=) to a folder with {_layouts(name)}. The images are those of {_WHERE_FROM[name]}."
        )
    folder = Path(given).expanduser()
    if (folder / f"{name}.parquet").is_file():
        return ParquetSource(name, folder / f"{name}.parquet", classes)
    if (folder / name).is_dir():
        return TreeSource(name, folder / name, classes)
    if name == "cifar-fs" and (download or (folder / "cifar-100-python").is_dir()):
        return TorchvisionCifar(name, folder, classes, download)
    raise MissingDataError(
        f"{name} is not in {folder}: put there {_layouts(name)}. The images are those of {_WHERE_FROM[name]}."
    )


def _layouts(name: str) -> str:
    tree = f"{name}.parquet, {name}/<class>/<image> or {name}/<split>/<class>/<image>"
    return f"cifar-100-python/ (as torchvision stores it), {tree}" if name == "cifar-fs" else tree

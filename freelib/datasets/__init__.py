"""Few-shot data sets: `load_dataset(name, split)` gives one split as one uint8 tensor."""

import os
from pathlib import Path

from freelib.datasets.cache import load_cached
from freelib.datasets.class_lists import NATIVE_SIZE, class_lists
from freelib.datasets.few_shot import SPLITS, FewShotDataset
from freelib.datasets.glyphs import GlyphSource
from freelib.datasets.own import about
from freelib.datasets.sources import ParquetSource, Source, TorchvisionCifar, source_at
from freelib.folders import cache_folder
from freelib.settings import MOST_WIDE

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

    `name` is one of NATIVE_SIZE, or one that `freelib data add` has registered. Without `size` it is the data
    set's own: 32 for glyphs and cifar-fs, 84 for mini-imagenet and cub. `root`, else $FREELIB_DATA, is the
    folder with `<name>.parquet`, `<name>/<class>/<image>`, `<name>/<split>/<class>/<image>` or another form that
    the guide lists; glyphs and one's own need none. `cache`, else $FREELIB_CACHE, else the user's cache folder,
    keeps the decoded images. With `download=True` torchvision fetches CIFAR-100 into `root`, for cifar-fs only.

    Raises ValueError for an unknown name or split, a size out of range, an unreadable image or a class that is
    missing, and MissingDataError where the images are not there.

    >>> data = load_dataset("glyphs", "test", size=16)  # drawn at the first call, ten seconds
    >>> data.n_classes, data.class_images(0).shape[1:]
    (20, torch.Size([3, 16, 16]))
    """
    native_size = about(name).size
    if split not in SPLITS:
        raise ValueError(f"no split is called {split!r}; known are {', '.join(SPLITS)}")
    size = native_size if size is None else size
    if not 1 <= size <= MOST_WIDE:
        raise ValueError(f"size is {size}; expected 1 to {MOST_WIDE} pixels")
    if download and name != "cifar-fs":
        raise ValueError(f"download=True is for cifar-fs; {name} must be brought by hand (or needs no download)")
    return load_cached(find_source(name, root, download), split, size, cache_folder(cache))


def find_source(name: str, root: str | os.PathLike[str] | None = None, download: bool = False) -> Source:
    """The source of a data set, which is not read yet; arguments and errors as for `load_dataset`."""
    if name not in NATIVE_SIZE:
        own = about(name)
        if not Path(own.path).exists():
            raise MissingDataError(f"{name} was at {own.path}: put it there, or `freelib data remove {name}`")
        return source_at(name, Path(own.path), own.classes)
    classes = class_lists(name)
    if name.startswith("glyphs"):
        return GlyphSource(classes) if name == "glyphs" else GlyphSource(classes, 200, name)
    lacks = "needs images, and no folder was given: set FREELIB_DATA in the environment (or root=) to a folder with"
    if given := root or os.environ.get("FREELIB_DATA"):
        folder = Path(given).expanduser()
        for place in (f"{name}.parquet", name, "CUB_200_2011" if name == "cub" else name):
            if (folder / place).exists():
                return source_at(name, folder / place, classes)
        if shards := sorted(folder.glob(f"{name}-*-of-*.parquet")):
            return ParquetSource(name, folder, classes, shards)
        if name == "cifar-fs" and (download or (folder / "cifar-100-python").is_dir()):
            return TorchvisionCifar(name, folder, classes, download)
        lacks = f"is not in {folder}: put there"
    raise MissingDataError(f"{name} {lacks} {_layouts(name)}. The images are those of {_WHERE_FROM[name]}.")


def _layouts(name: str) -> str:
    tree = f"{name}.parquet, {name}/<class>/<image> or {name}/<split>/<class>/<image>"
    return f"cifar-100-python/ (as torchvision stores it), {tree}" if name == "cifar-fs" else tree

"""`freelib data`: which data sets there are, and whether they are at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from freelib.commands import columns, dataset_choice, emit, json_option

_ROOT_HELP = "Folder with the data sets, instead of $FREELIB_DATA."


@click.group()
def data() -> None:
    """List, find and decode the data sets.

    `glyphs` needs nothing. For the others set FREELIB_DATA to a folder with, for each, one of

    \b
      <name>.parquet                      columns: image (struct with bytes), label
      <name>/<class>/<image>              the class splits come with freelib
      <name>/<split>/<class>/<image>
      cifar-100-python/                   as torchvision downloads it (cifar-fs only)

    Images are decoded once, into FREELIB_CACHE.
    """


@data.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the data sets: size, and the number of classes to train, validate and test on."""
    from freelib.datasets import DATASETS, NATIVE_SIZE
    from freelib.datasets.class_lists import class_lists

    rows: list[dict[str, Any]] = []
    for name in DATASETS:
        classes = {split: len(names) for split, names in class_lists(name).items()}
        rows.append({"name": name, "image_size": NATIVE_SIZE[name], "classes": classes})
    lines = [[r["name"], r["image_size"], "/".join(map(str, r["classes"].values()))] for r in rows]
    emit(rows, as_json, columns(lines, ["data set", "pixels", "classes train/validation/test"]))


@data.command()
@click.option("--root", type=click.Path(path_type=Path), help=_ROOT_HELP)
@json_option
def status(root: Path | None, as_json: bool) -> None:
    """Say which data sets are at hand, and for the others how to get them."""
    from freelib.datasets import DATASETS, MissingDataError, find_source

    rows = []
    for name in DATASETS:
        try:
            rows.append({"name": name, "found": True, "where": find_source(name, root).location})
        except MissingDataError as error:
            rows.append({"name": name, "found": False, "where": str(error)})
    lines = [[r["name"], "yes" if r["found"] else "no", r["where"]] for r in rows]
    emit(rows, as_json, columns(lines, ["data set", "found", "where, or what to do"]))


@data.command()
@click.argument("name", type=dataset_choice)
@click.option(
    "--size", type=click.IntRange(min=8), help="Side of the images in pixels; the data set's own if left out."
)
@click.option("--root", type=click.Path(path_type=Path), help=_ROOT_HELP)
@click.option(
    "--download", is_flag=True, help="Let torchvision fetch CIFAR-100 into the folder (cifar-fs only)."
)
@json_option
def prepare(name: str, size: int | None, root: Path | None, download: bool, as_json: bool) -> None:
    """Decode (or render) a data set into the cache, and describe it."""
    from freelib.datasets import SPLITS, load_dataset

    rows: list[dict[str, Any]] = []
    for split in SPLITS:
        part = load_dataset(name, split, size=size, root=root, download=download)
        fewest, most = min(part.counts), max(part.counts)
        rows.append(
            {
                "split": split,
                "classes": part.n_classes,
                "images": len(part.images),
                "images_per_class": f"{fewest}" if fewest == most else f"{fewest}-{most}",
                "image_size": part.image_size,
                "digest": part.digest,
            }
        )
    head = ["split", "classes", "images", "a class", "pixels", "digest"]
    lines = [
        [r["split"], r["classes"], r["images"], r["images_per_class"], r["image_size"], r["digest"]]
        for r in rows
    ]
    emit({"name": name, "splits": rows}, as_json, columns(lines, head))

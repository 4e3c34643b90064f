"""`freelib pool`: the pre-trained classifiers that data-free meta-learning starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from freelib.commands import columns, dataset_choice, emit, json_option, profile_option


@click.group()
def pool() -> None:
    """Pre-train, list and show pools of classifiers.

    A pool is a folder with two files a model: <model>.safetensors (weights) and <model>.json (what is known
    of it). Those that the experiments pre-train lie in FREELIB_CACHE/pools.
    """


@pool.command()
@profile_option
@click.option(
    "--dataset", type=dataset_choice, help="Whose meta-training classes; the profile's first if left out."
)
@click.option("--seed", default=0, show_default=True, help="Decides on classes, weights and batches.")
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Where to put the pool, instead of the cache."
)
@click.option(
    "--set", "settings", multiple=True, metavar="FIELD=VALUE", help="Set a field, such as n_models=20."
)
@json_option
def pretrain(
    profile: str,
    dataset: str | None,
    seed: int,
    folder: Path | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Pre-train a pool, each model on a few random classes; what is there already stays.

    A run that was stopped goes on where it was.
    """
    from dataclasses import replace

    from freelib.progress import Progress
    from freelib.run.pools import pretrain_into
    from freelib.run.profiles import get_profile
    from freelib.run.units import parse_overrides

    chosen = get_profile(profile)
    name = dataset or chosen.datasets[0]
    if settings:
        fields = {**chosen.pool_fields(name), **parse_overrides(settings)}
        chosen = replace(chosen, pool=fields, pool_by_dataset={})
    with Progress(f"pool of {name}") as progress:
        made, place = pretrain_into(name, chosen, seed, folder=folder, progress=progress)
    summary = _summary(place, made)
    emit(
        summary,
        as_json,
        f"{summary['models']} models, mean held-out accuracy {summary['accuracy']}, in {place}",
    )


@pool.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the pools in the cache; of a damaged one, what is wrong."""
    from freelib.folders import cache_folder
    from freelib.models.pool import ModelPool

    root = cache_folder() / "pools"
    folders = sorted(path.parent for path in root.glob("*/*.json")) if root.is_dir() else []
    rows: list[dict[str, Any]] = []
    for folder in dict.fromkeys(folders):
        try:
            rows.append(_summary(folder, ModelPool.load(folder)))
        except (ValueError, FileNotFoundError) as error:
            bare = {"models": 0, "domains": [], "archs": [], "accuracy": f"damaged: {error}", "digest": None}
            rows.append({"folder": str(folder), **bare})
    head = ["folder", "models", "of", "architectures", "accuracy"]
    lines = [
        [r["folder"], r["models"], "+".join(r["domains"]), "+".join(r["archs"]), r["accuracy"]] for r in rows
    ]
    emit(rows, as_json, columns(lines, head) if rows else f"there are no pools in {root}")


@pool.command()
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
def show(folder: Path, as_json: bool) -> None:
    """Show the models of a pool: architecture, classes, accuracy on images that their training held out."""
    from freelib.models.pool import ModelPool

    models = ModelPool.load(folder).descriptions
    lines = [[m["name"], m["arch"], _percent(m.get("accuracy")), ", ".join(m["class_names"])] for m in models]
    emit(models, as_json, columns(lines, ["model", "architecture", "accuracy", "classes"]))


def _percent(accuracy: float | None) -> str:
    return "unknown" if accuracy is None else f"{100 * accuracy:.1f} %"


def _summary(folder: Path, made: Any) -> dict[str, Any]:
    known = [d["accuracy"] for d in made.descriptions if d.get("accuracy") is not None]
    return {
        "folder": str(folder),
        "models": len(made),
        "domains": sorted({d["domain"] for d in made.descriptions}),
        "archs": sorted({d["arch"] for d in made.descriptions}),
        "accuracy": _percent(sum(known) / len(known) if known else None),
        "digest": made.digest,
    }

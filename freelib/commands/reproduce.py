"""`freelib reproduce`: every table and figure, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from freelib.commands import dataset_choice, emit, json_option, profile_option


@click.command(short_help="Run the notebooks: every table and figure, on one page.")
@profile_option
@click.option(
    "--notebook", "only", multiple=True, metavar="NAME", help="Run this one only, e.g. 01_table1; repeatable."
)
@click.option(
    "--dataset",
    "datasets",
    multiple=True,
    type=dataset_choice,
    help="Instead of the profile's, in notebooks that have a choice; repeatable.",
)
@click.option(
    "--shots", multiple=True, type=click.IntRange(min=1), help="Instead of the profile's; repeatable."
)
@click.option(
    "--seeds", multiple=True, type=click.IntRange(min=0), help="Instead of the profile's; repeatable."
)
@click.option(
    "-p",
    "--parameter",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter that each of the notebooks must have.",
)
@click.option("--standing", is_flag=True, help="Make no run: show what the records that stand hold.")
@click.option("--results", default="results", show_default=True, type=click.Path(path_type=Path))
@click.option(
    "--notebooks",
    default="notebooks",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of the notebooks.",
)
@click.option("--index-only", is_flag=True, help="Run nothing, write the index page from what is there.")
@json_option
@click.pass_context
def reproduce(
    ctx: click.Context,
    profile: str,
    only: tuple[str, ...],
    datasets: tuple[str, ...],
    shots: tuple[int, ...],
    seeds: tuple[int, ...],
    settings: tuple[str, ...],
    results: Path,
    notebooks: Path,
    index_only: bool,
    standing: bool,
    as_json: bool,
) -> None:
    """Run the notebooks in batch and write results/PROFILE/index.html, whose path is printed at the end.

    Runs whose record is in results/PROFILE/records are not made again, so a reproduction that was stopped
    goes on where it was. A notebook that fails is kept, with its error, and does not keep the others from
    running.
    """
    from freelib.run.reproduce import reproduce as run
    from freelib.run.units import parse_overrides

    given = {"DATASETS": datasets, "SHOTS": shots, "SEEDS": seeds}
    offered: dict[str, Any] = {name: list(values) for name, values in given.items() if values}
    index, failures = run(
        profile,
        results=results,
        notebooks=notebooks,
        only=only,
        offered=offered,
        required=parse_overrides(settings),
        index_only=index_only,
        standing=standing,
    )
    failed = [{"notebook": f.name, "kept": str(f.path), "error": f.error} for f in failures]
    for failure in failed:
        click.echo(f"{failure['notebook']}: {failure['error']}\n  kept in {failure['kept']}", err=True)
    emit({"index": str(index), "failed": failed}, as_json, str(index))
    ctx.exit(1 if failed else 0)

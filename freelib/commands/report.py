"""`freelib report`: what the records say, written into results/README.md and README.md."""

from __future__ import annotations

from pathlib import Path

import click

from freelib.commands import emit, json_option


@click.command(short_help="Write results/README.md from the records.")
@click.option(
    "--profile",
    default="cpu",
    show_default=True,
    type=click.Choice(["cpu", "paper"]),
    help="Whose records; those of smoke are no results.",
)
@click.option(
    "--root",
    default=".",
    show_default=True,
    type=click.Path(path_type=Path),
    help="The checkout: the folder of README.md and results.",
)
@click.option(
    "--recover",
    is_flag=True,
    help="First recover the images of README's picture, where they have no record: needs the data set.",
)
@json_option
def report(profile: str, root: Path, recover: bool, as_json: bool) -> None:
    """Hold the paper's claims against the records of a profile.

    Writes results/README.md, the table between the two marks in README.md, and its picture where the records
    have the images. Nothing is run.
    """
    from freelib.experiments.overview import Recovery
    from freelib.experiments.results_page import write

    if recover:
        Recovery.of(profile, results=root / "results").record()
    paths = [str(path) for path in write(root, profile)]
    emit({"written": paths}, as_json, "\n".join(paths))

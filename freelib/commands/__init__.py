"""The verbs of the command line, a file each; heavy imports are inside the commands: help is quick."""

from __future__ import annotations

import json
from typing import Any

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
profile_option = click.option(
    "--profile",
    default="smoke",
    show_default=True,
    type=click.Choice(["smoke", "cpu", "paper"]),
    help="Size of everything: smoke (minutes), cpu (hours), paper (a GPU).",
)
dataset_choice = click.Choice(["glyphs", "cifar-fs", "mini-imagenet", "cub"])


def emit(value: Any, as_json: bool, text: str) -> None:
    """Write a result to standard output: the value as JSON, or the text."""
    click.echo(json.dumps(value, indent=1, allow_nan=False) if as_json else text)


def columns(rows: list[list[Any]], head: list[str]) -> str:
    """Rows under a head, in aligned columns."""
    table = [head, *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(line[i]) for line in table) for i in range(len(head))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in table)
    return "\n".join(line.rstrip() for line in lines)

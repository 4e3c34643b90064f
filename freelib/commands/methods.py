"""`freelib methods`: what there is to meta-train with."""

from __future__ import annotations

import click

from freelib.commands import columns, emit, json_option


@click.command(short_help="List the methods, or one method's settings.")
@click.option("--fields", metavar="METHOD", help="Show one method's settings and their defaults instead.")
@json_option
def methods(fields: str | None, as_json: bool) -> None:
    """List the methods: what they need of the models, what they cost, whom to cite.

    A method of your own is named by its import path, package.module:Class.
    """
    from dataclasses import asdict

    from freelib.methods import describe_methods, get_method
    from freelib.storage import plain

    if fields:
        settings = plain(asdict(get_method(fields).Config()))
        emit(
            settings,
            as_json,
            columns([[name, value] for name, value in settings.items()], ["field", "default"]),
        )
        return
    rows = describe_methods()
    head = ["method", "needs", "one architecture", "cost", "citation"]
    lines = [
        [r["name"], r["needs"], "yes" if r["same_architecture"] else "no", r["cost"], r["citation"]]
        for r in rows
    ]
    emit(rows, as_json, columns(lines, head))

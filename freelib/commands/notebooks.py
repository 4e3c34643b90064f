"""`freelib notebooks`: the committed notebooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from freelib.commands import columns, emit, json_option


@click.command(short_help="List the notebooks, or execute the committed ones again.")
@click.argument("names", nargs=-1)
@click.option(
    "--in-place", is_flag=True, help="Execute them and write outputs and execution counts into them."
)
@click.option("--folder", default="notebooks", show_default=True, type=click.Path(path_type=Path))
@click.option(
    "--results",
    default="results",
    show_default=True,
    type=click.Path(path_type=Path),
    help="A notebook that breaks off is kept in RESULTS/failed.",
)
@json_option
@click.pass_context
def notebooks(
    ctx: click.Context, names: tuple[str, ...], in_place: bool, folder: Path, results: Path, as_json: bool
) -> None:
    """List the notebooks with their parameters, or, with --in-place, execute the committed ones again.

    NAMES: some of them, such as 01_table1; all if left out.
    """
    from freelib.run.notebooks import find_notebooks, parameters, read_notebook

    paths = find_notebooks(folder, names)
    if not in_place:
        rows: list[dict[str, Any]] = [
            {"name": path.stem, "parameters": parameters(read_notebook(path), path.name)} for path in paths
        ]
        lines = [[r["name"], ", ".join(f"{k}={v!r}" for k, v in r["parameters"].items())] for r in rows]
        emit(rows, as_json, columns(lines, ["notebook", "parameters"]))
        return
    from freelib.run.reproduce import execute_in_place

    failures = execute_in_place(folder, names, results=results)
    failed = [{"notebook": f.name, "kept": str(f.path), "error": f.error} for f in failures]
    for failure in failed:
        click.echo(f"{failure['notebook']}: {failure['error']}\n  kept in {failure['kept']}", err=True)
    done = [path.stem for path in paths if path.stem not in {f.name for f in failures}]
    emit({"executed": done, "failed": failed}, as_json, "\n".join(done))
    ctx.exit(1 if failed else 0)

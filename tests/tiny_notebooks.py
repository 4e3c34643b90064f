"""Notebooks of a few cells, the first of them with the parameters."""

from collections.abc import Sequence
from pathlib import Path

import nbformat

from freelib.run.notebooks import clean, write_notebook


def write_cells(path: Path, *sources: str, tags: Sequence[str] = ("parameters",)) -> Path:
    """Writes a notebook of these cells, cell-0 with the tags; gives its path."""
    cells = [nbformat.v4.new_code_cell(source, id=f"cell-{i}") for i, source in enumerate(sources)]
    cells[0].metadata["tags"] = list(tags)
    write_notebook(clean(nbformat.v4.new_notebook(cells=cells)), path)
    return path

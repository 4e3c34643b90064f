from pathlib import Path

import nbformat
import pytest

from freelib.notebooks import (
    check_parameters,
    clean,
    find_notebooks,
    parameters,
    read_notebook,
    write_notebook,
)

COMMITTED = Path(__file__).parents[1] / "notebooks"


def notebook(source, tags=("parameters",)):
    """A notebook with one tagged cell."""
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)})
    return nbformat.v4.new_notebook(cells=[cell])


def test_parameters_are_names_and_plain_literals():
    assert parameters(notebook('A = 1\nB = [1, "x"]\nC = None\n# why\nD = -1.5'), "n") == {
        "A": 1, "B": [1, "x"], "C": None, "D": -1.5,
    }  # fmt: skip
    for source, words in (
        ("A = f()", "no plain literal"),
        ("import os", "more than"),
        ("A.b = 1", "more than"),
    ):
        with pytest.raises(ValueError, match=words):
            parameters(notebook(source), "n")
    with pytest.raises(ValueError, match="0 cells"):
        parameters(notebook("A = 1", tags=()), "n")


def test_unknown_and_unfitting_parameters():
    defaults = {"PROFILE": "smoke", "N": 3, "X": 0.5, "SHOTS": None}
    check_parameters({"PROFILE": "cpu", "N": 4, "X": 1, "SHOTS": [1, 5]}, defaults, "n")
    check_parameters({"N": None}, defaults, "n")
    with pytest.raises(ValueError, match=r"n has no parameter K; it has PROFILE, N, X, SHOTS"):
        check_parameters({"K": 1}, defaults, "n")
    for name, value in (("N", "3"), ("N", 1.5), ("PROFILE", 3), ("N", True)):
        with pytest.raises(ValueError, match=f"{name} is {value!r}, expected"):
            check_parameters({name: value}, defaults, "n")


def test_find(tmp_path):
    with pytest.raises(FileNotFoundError, match="no notebooks"):
        find_notebooks(tmp_path)
    for name in ("01_b", "00_a", "draft"):
        write_notebook(notebook("A = 1"), tmp_path / f"{name}.ipynb")
    assert [path.stem for path in find_notebooks(tmp_path)] == ["00_a", "01_b"]
    assert [path.stem for path in find_notebooks(tmp_path, ("01_b.ipynb",))] == ["01_b"]
    with pytest.raises(ValueError, match="no notebook 02_c"):
        find_notebooks(tmp_path, ("02_c",))
    (tmp_path / "00_a.ipynb").write_text("{")
    with pytest.raises(ValueError, match="not a notebook"):
        read_notebook(tmp_path / "00_a.ipynb")


def test_clean_keeps_what_stays_the_same():
    dirty = notebook("A = 1", tags=["injected-parameters"])
    dirty.cells[0].metadata["papermill"] = {"duration": 3.1}
    dirty.metadata["papermill"] = {"input_path": "somewhere"}
    dirty.metadata["language_info"] = {"name": "python", "version": "3.11.7"}
    cleaned = clean(dirty)
    assert cleaned.cells[0].metadata == {"tags": ["injected-parameters"]}
    assert cleaned.cells[0].id == "injected-parameters"
    assert set(cleaned.metadata) == {"kernelspec", "language_info"}
    assert cleaned.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("path", sorted(COMMITTED.glob("*.ipynb")), ids=lambda path: path.stem)
def test_committed_notebooks_are_executed_clean_and_parametrised(path):
    content = read_notebook(path)
    defaults = parameters(content, path.name)
    assert defaults["PROFILE"] == "smoke"
    assert defaults["RESULTS"] == "../results"
    for cell in content.cells:
        if cell.cell_type == "code":
            assert cell.execution_count, f"a cell of {path.name} was never executed"
            assert not [o for o in cell.outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert clean(read_notebook(path)) == content

import re
import shutil
from pathlib import Path

import nbformat
import pytest

from freelib.run.notebooks import (
    ARTEFACTS,
    check_parameters,
    clean,
    find_notebooks,
    missing_artefacts,
    parameters,
    read_notebook,
    write_notebook,
)
from freelib.run.report import write_index

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


def test_every_artefact_of_the_paper_has_one_notebook():
    assert [name for name in ARTEFACTS if name.startswith("Table")] == [f"Table {i}" for i in range(1, 6)]
    assert [name for name in ARTEFACTS if name.startswith("Figure")] == [f"Figure {i}" for i in range(1, 8)]
    assert len(set(ARTEFACTS.values())) == len(ARTEFACTS)
    assert missing_artefacts(COMMITTED) == []


def test_what_is_missing_and_what_is_a_stranger(tmp_path):
    for name in ["00_walk", *[*ARTEFACTS.values()][1:], "31_more"]:
        write_notebook(notebook("A = 1"), tmp_path / f"{name}.ipynb")
    assert missing_artefacts(tmp_path) == ["Table 1"]
    write_notebook(notebook("A = 1"), tmp_path / "06_table1.ipynb")
    with pytest.raises(ValueError, match="06_table1: that artefact"):
        missing_artefacts(tmp_path)


def test_reproduction_and_suite_take_every_notebook():
    """Both are given the folder, whole: nothing is picked out or left out."""
    lines = (COMMITTED.parent / "Makefile").read_text().replace("\\\n", "").splitlines()
    (run,) = [line for line in lines if "freelib reproduce" in line]
    assert "NOTEBOOK ?=" in lines  # of its own it names none
    assert "--notebook" not in run.replace("$(NOTEBOOK:%=--notebook %)", "")
    (suite,) = [line for line in lines if "--nbval" in line]
    assert suite.endswith(" notebooks")
    assert not re.search(r"--ignore|--deselect|-k |-m ", suite)


@pytest.mark.parametrize("path", sorted(COMMITTED.glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_suite_compares_something_in_each_notebook(path):
    checked = [c for c in read_notebook(path).cells if c.source.startswith("# NBVAL_CHECK_OUTPUT")]
    assert checked
    for cell in checked:
        assert [output.output_type for output in cell.outputs] == ["stream"]


def test_the_index_page_has_every_notebook_with_what_it_wrote(tmp_path):
    names = [path.stem for path in find_notebooks(COMMITTED)]
    for name in names:
        (tmp_path / "notebooks").mkdir(exist_ok=True)
        shutil.copy(COMMITTED / f"{name}.ipynb", tmp_path / "notebooks")
        subject = name.partition("_")[2]
        (tmp_path / "tables").mkdir(exist_ok=True)
        (tmp_path / "tables" / f"{subject}.md").write_text(f"| {subject} |")
    page = write_index(tmp_path, notebooks=names).read_text()
    sections = page.split('<section id="')[1:]
    assert [section.partition('"')[0] for section in sections] == names
    for name, section in zip(names, sections, strict=True):
        assert f'href="tables/{name.partition("_")[2]}.md"' in section


@pytest.mark.parametrize("path", sorted(COMMITTED.glob("*.ipynb")), ids=lambda path: path.stem)
def test_what_a_notebook_writes_bears_its_name(path):
    """Else the index page could not tell whose it is."""
    code = "\n".join(cell.source for cell in read_notebook(path).cells if cell.cell_type == "code")
    subject = path.stem.partition("_")[2]
    written = re.findall(r'(?:save_figure|\.save)\(.*"(\w+)"\)', code)
    assert written
    assert all(name == subject or name.startswith(f"{subject}_") for name in written)


def test_table_1_takes_methods_of_ones_own():
    content = read_notebook(COMMITTED / "01_table1.ipynb")
    assert parameters(content, "01_table1")["METHODS"] is None
    (call,) = [cell.source for cell in content.cells if "table1.run(" in cell.source]
    assert "methods=METHODS" in call

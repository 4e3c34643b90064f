import ast
import re
import subprocess
from pathlib import Path

import nbformat
import pytest

from freelib.run.notebooks import check_parameters, clean, find_notebooks, parameters, write_notebook

COMMITTED = Path(__file__).parents[2] / "notebooks"
ARTEFACTS = [*(f"table{i}" for i in range(1, 6)), *(f"figure{i}" for i in range(1, 8)), "lemma1_theorem1"]
CHECKED = "# NBVAL_CHECK_OUTPUT\n"


def notebook(source, tags=("parameters",)):
    """A notebook with one tagged cell."""
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)})
    return clean(nbformat.v4.new_notebook(cells=[cell]))


def written(source, path, **settings):
    write_notebook(notebook(source, **settings), path)
    return path


def test_parameters_are_names_and_plain_literals(tmp_path):
    source = 'A = 1  # help\nB = [1, "x"]\nC = None\n# why\nD = -1.5\nE: str = "../results"\nF = [\n    1,\n]'
    assert parameters(written(source, tmp_path / "n.ipynb")) == {
        "A": 1, "B": [1, "x"], "C": None, "D": -1.5, "E": "../results", "F": [1],
    }  # fmt: skip
    assert parameters(written("A = 1", tmp_path / "n.ipynb", tags=())) == {}
    for source in ("A = f()", "A = 1 +"):
        with pytest.raises(ValueError, match=r"n.ipynb: the parameter A is no plain literal"):
            parameters(written(source, tmp_path / "n.ipynb"))
    for name in ("01_b", "00_a", "draft"):
        written("A = 1", tmp_path / f"{name}.ipynb")
    assert [path.stem for path in find_notebooks(tmp_path)] == ["00_a", "01_b"]
    assert [path.stem for path in find_notebooks(tmp_path, ("01_b.ipynb",))] == ["01_b"]


def test_unknown_and_unfitting_parameters():
    defaults = {"PROFILE": "smoke", "N": 3, "X": 0.5, "SHOTS": None, "L": [1]}
    check_parameters({"PROFILE": "cpu", "N": 4, "X": 1, "SHOTS": [1, 5], "L": []}, defaults, "n")
    check_parameters({"N": None}, defaults, "n")
    with pytest.raises(ValueError, match=r"n has no parameter K; it has PROFILE, N, X, SHOTS, L"):
        check_parameters({"K": 1}, defaults, "n")
    for name, value in (("N", "3"), ("N", 1.5), ("PROFILE", 3), ("N", True), ("X", "1"), ("L", "1")):
        with pytest.raises(ValueError, match=f"{name} is {value!r}: Expected"):
            check_parameters({name: value}, defaults, "n")


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


def test_every_artefact_of_the_paper_has_one_notebook():
    subjects = [path.stem.partition("_")[2] for path in find_notebooks(COMMITTED)]
    assert [subjects.count(artefact) for artefact in ARTEFACTS] == [1] * len(ARTEFACTS)


@pytest.mark.parametrize("path", sorted(COMMITTED.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_committed_notebook_is_executed_clean_and_parametrised_and_what_it_says_is_compared(path):
    content = nbformat.read(path, as_version=4)
    assert clean(nbformat.read(path, as_version=4)) == content  # a kernel named python3, no paths, no times
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [o for cell in code for o in cell.outputs if o.output_type == "error"]
    assert not [o for cell in code for o in cell.outputs if o.get("name") == "stderr"]

    (tagged,) = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    plain = {n.targets[0].id: ast.literal_eval(n.value) for n in ast.parse(tagged.source).body}
    assert plain == parameters(path)
    live = path.stem[:2] in ("00", "31", "32")  # the others show the committed records
    assert (plain["PROFILE"], plain["RESULTS"]) == ("smoke" if live else "cpu", "../results")

    assert max(len(cell.source.splitlines()) for cell in code) <= 25
    checked = [cell for cell in code if cell.source.startswith(CHECKED)]
    assert checked
    assert all(cell.outputs for cell in checked)
    assert not [c.source for c in code if "save_table(" in c.source and not c.source.startswith(CHECKED)]


def test_reproduction_and_suite_take_every_notebook():
    """Nothing is picked out or left out."""
    command = ["make", "--dry-run", "run", "run-live"]  # which `reproduce` runs side by side
    run = subprocess.run(command, cwd=COMMITTED.parent, capture_output=True, text=True, check=True).stdout
    assert sorted(re.findall(r"--notebook (\S+)", run)) == sorted(path.stem for path in COMMITTED.glob("*.ipynb"))
    lines = (COMMITTED.parent / "Makefile").read_text().replace("\\\n", "").splitlines()
    (suite,) = [line for line in lines if "--nbval-lax" in line]
    assert suite.endswith(" notebooks")
    assert not re.search(r"--ignore|--deselect|-k |-m ", suite)

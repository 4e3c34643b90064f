"""Notebooks: what is committed, and how they are executed."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from tiny_notebooks import write_cells

from freelib.run.notebooks import check_parameters, clean, execute, find_notebooks, parameters, write_notebook
from freelib.run.reproduce import execute_in_place, reproduce

COMMITTED = Path(__file__).parents[2] / "notebooks"
ARTEFACTS = [*(f"table{i}" for i in range(1, 6)), *(f"figure{i}" for i in range(1, 8)), "lemma1_theorem1"]
CHECKED = "# NBVAL_CHECK_OUTPUT\n"


def test_parameters_are_plain_literals_that_fit(tmp_path):
    source = 'A = 1  # help\nB = [1, "x"]\nC = None\n# why\nD = -1.5\nE: str = "../results"\nF = [\n    1,\n]'
    assert parameters(write_cells(tmp_path / "n.ipynb", source)) == {
        "A": 1, "B": [1, "x"], "C": None, "D": -1.5, "E": "../results", "F": [1],
    }  # fmt: skip
    assert parameters(write_cells(tmp_path / "n.ipynb", "A = 1", tags=())) == {}
    for source in ("A = f()", "A = 1 +"):
        with pytest.raises(ValueError, match=r"n.ipynb: the parameter A is no plain literal"):
            parameters(write_cells(tmp_path / "n.ipynb", source))
    for name in ("01_b", "00_a", "draft"):
        write_cells(tmp_path / f"{name}.ipynb", "A = 1")
    assert [path.stem for path in find_notebooks(tmp_path)] == ["00_a", "01_b"]
    assert [path.stem for path in find_notebooks(tmp_path, ("01_b.ipynb",))] == ["01_b"]
    defaults = {"PROFILE": "smoke", "N": 3, "X": 0.5, "SHOTS": None, "L": [1]}
    check_parameters({"PROFILE": "cpu", "N": 4, "X": 1, "SHOTS": [1, 5], "L": []}, defaults, "n")
    check_parameters({"N": None}, defaults, "n")
    with pytest.raises(ValueError, match=r"n has no parameter K; it has PROFILE, N, X, SHOTS, L"):
        check_parameters({"K": 1}, defaults, "n")
    for name, value in (("N", "3"), ("N", 1.5), ("PROFILE", 3), ("N", True), ("X", "1"), ("L", "1")):
        with pytest.raises(ValueError, match=f"{name} is {value!r}: Expected"):
            check_parameters({name: value}, defaults, "n")


def test_clean_keeps_what_stays_the_same(tmp_path):
    dirty = read(write_cells(tmp_path / "n.ipynb", "A = 1", tags=["injected-parameters"]))
    dirty.cells[0].metadata["papermill"] = {"duration": 3.1}
    dirty.metadata["papermill"] = {"input_path": "somewhere"}
    dirty.metadata["language_info"] = {"name": "python", "version": "3.11.7"}
    cleaned = clean(dirty)
    assert cleaned.cells[0].metadata == {"tags": ["injected-parameters"]}
    assert cleaned.cells[0].id == "injected-parameters"
    assert set(cleaned.metadata) == {"kernelspec", "language_info"}
    assert cleaned.metadata.kernelspec.name == "python3"


def test_every_artefact_has_one_notebook_and_every_notebook_is_taken():
    subjects = [path.stem.partition("_")[2] for path in find_notebooks(COMMITTED)]
    assert [subjects.count(artefact) for artefact in ARTEFACTS] == [1] * len(ARTEFACTS)
    command = ["make", "--dry-run", "run", "run-live"]  # which `reproduce` runs side by side
    run = subprocess.run(command, cwd=COMMITTED.parent, capture_output=True, text=True, check=True).stdout
    assert sorted(re.findall(r"--notebook (\S+)", run)) == sorted(path.stem for path in COMMITTED.glob("*.ipynb"))
    lines = (COMMITTED.parent / "Makefile").read_text().replace("\\\n", "").splitlines()
    (suite,) = [line for line in lines if "--nbval-lax" in line]
    assert suite.endswith(" notebooks")
    assert not re.search(r"--ignore|--deselect|-k |-m ", suite)


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


PARAMETERS = 'PROFILE = "smoke"\nRESULTS = "../results"\nSHOTS = None\nFAIL = False'
BODY = """
import os
from pathlib import Path
assert not FAIL, "told to fail"
out = Path(RESULTS) / PROFILE / "tables"
out.mkdir(parents=True, exist_ok=True)
(out / "work.md").write_text(f"shots {SHOTS}, threads {os.environ['OMP_NUM_THREADS']}")
print(PROFILE, SHOTS)
"""


def read(path):
    return nbformat.read(path, as_version=4)


@pytest.fixture
def folder(tmp_path):
    """A project with one notebook."""
    write_cells(tmp_path / "notebooks" / "01_work.ipynb", PARAMETERS, BODY)
    return tmp_path


def with_body(folder, source):
    """The project's notebook, made to do something else."""
    return write_cells(folder / "notebooks" / "01_work.ipynb", PARAMETERS, source)


def run(folder, **arguments):
    return reproduce("smoke", results=folder / "results", notebooks=folder / "notebooks", **arguments)


def test_a_run_and_a_failing_run(folder):
    (outcome,) = run(folder, offered={"SHOTS": [1, 5], "DATASETS": ["glyphs"]})
    output = folder / "results/smoke/notebooks/01_work.ipynb"
    assert (outcome.name, outcome.path, outcome.error) == ("01_work", output, None)
    assert (folder / "results/smoke/tables/work.md").read_text() == "shots [1, 5], threads 1"
    executed = read(output)
    assert [cell.id for cell in executed.cells] == ["cell-0", "injected-parameters", "cell-1"]
    assert executed.cells[-1].outputs[0].text == "smoke [1, 5]\n"
    assert str(folder) not in output.read_text()
    assert "papermill" not in executed.metadata

    (failed,) = run(folder, required={"FAIL": True})
    assert (failed.path, failed.error) == (output, "AssertionError: told to fail")
    assert "told to fail" in output.read_text()


@pytest.mark.parametrize("in_place", [False, True], ids=["batch", "in place"])
def test_a_dead_kernel_is_a_failure_and_the_next_notebook_runs(folder, in_place):
    source, results = folder / "notebooks" / "01_work.ipynb", folder / "results"
    notebook = read(source)
    write_notebook(notebook, folder / "notebooks" / "02_work.ipynb")
    notebook.cells[1].source = 'import os\nprint("half way", flush=True)\nos._exit(9)'
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="of an earlier run")]
    notebook.cells.append(nbformat.v4.new_code_cell("1 + 1", id="after"))
    write_notebook(notebook, source)
    before = source.read_bytes()
    if in_place:
        failed, done = execute_in_place(notebooks=folder / "notebooks", results=results)
        assert source.read_bytes() == before
        assert failed.path == results / "failed" / "01_work.ipynb"
        executed = read(done.path)
        assert done.path == folder / "notebooks" / "02_work.ipynb"
        assert [cell.execution_count for cell in executed.cells] == [1, 2]
        assert executed.cells[1].outputs[0].text == "smoke None\n"
    else:
        failed, done = run(folder)
        assert failed.path == results / "smoke" / "notebooks" / "01_work.ipynb"
        assert (results / "smoke" / "tables" / "work.md").exists()
    assert failed.error == "DeadKernelError: the kernel died (memory ran out?)"
    assert done.error is None
    left = {cell.id: cell.outputs for cell in read(failed.path).cells}
    assert left["cell-1"][-1].output_type == "error"
    assert left["cell-1"][-1].ename == "DeadKernelError"
    assert [output.get("text") for output in left["cell-1"][:-1]] in ([], ["half way\n"])
    assert left["after"] == []


ASKS = """
import os, sys, freelib
with open(os.environ["FREELIB_PROGRESS"], "a") as file: file.write("half way\\n")
mine = freelib.get_method("of_the_start:Mine").title
print(sys.executable, os.environ.get("SHOTS"), os.environ["OMP_NUM_THREADS"], mine)
"""


def test_a_kernel_is_of_this_interpreter_and_finds_methods_where_the_command_was_started(folder, monkeypatch, capfd):
    """Not of another environment, whose kernel is called python3 too and lies where Jupyter looks first."""
    there = folder / "share" / "kernels" / "python3"
    there.mkdir(parents=True)
    spec = {"argv": ["/no/such/python", "-f", "{connection_file}"], "display_name": "x", "language": "python"}
    (there / "kernel.json").write_text(json.dumps(spec | {"env": {"SHOTS": "strange"}}))
    words = "from freelib.methods.random import Random\n\n\nclass Mine(Random):\n    title = 'Mine'\n"
    (folder / "of_the_start.py").write_text(words)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("JUPYTER_PATH", str(folder / "share"))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("FREELIB_PROGRESS", raising=False)
    executed, error = execute(with_body(folder, ASKS), {}, threads=3)
    assert error is None
    assert [output.text for output in executed.cells[1].outputs] == [f"{sys.executable} None 3 Mine\n"]
    assert "half way" in capfd.readouterr().err
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "FREELIB_PROGRESS" not in os.environ

import os

import nbformat
import pytest

from freelib.run.notebooks import read_notebook, write_notebook
from freelib.run.profiles import get_profile
from freelib.run.reproduce import execute_in_place, kernel_environment, reproduce

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


@pytest.fixture
def folder(tmp_path):
    """A project with one notebook."""
    cells = [
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}, id="parameters"),
        nbformat.v4.new_code_cell(BODY, id="body"),
    ]
    write_notebook(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / "01_work.ipynb")
    return tmp_path


def run(folder, **arguments):
    return reproduce("smoke", results=folder / "results", notebooks=folder / "notebooks", **arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"required": {"DATASETS": ["glyphs"]}}, "no parameter DATASETS"),
        ({"required": {"FAIL": 1}}, "FAIL is 1, expected bool"),
        ({"only": ["02_other"]}, "no notebook 02_other"),
        ({"required": {"PROFILE": "cpu"}}, "PROFILE is no parameter to be set here: use --profile"),
        ({"required": {"RESULTS": "/elsewhere"}}, "use --results"),
        ({"required": {"SHOTS": 1}}, "SHOTS is 1, expected a list of numbers of shots"),
        ({"required": {"SHOTS": "1"}}, "SHOTS is '1', expected a list"),
        ({"required": {"SHOTS": []}}, "expected a list"),
        ({"required": {"SHOTS": [0]}}, "SHOTS has 0, expected numbers of shots, from 1 on"),
        ({"offered": {"SEEDS": [True]}}, r"SEEDS is \[True\], expected a list of seeds"),
        ({"offered": {"DATASETS": "glyphs"}}, "DATASETS is 'glyphs', expected a list of data sets"),
        ({"offered": {"DATASETS": ["cub", "nosuch"]}}, "DATASETS has 'nosuch', expected data sets"),
        ({"offered": {"METHODS": ["fere"]}}, "Unknown method 'fere'"),
    ],
)
def test_what_a_notebook_does_not_know_stops_everything_before_it_starts(folder, arguments, words):
    with pytest.raises(ValueError, match=words):
        run(folder, **arguments)
    assert not (folder / "results").exists()


def test_a_run_a_failing_run_and_the_index(folder, capfd):
    index, failures = run(folder, offered={"SHOTS": [1, 5], "DATASETS": ["glyphs"]})
    assert failures == []
    assert (folder / "results/smoke/tables/work.md").read_text() == "shots [1, 5], threads 1"
    output = folder / "results/smoke/notebooks/01_work.ipynb"
    assert 'href="notebooks/01_work.ipynb"' in index.read_text()
    executed = read_notebook(output)
    assert [cell.id for cell in executed.cells] == ["parameters", "injected-parameters", "body"]
    assert executed.cells[-1].outputs[0].text == "smoke [1, 5]\n"
    assert str(folder) not in output.read_text()
    assert "papermill" not in executed.metadata

    index, (failure,) = run(folder, required={"FAIL": True})
    assert (failure.name, failure.path, failure.error) == ("01_work", output, "AssertionError: told to fail")
    assert "told to fail" in output.read_text()
    assert "broke off" in index.read_text()
    assert str(output) in capfd.readouterr().err


def test_index_only_runs_nothing(folder):
    index, failures = run(folder, index_only=True)
    assert (index.is_file(), failures) == (True, [])
    assert not (folder / "results/smoke/notebooks").exists()


def test_in_place(folder):
    path = folder / "notebooks" / "01_work.ipynb"
    assert execute_in_place(folder / "notebooks", results=folder / "results") == []
    first = path.read_bytes()
    executed = read_notebook(path)
    assert [cell.execution_count for cell in executed.cells] == [1, 2]
    assert executed.cells[1].outputs[0].text == "smoke None\n"
    executed.cells[0].source = PARAMETERS.replace("FAIL = False", "FAIL = True")
    write_notebook(executed, path)
    changed = path.read_bytes()
    (failure,) = execute_in_place(folder / "notebooks", results=folder / "results")
    assert failure.path == folder / "results" / "failed" / "01_work.ipynb"
    assert "told to fail" in failure.path.read_text()
    assert path.read_bytes() == changed != first


@pytest.mark.parametrize("in_place", [False, True], ids=["batch", "in place"])
def test_a_dead_kernel_is_a_failure_and_the_next_notebook_runs(folder, in_place):
    source, results = folder / "notebooks" / "01_work.ipynb", folder / "results"
    notebook = read_notebook(source)
    write_notebook(notebook, folder / "notebooks" / "02_work.ipynb")
    notebook.cells[1].source = 'import os\nprint("half way", flush=True)\nos._exit(9)'
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="of an earlier run")]
    notebook.cells.append(nbformat.v4.new_code_cell("1 + 1", id="after"))
    write_notebook(notebook, source)
    before = source.read_bytes()
    if in_place:
        (failure,) = execute_in_place(folder / "notebooks", results=results)
        assert source.read_bytes() == before
        assert failure.path == results / "failed" / "01_work.ipynb"
        assert read_notebook(folder / "notebooks" / "02_work.ipynb").cells[1].execution_count == 2
    else:
        index, (failure,) = run(folder)
        assert failure.path == results / "smoke" / "notebooks" / "01_work.ipynb"
        assert "broke off" in index.read_text()
        assert (results / "smoke" / "tables" / "work.md").exists()
    assert (failure.name, failure.error) == ("01_work", "DeadKernelError: the kernel died (memory ran out?)")
    left = {cell.id: cell.outputs for cell in read_notebook(failure.path).cells}
    assert left["body"][-1].output_type == "error"
    assert left["body"][-1].ename == "DeadKernelError"
    assert [output.get("text") for output in left["body"][:-1]] in ([], ["half way\n"])
    assert left["after"] == []


def test_the_environment_is_put_back_and_progress_is_shown(monkeypatch, capfd):
    monkeypatch.delenv("FREELIB_PROGRESS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with kernel_environment(get_profile("smoke"), standing=True):
        assert os.environ["FREELIB_RUNS"] == "none"
        assert os.environ["OMP_NUM_THREADS"] == "1"
        with open(os.environ["FREELIB_PROGRESS"], "a") as file:  # noqa: PTH123
            file.write("half way\n")
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert not {"FREELIB_PROGRESS", "FREELIB_RUNS"} & set(os.environ)
    assert "half way" in capfd.readouterr().err

import os

import nbformat
import pytest

from freelib.notebooks import read_notebook, write_notebook
from freelib.profiles import get_profile
from freelib.reproduce import execute_in_place, kernel_environment, reproduce

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

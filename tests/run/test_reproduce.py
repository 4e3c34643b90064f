import json
import os
import signal
import sys
import time

import nbformat
import pytest
from processes import start_command

from freelib.run.notebooks import clean, execute, write_notebook
from freelib.run.reproduce import execute_in_place, reproduce

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
    cells = [
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}, id="parameters"),
        nbformat.v4.new_code_cell(BODY, id="body"),
    ]
    write_notebook(clean(nbformat.v4.new_notebook(cells=cells)), tmp_path / "notebooks" / "01_work.ipynb")
    return tmp_path


def with_body(folder, source):
    """The project's notebook, made to do something else."""
    path = folder / "notebooks" / "01_work.ipynb"
    notebook = read(path)
    notebook.cells[1].source = source
    write_notebook(notebook, path)
    return path


def run(folder, **arguments):
    return reproduce("smoke", results=folder / "results", notebooks=folder / "notebooks", **arguments)


def test_a_run_and_a_failing_run(folder):
    (outcome,) = run(folder, offered={"SHOTS": [1, 5], "DATASETS": ["glyphs"]})
    output = folder / "results/smoke/notebooks/01_work.ipynb"
    assert (outcome.name, outcome.path, outcome.error) == ("01_work", output, None)
    assert (folder / "results/smoke/tables/work.md").read_text() == "shots [1, 5], threads 1"
    executed = read(output)
    assert [cell.id for cell in executed.cells] == ["parameters", "injected-parameters", "body"]
    assert executed.cells[-1].outputs[0].text == "smoke [1, 5]\n"
    assert str(folder) not in output.read_text()
    assert "papermill" not in executed.metadata

    (failed,) = run(folder, required={"FAIL": True})
    assert (failed.path, failed.error) == (output, "AssertionError: told to fail")
    assert "told to fail" in output.read_text()


def test_in_place(folder):
    path = folder / "notebooks" / "01_work.ipynb"
    folders = {"notebooks": folder / "notebooks", "results": folder / "results"}
    (outcome,) = execute_in_place(**folders)
    assert (outcome.path, outcome.error) == (path, None)
    first = path.read_bytes()
    executed = read(path)
    assert [cell.execution_count for cell in executed.cells] == [1, 2]
    assert executed.cells[1].outputs[0].text == "smoke None\n"
    executed.cells[0].source = PARAMETERS.replace("FAIL = False", "FAIL = True")
    write_notebook(executed, path)
    changed = path.read_bytes()
    (failed,) = execute_in_place(**folders)
    assert failed.path == folder / "results" / "failed" / "01_work.ipynb"
    assert "told to fail" in failed.path.read_text()
    assert path.read_bytes() == changed != first


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
        assert read(folder / "notebooks" / "02_work.ipynb").cells[1].execution_count == 2
    else:
        failed, done = run(folder)
        assert failed.path == results / "smoke" / "notebooks" / "01_work.ipynb"
        assert (results / "smoke" / "tables" / "work.md").exists()
    assert failed.error == "DeadKernelError: the kernel died (memory ran out?)"
    assert done.error is None
    left = {cell.id: cell.outputs for cell in read(failed.path).cells}
    assert left["body"][-1].output_type == "error"
    assert left["body"][-1].ename == "DeadKernelError"
    assert [output.get("text") for output in left["body"][:-1]] in ([], ["half way\n"])
    assert left["after"] == []


def test_no_kernel_of_another_environment_is_taken(folder, monkeypatch):
    """One that is called python3 too, where Jupyter looks first."""
    there = folder / "share" / "kernels" / "python3"
    there.mkdir(parents=True)
    spec = {"argv": ["/no/such/python", "-f", "{connection_file}"], "display_name": "x", "language": "python"}
    (there / "kernel.json").write_text(json.dumps(spec | {"env": {"SHOTS": "strange"}}))
    monkeypatch.setenv("JUPYTER_PATH", str(folder / "share"))
    path = with_body(folder, "import os, sys\nprint(sys.executable, os.environ.get('SHOTS'))")
    executed, error = execute(path, {}, threads=1)
    assert error is None
    assert executed.cells[1].outputs[0].text == f"{sys.executable} None\n"


def test_progress_is_shown_and_the_environment_stays(folder, monkeypatch, capfd):
    monkeypatch.delenv("FREELIB_PROGRESS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    writes = "import os\nwith open(os.environ['FREELIB_PROGRESS'], 'a') as f: f.write('half way\\n')"
    executed, _ = execute(with_body(folder, f"{writes}\nprint(os.environ['OMP_NUM_THREADS'])"), {}, threads=3)
    assert [output.text for output in executed.cells[1].outputs] == ["3\n"]
    assert "half way" in capfd.readouterr().err
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "FREELIB_PROGRESS" not in os.environ


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_one_line_and_no_half_notebook(folder, number):
    with_body(folder, "import time, pathlib\npathlib.Path('begun').touch()\ntime.sleep(60)")
    process = start_command("reproduce", cwd=folder)
    while not (folder / "notebooks" / "begun").exists():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (128 + number, ""), err
    assert err == "[1/1] 01_work.ipynb\nfreelib: interrupted: the same command goes on from what is saved\n"
    assert not (folder / "results").exists()

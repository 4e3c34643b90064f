"""JupyterLab, as a user has it: a notebook is opened, all cells are run from the menu, and none fails."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
NOTEBOOK = "00_quickstart.ipynb"
MINUTES = 10


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A folder with the notebook, without its outputs, and the records beside it."""
    notebook = nbformat.read(ROOT / "notebooks" / NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    (tmp_path / "notebooks").mkdir()
    nbformat.write(notebook, tmp_path / "notebooks" / NOTEBOOK)
    shutil.copytree(ROOT / "results" / "cpu", tmp_path / "results" / "cpu")
    return tmp_path


@pytest.fixture
def lab(checkout) -> Iterator[str]:
    """The address of a JupyterLab that serves that folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {f"JUPYTER_{kind}_DIR": str(checkout / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
    options = [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=test"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--allow-root")
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--LabApp.news_url=", *options]
    with (checkout / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=checkout, env=os.environ | settings, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(240):
                try:
                    urllib.request.urlopen(f"{address}/api/status?token=test", timeout=5).close()
                    break
                except OSError:
                    assert server.poll() is None, (checkout / "log").read_text()
                    time.sleep(0.25)
            yield f"{address}/lab/tree/notebooks/{NOTEBOOK}?token=test"
        finally:
            server.terminate()
            server.wait(30)


def test_all_cells_of_the_quickstart_run_from_the_menu(open_page, lab, checkout):
    page = open_page(lab)
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=60_000)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=120_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    written = checkout / "notebooks" / NOTEBOOK
    deadline = time.monotonic() + 60 * MINUTES
    while time.monotonic() < deadline:
        page.wait_for_timeout(2000)
        page.keyboard.press("Control+s")
        page.wait_for_timeout(500)
        cells = [c for c in nbformat.read(written, as_version=4).cells if c.cell_type == "code"]
        failed = [o.evalue for cell in cells for o in cell.outputs if o.output_type == "error"]
        if failed or all(cell.execution_count for cell in cells):
            break
    assert failed == []
    assert all(cell.execution_count for cell in cells), f"not done after {MINUTES} minutes"
    assert [o.text for cell in cells for o in cell.outputs if o.get("name") == "stderr"] == []
    assert cells[-1].outputs
    last = page.locator(".jp-Notebook .jp-CodeCell").last
    last.scroll_into_view_if_needed()
    assert re.fullmatch(r"\[\d+\]:", last.locator(".jp-InputPrompt").inner_text().strip())
    assert last.locator(".jp-OutputArea-output").count() > 0
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0

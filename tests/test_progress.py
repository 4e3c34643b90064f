import io
from types import SimpleNamespace

import pytest

from freelib.progress import Progress


@pytest.fixture
def stderr(monkeypatch):
    """A standard error that is no terminal, and no kernel around."""
    stream = io.StringIO()
    monkeypatch.setattr("freelib.progress.sys", SimpleNamespace(stderr=stream, modules={}))
    monkeypatch.delenv("FREELIB_PROGRESS", raising=False)
    return stream


def count(total=3):
    with Progress("work") as progress:
        progress(0, total)
        progress.note("busy")
        for done in range(1, total + 1):
            progress(done, total)


def test_lines_where_there_is_no_terminal_a_bar_where_there_is_one(stderr, monkeypatch):
    count()
    assert stderr.getvalue() == "work: 0/3\nwork: 3/3 busy\n"
    monkeypatch.setattr(stderr, "isatty", lambda: True, raising=False)
    count()
    assert stderr.getvalue().count("\r") > 1


def test_off_and_file(stderr, monkeypatch, tmp_path):
    monkeypatch.setenv("FREELIB_PROGRESS", "off")
    count()
    monkeypatch.setenv("FREELIB_PROGRESS", str(tmp_path / "lines"))
    count()
    assert stderr.getvalue() == ""
    assert (tmp_path / "lines").read_text() == "work: 0/3\nwork: 3/3 busy\n"

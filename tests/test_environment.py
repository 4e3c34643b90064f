import io
import platform
import re
import sys
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
from processes import start_python

import freelib
from freelib.environment import cpu_model, device_name, environment, git_commit, peak_memory_mib, torch_threads
from freelib.progress import Progress
from freelib.run.records import FIELDS


def test_environment_names_what_a_record_has(monkeypatch):
    captured = environment()
    assert set(captured) <= set(FIELDS)
    assert captured["threads"] >= 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", captured["started"])
    assert captured["cpu"] == cpu_model() != ""
    assert captured["freelib_version"] == freelib.__version__
    assert device_name("cpu") == "cpu"
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|None", str(git_commit()))
    block = bytearray(200 * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    assert 200 < peak_memory_mib() < 100_000
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert peak_memory_mib() is None
    before = torch.get_num_threads()
    with suppress(KeyError), torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before


INTEL = "cpu family\t: 6\nmodel\t\t: 85\nmodel name\t: Xeon: Gold\n\nprocessor\t: 1\nmodel\t\t: 86\n"


@pytest.mark.parametrize(
    ("told", "name"), [(INTEL, "Xeon: Gold (family 6, model 85)"), ("Features: fp", None), (None, None)]
)
def test_the_processor_tells_its_family_where_it_can(monkeypatch, told, name):
    def read_text(path, encoding):
        assert (str(path), encoding) == ("/proc/cpuinfo", "utf-8")
        if told is None:
            raise FileNotFoundError
        return told

    monkeypatch.setattr("pathlib.Path.read_text", read_text)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert cpu_model.__wrapped__() == (name or "riscv64")


FAULTS = """
import resource, torch
from freelib.environment import keep_freed_memory
torch.set_num_threads(1)
for keeps in (False, True):
    assert not keeps or keep_freed_memory()
    for step in range(10):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [torch.ones(10 * 2**20) for _ in range(4)]
        del blocks
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_kept_for_the_next_tensor():
    """Page faults of taking and freeing 4 x 40 MiB for the tenth time."""
    returns, keeps = map(int, start_python("-c", FAULTS).communicate()[0].split())
    assert keeps < returns / 10


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


def test_progress_is_lines_a_bar_a_file_or_nothing(stderr, monkeypatch, tmp_path):
    monkeypatch.setenv("FREELIB_PROGRESS", "off")
    count()
    monkeypatch.setenv("FREELIB_PROGRESS", str(tmp_path / "lines"))
    count()
    assert stderr.getvalue() == ""
    assert (tmp_path / "lines").read_text() == "work: 0/3\nwork: 3/3 busy\n"
    monkeypatch.delenv("FREELIB_PROGRESS")
    count()
    assert stderr.getvalue() == "work: 0/3\nwork: 3/3 busy\n"
    monkeypatch.setattr(stderr, "isatty", lambda: True, raising=False)
    count()
    assert stderr.getvalue().count("\r") > 1

import re

import freelib
from freelib.environment import cpu_model, device_name, environment, git_commit, peak_memory_mib
from freelib.records import FIELDS


def test_environment_names_what_a_record_has():
    captured = environment()
    assert set(captured) <= set(FIELDS)
    assert captured["threads"] >= 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", captured["started"])
    assert captured["cpu"] == cpu_model() != ""
    assert captured["freelib_version"] == freelib.__version__


def test_commit_is_a_commit_or_unknown():
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|None", str(git_commit()))


def test_peak_memory_is_in_mib():
    block = bytearray(200 * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    assert 200 < peak_memory_mib() < 100_000


def test_device_name():
    assert device_name("cpu") == "cpu"

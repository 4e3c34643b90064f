"""Mutated files are read, or refused by a sentence that names them: no crash, no hang, no memory over the limit."""

import random
import time
from collections import Counter
from pathlib import Path

import pytest
from processes import start_python
from reliability import MINUTES, keep

pytestmark = pytest.mark.long
HANGS = 60  # seconds


def test_mutated_files_are_read_or_refused(tmp_path):
    number, end, log = random.randrange(2**40), time.monotonic() + 60 * MINUTES, tmp_path / "log"
    log.touch()
    while time.monotonic() < end:
        process = start_python(Path(__file__).with_name("fuzz.py"), tmp_path, number)
        size, seen = log.stat().st_size, time.monotonic()
        while process.poll() is None and time.monotonic() < min(end, seen + HANGS):
            time.sleep(0.2)
            if size != (size := log.stat().st_size):
                seen = time.monotonic()
        ended = "crash" if process.poll() is not None else "hang" if time.monotonic() < end else ""
        process.kill()
        error = process.communicate()[1][-500:]
        number = max((int(line.split()[0]) for line in log.read_text().splitlines()), default=number - 1) + 1
        if ended:
            with log.open("a") as more:
                print(number, "?", ended, error.replace("\n", " "), file=more)
            number += 1
    lines = log.read_text().splitlines()
    found = Counter(line.split()[2] for line in lines)
    kinds = ("read", "refused", "unclear", "memory", "crash", "hang")
    keep("fuzzer", {"minutes": MINUTES, **{kind: found[kind] for kind in kinds}})
    assert not [line for line in lines if line.split()[2] not in kinds[:2]]

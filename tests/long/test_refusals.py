"""Files that want code to be run, and the table of bad input, counted."""

import os
import pickle
import subprocess
import sys
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from reliability import keep

from freelib.datasets.sources import source_at
from freelib.models.readers import read_pool
from freelib.run.learners import load_learner
from freelib.storage import Checkpoint, load_state_file

pytestmark = pytest.mark.long
CARD = '{"arch": "resnet18", "class_names": ["a", "b"], "image_size": 8, "mean": [0.5], "std": [0.2]}'
CALLS = [
    (os.mkdir, "{}"),
    (os.system, "mkdir {}"),
    (exec, "import os; os.mkdir('{}')"),
    (eval, "__import__('os').mkdir('{}')"),
]
READERS = {
    **dict.fromkeys(("m.pt", "m.pth", "m.bin"), load_state_file),
    "m.safetensors": lambda file: read_pool(file.parent),
    "learner.json": lambda file: load_learner(file.parent),
    "images.pkl": lambda file: source_at("drawn", file.parent, {"train": ("a",)}).read_class("a", 8),
    "run.pt": lambda file: Checkpoint(file).load(),
}


class Call:
    """Pickled, it is a call of a function."""

    def __init__(self, function, argument):
        self.call = function, (argument,)

    def __reduce__(self):
        return self.call


@pytest.mark.filterwarnings("ignore:.* is damaged")
def test_no_code_from_a_file_is_run(tmp_path):
    (tmp_path / "m.json").write_text(CARD)
    trap, tried, refused, run = tmp_path / "trap", 0, 0, 0
    for (function, text), (name, read), protocol in product(CALLS, READERS.items(), (0, 2, 4, "torch")):
        evil = {"weight": torch.zeros(2), "more": Call(function, text.format(trap))}
        file, tried = tmp_path / name, tried + 1
        torch.save(evil, file) if protocol == "torch" else file.write_bytes(pickle.dumps(evil, protocol))
        try:
            refused += read(file) is None  # a state that is set aside
        except ValueError:
            refused += 1
        run += trap.exists()
        file.unlink(missing_ok=True)
    pickle.loads(pickle.dumps(evil))
    assert trap.exists()  # where it is let
    keep("files with code", {"tried": tried, "refused": refused, "run": run})
    assert (refused, run) == (tried, 0)


def test_bad_input_is_counted(tmp_path):
    file, table = tmp_path / "found.xml", Path(__file__).parents[1] / "test_bad_input.py"
    command = [sys.executable, "-m", "pytest", "-q", "-k", "answered", f"--junitxml={file}", table]
    subprocess.run(command, check=False, capture_output=True)
    cases = list(ElementTree.parse(file).iter("testcase"))
    said = ["".join(bad.get("message", "") for bad in case) for case in cases]
    silent = sum("DID NOT RAISE" in words or "assert (0," in words for words in said)
    unclear = sum(map(bool, said)) - silent
    figures = {"tried": len(cases), "clear": len(cases) - silent - unclear, "unclear": unclear, "silent": silent}
    keep("bad inputs", figures)
    assert (unclear, silent) == (0, 0)

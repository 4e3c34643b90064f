"""FREE goes on where it was killed, with the same bits."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch
from test_free import TINY, train
from tiny_models import flat, weights

from freelib.storage import Checkpoint

KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from test_free import TINY, train
from freelib.storage import Checkpoint
def monitor(number, learner):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return 1 / number
train(monitor=monitor, checkpoint=Checkpoint(Path(sys.argv[1])))
"""


def test_a_run_that_was_killed_ends_with_the_same_bits(tmp_path):
    def monitor(number, learner):
        asked.append(number)
        return 1 / number

    asked: list[int] = []
    straight = train(monitor=monitor)
    checkpoint = Checkpoint(tmp_path / "run.pt")
    here = Path(__file__).parent
    path = f"import sys; sys.path[:0] = [{str(here)!r}, {str(here.parent)!r}]\n"
    killed = subprocess.run([sys.executable, "-c", path + KILLED, str(checkpoint.file)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert checkpoint.load()["round"] == 2
    asked.clear()
    resumed = train(monitor=monitor, checkpoint=checkpoint)
    assert asked == [3, 4]
    assert torch.equal(weights(resumed), weights(straight))
    assert torch.equal(flat(resumed.last_params.values()), flat(straight.last_params.values()))
    assert resumed.selected_round == straight.selected_round == 2
    assert resumed.log.history == straight.log.history
    assert resumed.log.iterations == straight.log.iterations


def test_no_checkpoint_where_none_is_wanted(tmp_path):
    checkpoint = Checkpoint(tmp_path / "run.pt")
    train(replace(TINY, checkpoint_every=0), checkpoint=checkpoint)
    assert checkpoint.load() is None

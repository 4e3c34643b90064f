"""Commands that are killed with SIGKILL at random moments, and started again, end with the bits of one that was not."""

import json
import os
import random
import signal
import subprocess
import time

import pytest
from processes import start_command
from reliability import KILLS, keep
from tiny_notebooks import write_cells

from freelib.models.pretraining import PoolConfig, pretrain_pool

pytestmark = pytest.mark.long
COMMANDS = {
    "pool pretrain": "pool pretrain --folder OUT/pool --set n_models=6 --set epochs=2",
    "train": "train free --pool pool --out OUT/learner --set width=4 --set ngf=4 --set rounds=30 --set adapt_steps=3 "
    "--set meta_batch=2 --set images_per_class=4 --set align_sweeps=2 --set checkpoint_every=2",
    "reproduce": "reproduce --notebooks notebooks --results OUT",
}
CELLS = [
    'PROFILE = "smoke"\nRESULTS = "../results"',
    "import freelib.run as fr\nprofile = fr.get_profile(PROFILE, 'pool_settings')\n"
    "small = {'adapt_steps': 3, 'meta_batch': 2, 'width': 4, 'ngf': 4, 'checkpoint_every': 2}\n"
    "settings = {'random': {}, 'average': {}, 'free': small}\n"
    "units = [fr.Unit('pool_settings', method, 'glyphs', 1, 0, some) for method, some in settings.items()]\n"
    "found = fr.run_units(units, profile, RESULTS)",
]


@pytest.fixture
def here(tmp_path, tiny_dataset, monkeypatch):
    """The current folder, with a pool to train on and a notebook to reproduce."""
    pretrain_pool(tiny_dataset, PoolConfig(n_models=4, width=4, epochs=3, batch_size=24), tmp_path / "pool")
    write_cells(tmp_path / "notebooks/01_work.ipynb", *CELLS)
    monkeypatch.chdir(tmp_path)


def bits(folder):
    """What a run leaves that is the same each time: weights, and what records say of training and test."""
    found = {path.name: path.read_bytes() for path in folder.rglob("*.safetensors") if "cache" not in path.parts}
    for path in folder.glob("*/records/*/*.json"):
        record = json.loads(path.read_text())
        found[path.name] = [record[name] for name in ("config", "history", "episode_accuracies", "extra")]
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_random_moments(name, here, tmp_path, monkeypatch):
    def start(run):
        # the images are prepared once, but a run that makes its pool in the cache has one of its own
        monkeypatch.setenv("FREELIB_CACHE", str(tmp_path / (run if name == "reproduce" else "all") / "cache"))
        return start_command(COMMANDS[name].replace("OUT", run))

    rng, kills, runs, lost, began = random.Random(), 0, 0, 0, time.monotonic()
    _, errors = (process := start("whole")).communicate()
    assert process.returncode == 0, errors
    expected, seconds = bits(tmp_path / "whole"), time.monotonic() - began
    assert expected
    while kills < KILLS:
        runs, done = runs + 1, False
        while not done:
            process = start(f"run-{runs}")
            try:
                _, errors = process.communicate(timeout=rng.uniform(0, seconds) if kills < KILLS else None)
                assert process.returncode == 0, errors
                done = True
            except subprocess.TimeoutExpired:
                kills += 1
                rng.choice([os.kill, os.killpg])(process.pid, signal.SIGKILL)  # alone, or with its children
                process.communicate(timeout=60)  # until the last of them has ended
        lost += bits(tmp_path / f"run-{runs}") != expected
    keep(f"kills of {name}", {"kills": kills, "runs": runs, "other bits": lost})
    assert lost == 0

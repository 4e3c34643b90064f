"""On an accelerator: the numbers of the CPU, and how long each part takes. `make test-gpu` runs it; CI does not."""

import os
import time

import pytest
import torch
from small_methods import small, trainer
from tiny_models import conv_learner, random_episode, tiny_pool, tiny_round

from freelib.alignment import make_optimizer
from freelib.environment import torch_threads
from freelib.fast import maml_step
from freelib.methods import METHODS

DEVICE = os.environ.get("FREELIB_TEST_DEVICE", "cuda")  # "cpu" tries the tests themselves
pytestmark = pytest.mark.gpu
CLOSE = {"rtol": 1e-3, "atol": 1e-4}


@pytest.fixture(autouse=True)
def _exact():
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch finds no GPU here")
    with torch_threads(torch.get_num_threads()):
        yield


@pytest.fixture(scope="module", autouse=True)
def _table():
    """Seconds of each test, as a table to paste into an issue."""
    rows: dict[str, float] = {}
    yield rows
    name = torch.cuda.get_device_name() if DEVICE == "cuda" and torch.cuda.is_available() else "CPU"
    print(f"\n| {name}, torch {torch.__version__} | s |\n| --- | --- |")
    print("\n".join(f"| {part} | {seconds:.2f} |" for part, seconds in rows.items()))


@pytest.fixture
def timed(_table, request):
    """Runs a function, waits for the device, and keeps the seconds."""

    def run(work):
        start = time.perf_counter()
        found = work()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        _table[request.node.name] = time.perf_counter() - start
        return found

    return run


def on_both(work, timed):
    return work("cpu"), timed(lambda: work(DEVICE))


def test_synthesis_and_alignment(timed):
    torch.testing.assert_close(*on_both(lambda device: tiny_round(device).cpu(), timed), **CLOSE)


@pytest.mark.parametrize("second_order", [True, False])
def test_replay(timed, second_order):
    def work(device):
        student = conv_learner()
        student.backbone.to(device)
        optimizer = make_optimizer("adam", list(student.params.values()), 1e-3)
        episodes = [random_episode(1, 3, seed=seed).to(device) for seed in range(7)]
        return torch.stack(maml_step(student, episodes, optimizer, steps=3, second_order=second_order)).cpu()

    torch.testing.assert_close(*on_both(work, timed), **CLOSE)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_and_answers(timed, tiny_dataset, name):
    precision = small(name).precision
    train = trainer(name, tiny_pool(4), dataset=tiny_dataset, device=DEVICE, precision=precision)
    learner = timed(train)
    episode = random_episode(1, 3)
    found = learner.adapt(episode.support, episode.support_labels).predict_proba(episode.query)
    assert found.device.type == DEVICE
    torch.testing.assert_close(found.sum(1).cpu(), torch.ones(len(episode.query)))

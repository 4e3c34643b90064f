import time
from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from tiny_models import Killed, flat, kill_at, rng, smooth_learner, tiny_pool, weights

from freelib.methods import training as module
from freelib.methods.free import FreeConfig
from freelib.methods.training import CrossTaskReplay, TrainingLog, TrainingRun
from freelib.storage import Checkpoint

POOL = tiny_pool(4)


@dataclass
class Rhythm:
    monitor_every: int = 1
    checkpoint_every: int = 2


def begin(checkpoint=None, monitor=None, *, seed=0, pool=POOL, **rhythm):
    config = Rhythm(**rhythm)
    return TrainingRun(smooth_learner(seed=seed), pool, config, rng(seed), seed, monitor, checkpoint)


def shifted(learner, value: float) -> None:
    """Sets every parameter to one value."""
    learner.load_params({name: torch.full_like(p, value) for name, p in learner.params.items()})


def walk(scores: list[float | None], *, warmup: int = 0, **rhythm):
    """A learner whose weights are all r in round r, scored by a script; and the rounds that were checked."""
    asked = []

    def monitor(number, learner):
        assert learner is run.learner
        asked.append(number)
        return scores[number - 1]

    run = begin(monitor=monitor, **rhythm)
    for number in run.rounds(len(scores), warmup=warmup):
        shifted(run.learner, float(number))
    return run.finish(), asked


def test_the_best_round_is_selected_and_the_last_stays_at_hand():
    learner, asked = walk([0.3, 0.5, 0.5, 0.4])
    assert (weights(learner) == 2).all()  # the first of two equals
    assert (flat(learner.last_params.values()) == 4).all()
    assert learner.selected_round == 2
    assert asked == [1, 2, 3, 4]
    assert learner.log.history == {"monitor_round": [1, 2, 3, 4], "monitor_score": [0.3, 0.5, 0.5, 0.4]}
    assert set(learner.log.seconds) == {"monitor", "monitor_cpu"}
    learner, asked = walk([None] * 3)
    assert (weights(learner) == 3).all()
    assert (learner.selected_round, learner.last_params) == (None, None)
    assert asked == [1, 2, 3]
    assert "monitor_score" not in learner.log.history


@pytest.mark.parametrize(
    ("rhythm", "rounds"),
    [
        ({"monitor_every": 2}, [2, 4, 5]),
        ({"monitor_every": 3}, [3, 5]),
        ({"monitor_every": 5}, [5]),
        ({"monitor_every": 0}, [5]),
        ({"monitor_every": 1, "warmup": 2}, [3, 4, 5]),
        ({"monitor_every": 0, "warmup": 2}, [5]),
        ({"monitor_every": 1, "warmup": 5}, []),
    ],
)
def test_validation_checks_come_now_and_then_and_at_the_end_but_not_while_warming_up(rhythm, rounds):
    assert walk([0.1] * 5, **rhythm)[1] == rounds


def test_a_log_takes_numbers_and_tensors_and_times_phases():
    log = TrainingLog()
    log.append(round=1, loss=torch.tensor(0.5))
    log.append(round=2, loss=0.25, extra=3)
    assert log.history == {"round": [1.0, 2.0], "loss": [0.5, 0.25], "extra": [3.0]}
    with pytest.raises(KeyError), log.phase("work"):
        raise KeyError
    assert set(log.seconds) == {"work"}
    assert 0 < log.seconds["work"] < 1
    log = TrainingLog()
    with log.phase("monitor", processor=True):
        time.sleep(0.2)
    assert log.seconds["monitor_cpu"] < 0.1 < log.seconds["monitor"]
    log.load_state_dict({"history": {}, "seconds": {"monitor": 5.0}, "passes": 0})  # an older checkpoint
    with log.phase("monitor", processor=True):
        pass
    assert set(log.seconds) == {"monitor"}


def test_the_time_of_all_sittings_is_counted(monkeypatch):
    now = {"training": 100.0, "training_cpu": 10.0}
    clock = SimpleNamespace(perf_counter=lambda: now["training"], process_time=lambda: now["training_cpu"])
    monkeypatch.setattr(module, "time", clock)
    first = TrainingLog()
    now |= {"training": 130.0, "training_cpu": 12.0}
    state = first.state_dict()
    now |= {"training": 500.0, "training_cpu": 99.0}  # what it did after the checkpoint is lost, and its time
    began = module.clocks()
    now["training"] = 501.0
    second = TrainingLog()
    second.load_state_dict(state)
    now |= {"training": 507.0, "training_cpu": 103.0}
    assert second.spent() == second.state_dict()["spent"] == {"training": 30 + 6, "training_cpu": 2 + 4}
    assert second.spent(began) == {"training": 30 + 7, "training_cpu": 2 + 4}
    del state["spent"]
    second.load_state_dict(state)
    assert second.spent() == {"training": 6, "training_cpu": 4}


def test_a_run_goes_on_where_it_was(tmp_path):
    checkpoint, drawn = Checkpoint(tmp_path / "run.pt"), {}
    first, part = begin(checkpoint, kill_at(5)), smooth_learner(seed=1).backbone

    def work(number):
        shifted(first.learner, float(number))
        part.head.bias.data.fill_(10 * number)
        drawn[number] = torch.rand(3, generator=first.rng)
        first.log.append(round=number)
        first.log.iterations += 7

    with pytest.raises(Killed):
        list(map(work, first.rounds(9, part=part)))
    assert list(drawn) == [1, 2, 3, 4, 5]

    second, part = begin(checkpoint, kill_at(-1)), smooth_learner(seed=1).backbone
    rounds = second.rounds(7, part=part)
    assert next(rounds) == 5
    assert (weights(second.learner) == 4).all()
    assert part.head.bias.tolist() == [40.0] * 3
    assert torch.equal(torch.rand(3, generator=second.rng), drawn[5])
    assert second.log.history["round"] == second.log.history["monitor_round"] == [1, 2, 3, 4]
    assert second.log.iterations == 28
    assert list(rounds) == [6, 7]
    learner = second.finish()
    assert (learner.selected_round, learner.log) == (1, second.log)
    assert (weights(learner) == 1).all()
    assert (flat(learner.last_params.values()) == 4).all()
    assert list(begin(checkpoint).rounds(7, part=part)) == [7]


@pytest.mark.parametrize("content", [None, b"", b"damaged", "of other parts"])
def test_without_a_whole_state_of_its_parts_a_run_begins_at_the_start(tmp_path, content):
    checkpoint = Checkpoint(tmp_path / "run.pt")
    if content == "of other parts":
        list(begin(checkpoint).rounds(2, part=smooth_learner().backbone))
    elif content is not None:
        checkpoint.file.write_bytes(content)
    run = begin(checkpoint)
    with pytest.warns(UserWarning, match="damaged") if isinstance(content, bytes) else nullcontext():
        assert list(run.rounds(3)) == [1, 2, 3]
    assert torch.equal(torch.rand(2, generator=run.rng), torch.rand(2, generator=rng()))
    assert torch.equal(weights(run.finish()), weights(smooth_learner()))


def test_a_state_of_another_run_is_neither_taken_up_nor_lost(tmp_path):
    checkpoint = Checkpoint(tmp_path / "run.pt")
    list(begin(checkpoint).rounds(2))
    before = checkpoint.file.read_bytes()
    for other in ({"seed": 5}, {"monitor_every": 3}, {"pool": POOL[:3]}):
        with pytest.raises(ValueError, match=r"run\.pt is of a run with another config, seed or pool"):
            next(begin(checkpoint, **other).rounds(3))
    assert checkpoint.file.read_bytes() == before
    state = checkpoint.load()
    del state["run"]  # as older versions saved it
    checkpoint.save(state)
    assert list(begin(checkpoint).rounds(3)) == [3]


@pytest.mark.parametrize("content", [[1, 2], {"round": 3}, {}])
def test_a_file_that_is_no_state_is_neither_taken_up_nor_lost(tmp_path, monkeypatch, content):
    checkpoint = Checkpoint(tmp_path / "run.pt")
    torch.save(content, checkpoint.file)
    before = checkpoint.file.read_bytes()
    monkeypatch.setattr(Checkpoint, "load", lambda _: content)  # past the tests' own check of types
    with pytest.raises(ValueError, match=r"run\.pt is no state of a training"):
        next(begin(checkpoint).rounds(3))
    assert checkpoint.file.read_bytes() == before


@pytest.mark.parametrize(
    ("every", "pause", "cost", "rounds"),
    [
        *[(1, 0, 0, [1, 2, 3, 4, 5, 6, 7, 8, 9]), (2, 0, 0, [2, 4, 6, 8]), (10, 0, 0, []), (0, 0, 0, [])],
        *[(50, 0.4, 0, [3, 6, 9]), (50, 0.4, 1, [3]), (0, 0.4, 0, [])],
    ],
)
def test_a_state_is_saved_now_and_then_and_sooner_after_a_while(tmp_path, monkeypatch, every, pause, cost, rounds):
    saved, clock = [], [0.0]

    def save(self, state):
        saved.append(state["round"])
        clock[0] += cost

    monkeypatch.setattr(Checkpoint, "save", save)
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    for _ in begin(Checkpoint(tmp_path / "run.pt"), checkpoint_every=every).rounds(9):
        clock[0] += pause * module.SAVE_AFTER
    assert saved == rounds


def test_of_a_replay_the_batches_and_the_last_of_them_are_logged(monkeypatch):
    results = [[], [(0.5, 0.2), (0.25, 0.4)]]
    monkeypatch.setattr(module, "replay", lambda *_, **__: results.pop(0))
    run = TrainingRun(smooth_learner(), POOL, FreeConfig(replay_every=2), rng(), 0)
    steps = CrossTaskReplay(run)
    for number, expected in ((2, {}), (3, {}), (4, [[2], [0.25], [0.4]])):
        steps.step(number)
        names = ("replay_batches", "replay_loss", "replay_accuracy")
        assert run.log.history == dict(zip(names, expected, strict=False))
    assert run.log.seconds["replay"] > 0

"""The log, the choice of the round, and checkpoints."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from types import SimpleNamespace

import pytest
import torch
from tiny_models import Killed, flat, kill_at, rng, smooth_learner, tiny_pool, weights

from freelib.memory import TaskMemory
from freelib.methods import METHODS, get_method
from freelib.methods import training as running
from freelib.methods.free import FreeConfig
from freelib.methods.training import Selection, TrainingLog, TrainingRun
from freelib.storage import Checkpoint


def shifted(learner, value: float) -> None:
    """Sets every parameter to one value."""
    learner.load_params({name: torch.full_like(p, value) for name, p in learner.params.items()})


def walk(scores: list[float | None], *, every: int = 1):
    """A learner whose weights are all r in round r, scored by a script."""
    learner, log, asked = smooth_learner(), TrainingLog(), []

    def monitor(round_number, shown):
        assert shown is learner
        asked.append(round_number)
        return scores[round_number - 1]

    selection = Selection(learner, monitor, log, every=every)
    for number in range(1, len(scores) + 1):
        shifted(learner, float(number))
        selection.consider(number, last=number == len(scores))
    return selection.finish(), log, asked


def test_the_best_round_is_kept_and_the_last_stays_at_hand():
    learner, log, asked = walk([0.3, 0.5, 0.5, 0.4])
    assert (flat(learner.params.values()) == 2).all()  # the first of two equals
    assert (flat(learner.last_params.values()) == 4).all()
    assert learner.selected_round == 2
    assert learner.log is log
    assert asked == [1, 2, 3, 4]
    assert log.history == {"monitor_round": [1, 2, 3, 4], "monitor_score": [0.3, 0.5, 0.5, 0.4]}
    assert log.seconds["monitor"] >= 0


@pytest.mark.parametrize(("every", "rounds"), [(2, [2, 4, 5]), (3, [3, 5]), (5, [5]), (0, [5])])
def test_the_monitor_is_asked_now_and_then_and_at_the_end(every, rounds):
    assert walk([0.1] * 5, every=every)[2] == rounds


def test_a_monitor_without_an_opinion_selects_nothing():
    learner, log, asked = walk([None] * 3)
    assert (flat(learner.params.values()) == 3).all()
    assert (learner.selected_round, learner.last_params) == (None, None)
    assert asked == [1, 2, 3]
    assert "monitor_score" not in log.history


def test_without_a_monitor_the_last_round_stays():
    learner = smooth_learner()
    selection = Selection(learner, None, TrainingLog(), every=1)
    shifted(learner, 7.0)
    selection.consider(1, last=True)
    assert (flat(selection.finish().params.values()) == 7).all()


def test_a_log_takes_numbers_and_tensors():
    log = TrainingLog()
    log.append(round=1, loss=torch.tensor(0.5))
    log.append(round=2, loss=0.25, extra=3)
    assert log.history == {"round": [1.0, 2.0], "loss": [0.5, 0.25], "extra": [3.0]}
    for _ in range(2):
        with log.phase("work"):
            pass
    assert 0 < log.seconds["work"] < 1
    assert set(log.seconds) == {"work"}


def test_looks_are_timed_on_the_processor_too_but_not_in_part():
    log = TrainingLog()
    with log.phase("monitor", processor=True):
        time.sleep(0.2)
    assert log.seconds["monitor_cpu"] < 0.1 < log.seconds["monitor"]
    log.load_state_dict({"history": {}, "seconds": {"monitor": 5.0}, "passes": 0})  # an older checkpoint
    with log.phase("monitor", processor=True):
        pass
    assert set(log.seconds) == {"monitor"}
    assert set(walk([0.1] * 2)[1].seconds) == {"monitor", "monitor_cpu"}


def test_the_time_of_all_sittings_is_counted(monkeypatch):
    now = {"training": 100.0, "training_cpu": 10.0}
    clock = SimpleNamespace(perf_counter=lambda: now["training"], process_time=lambda: now["training_cpu"])
    monkeypatch.setattr(running, "time", clock)
    first = TrainingLog()
    now |= {"training": 130.0, "training_cpu": 12.0}
    state = first.state_dict()
    now |= {"training": 500.0, "training_cpu": 99.0}  # what it did after the checkpoint is lost, and its time
    began = running.clocks()
    now["training"] = 501.0
    second = TrainingLog()
    second.load_state_dict(state)
    now |= {"training": 507.0, "training_cpu": 103.0}
    assert second.spent() == {"training": 30 + 6, "training_cpu": 2 + 4}
    assert second.spent(began) == {"training": 30 + 7, "training_cpu": 2 + 4}
    assert second.state_dict()["spent"] == second.spent()
    del state["spent"]
    second.load_state_dict(state)
    assert second.spent() == {"training": 6, "training_cpu": 4}


def test_a_phase_counts_when_it_fails():
    log = TrainingLog()
    with pytest.raises(KeyError), log.phase("work"):
        raise KeyError
    assert "work" in log.seconds


@dataclass
class Rhythm:
    monitor_every: int = 1
    checkpoint_every: int = 2


def begin(checkpoint=None, monitor=None, *, seed=0, **rhythm):
    """A run with one more part than its student, and the part."""
    part = smooth_learner(seed=seed + 1).backbone
    config = Rhythm(**rhythm)
    run = TrainingRun(
        smooth_learner(seed=seed), {"part": part}, rng(seed), config, monitor=monitor, checkpoint=checkpoint
    )
    return run, part


def test_a_run_goes_on_where_it_was(tmp_path):
    checkpoint, drawn = Checkpoint(tmp_path / "run.pt"), {}
    first, part = begin(checkpoint, kill_at(5))

    def work(number):
        shifted(first.selection.learner, float(number))
        part.head.bias.data.fill_(10 * number)
        drawn[number] = torch.rand(3, generator=first.rng)
        first.log.append(round=number)
        first.log.iterations += 7

    with pytest.raises(Killed):
        list(map(work, first.rounds(9)))
    assert list(drawn) == [1, 2, 3, 4, 5]

    second, part = begin(checkpoint, kill_at(-1))
    assert second.done == 4
    assert (weights(second.selection.learner) == 4).all()
    assert part.head.bias.tolist() == [40.0] * 3
    assert torch.equal(torch.rand(3, generator=second.rng), drawn[5])
    assert second.log.history["round"] == second.log.history["monitor_round"] == [1, 2, 3, 4]
    assert second.log.iterations == 28
    assert list(second.rounds(7)) == [5, 6, 7]
    learner = second.finish()
    assert (learner.selected_round, learner.log) == (1, second.log)
    assert (weights(learner) == 1).all()
    assert (flat(learner.last_params.values()) == 4).all()
    assert begin(checkpoint)[0].done == 6


@pytest.mark.parametrize(("every", "rounds"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4]), (6, []), (0, [])])
def test_the_state_is_saved_now_and_then(tmp_path, monkeypatch, every, rounds):
    saved = []
    monkeypatch.setattr(Checkpoint, "save", lambda self, state: saved.append(state["round"]))
    run, _ = begin(Checkpoint(tmp_path / "run.pt"), checkpoint_every=every)
    assert list(run.rounds(5)) == [1, 2, 3, 4, 5]
    assert saved == rounds


@pytest.mark.parametrize(
    ("warmup", "every", "rounds"), [(0, 2, [2, 4, 5]), (2, 1, [3, 4, 5]), (2, 0, [5]), (5, 1, [])]
)
def test_nobody_looks_at_a_student_that_has_not_begun(warmup, every, rounds):
    asked = []
    run, _ = begin(monitor=lambda number, learner: asked.append(number), monitor_every=every)
    assert list(run.rounds(5, warmup=warmup)) == [1, 2, 3, 4, 5]
    assert asked == rounds


@pytest.mark.parametrize("content", [None, b"", b"damaged", "of other parts"])
def test_without_a_whole_state_of_its_parts_a_run_begins_at_the_start(tmp_path, content):
    checkpoint = Checkpoint(tmp_path / "run.pt")
    if content == "of other parts":
        list(begin(checkpoint)[0].rounds(2))
        state = checkpoint.load()
        del state["parts"]["part"]
        checkpoint.save(state)
    elif content is not None:
        checkpoint.file.write_bytes(content)
    damaged = pytest.warns(UserWarning, match="damaged") if isinstance(content, bytes) else nullcontext()
    with damaged:
        run, part = begin(checkpoint)
    assert list(run.rounds(3)) == [1, 2, 3]
    assert torch.equal(torch.rand(2, generator=run.rng), torch.rand(2, generator=rng()))
    assert torch.equal(weights(run.finish()), weights(smooth_learner()))
    assert torch.equal(part.head.bias, smooth_learner(seed=1).backbone.head.bias)


def test_a_state_of_another_run_is_neither_taken_up_nor_lost(tmp_path):
    checkpoint = Checkpoint(tmp_path / "run.pt")
    list(begin(checkpoint)[0].rounds(2))
    for other in ({"seed": 5}, {"monitor_every": 3}):
        with pytest.raises(ValueError, match="of a run with another config, seed or pool"):
            begin(checkpoint, **other)
    state = checkpoint.load()
    del state["run"]  # as older versions saved it
    checkpoint.save(state)
    assert begin(checkpoint)[0].done == 2


def test_of_a_replay_the_batches_and_the_last_of_them_are_logged(monkeypatch):
    results = [[], [(0.5, 0.2), (0.25, 0.4)]]
    monkeypatch.setattr(running, "replay", lambda *_, **__: results.pop(0))
    memory, log, config = TaskMemory(image_size=2, batches_per_class=1), TrainingLog(), FreeConfig()
    learner = smooth_learner()
    optimizer = torch.optim.SGD(learner.params.values(), lr=0.1)
    for expected in ({}, {"replay_batches": [2], "replay_loss": [0.25], "replay_accuracy": [0.4]}):
        running.replay_and_log(log, learner, memory, config, optimizer, rng(), config)
        assert log.history == expected
    assert log.seconds["replay"] > 0


QUICK = {
    "width": 4, "n_query": 3, "inner_steps": 1, "rounds": 2, "warmup_rounds": 1, "meta_batch": 2,
    "round_steps": 2, "round_batches": 1, "episodes": 1, "images_per_class": 4, "z_dim": 8, "ngf": 4,
    "adapt_steps": 1, "distill_steps": 1, "replay_episodes": 1, "replay_batches": 1,
}  # fmt: skip


def settings(name):
    """The fields of a method's config."""
    return {field.name for field in fields(get_method(name).Config)}


@pytest.mark.parametrize("name", [name for name in METHODS if "checkpoint_every" in settings(name)])
def test_no_state_where_none_is_wanted_and_a_finished_run_has_nothing_left_to_do(
    tiny_dataset, tmp_path, name
):
    method, never, always = get_method(name), Checkpoint(tmp_path / "0.pt"), Checkpoint(tmp_path / "1.pt")
    config = method.Config(**{key: value for key, value in QUICK.items() if key in settings(name)})
    more = {"dataset": tiny_dataset} if method.oracle else {}

    def train(every, checkpoint):
        own = replace(config, checkpoint_every=every)
        return method.meta_train(tiny_pool(3), own, seed=0, checkpoint=checkpoint, **more)

    whole = train(0, never)
    assert never.load() is None
    for _ in range(2):
        again = train(1, always)
        assert torch.equal(weights(again), weights(whole))
        assert again.log.history == whole.log.history


@pytest.mark.parametrize("content", [[1, 2], {"round": 3}, {}])
def test_a_file_that_is_no_state_is_neither_taken_up_nor_lost(tmp_path, monkeypatch, content):
    checkpoint = Checkpoint(tmp_path / "run.pt")
    torch.save(content, checkpoint.file)
    before = checkpoint.file.read_bytes()
    monkeypatch.setattr(Checkpoint, "load", lambda _: content)  # past the tests' own check of types
    with pytest.raises(ValueError, match=r"run\.pt is no state of a training"):
        begin(checkpoint)
    assert checkpoint.file.read_bytes() == before


@pytest.mark.parametrize(("every", "cost", "rounds"), [(50, 0, [3, 6, 9]), (50, 1, [3]), (0, 0, [])])
def test_a_state_is_saved_after_a_while_however_few_rounds_there_were(
    tmp_path, monkeypatch, every, cost, rounds
):
    saved, clock = [], [0.0]

    def save(self, state):
        saved.append(state["round"])
        clock[0] += cost

    monkeypatch.setattr(Checkpoint, "save", save)
    monkeypatch.setattr(running.time, "monotonic", lambda: clock[0])
    run, _ = begin(Checkpoint(tmp_path / "run.pt"), checkpoint_every=every)
    for _ in run.rounds(9):
        clock[0] += 0.4 * running.SAVE_AFTER
    assert saved == rounds

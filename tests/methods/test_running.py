"""The log, the choice of the round, and checkpoints."""

from __future__ import annotations

import pytest
import torch
from tiny_models import flat, rng, smooth_learner

from freelib.methods.running import Selection, TrainingLog, restore_run, save_run
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


def test_a_phase_counts_when_it_fails():
    log = TrainingLog()
    with pytest.raises(KeyError), log.phase("work"):
        raise KeyError
    assert "work" in log.seconds


def test_a_run_goes_on_where_it_was(tmp_path):
    checkpoint, draw = Checkpoint(tmp_path / "run.pt"), rng(3)
    learner, log = smooth_learner(), TrainingLog()
    selection = Selection(learner, lambda number, shown: 0.5, log, every=1)
    torch.rand(5, generator=draw)
    selection.consider(4)
    log.passes = 9
    save_run(checkpoint, {"student": learner.backbone, "selection": selection, "log": log}, draw, 4)
    expected = torch.rand(5, generator=draw)

    other, new_log, new_draw = smooth_learner(seed=5), TrainingLog(), rng(0)
    new_selection = Selection(other, None, new_log, every=1)
    parts = {"student": other.backbone, "selection": new_selection, "log": new_log}
    assert restore_run(checkpoint, parts, new_draw) == 4
    assert torch.equal(torch.rand(5, generator=new_draw), expected)
    assert torch.equal(flat(other.params.values()), flat(learner.params.values()))
    assert (new_selection.best_score, new_selection.best_round) == (0.5, 4)
    assert new_log == log


@pytest.mark.parametrize("content", [None, b"", b"damaged"])
def test_without_a_whole_checkpoint_a_run_begins_at_the_start(tmp_path, content):
    checkpoint = Checkpoint(tmp_path / "run.pt")
    if content is not None:
        checkpoint.file.write_bytes(content)
    draw = rng(1)
    assert restore_run(checkpoint, {"student": smooth_learner().backbone}, draw) == 0
    assert restore_run(None, {}, draw) == 0
    assert torch.equal(torch.rand(2, generator=draw), torch.rand(2, generator=rng(1)))

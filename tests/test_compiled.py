"""What torch.compile is measured with: the same numbers, the table, the sentence; not the compiler."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from freelib.experiments import compiled
from freelib.studies.benchmark import SMALL, Ours, Work, in_processes

TINY = replace(SMALL, repeats=1)


def record(piece: str, precision: str, plain: float, fast: float) -> dict:
    def about(value: float) -> dict[str, float]:
        return {"median": value, "low": 0.9 * value, "high": 1.1 * value}

    extra = {
        "piece": piece,
        "seconds": about(plain),
        "compiled_seconds": about(fast),
        "ratio": about(plain / fast),
        "first_call_seconds": 30.0,
    }
    return {"precision": precision, "extra": extra}


def test_the_whole_outer_gradient_is_replays():
    work = Work(TINY, Path())
    function, inputs = compiled.replay_piece(work)
    found = iter(function(*inputs))
    for name, expected in zip(work.student.params, Ours(work).replay(), strict=True):
        if "conv.bias" in name:  # BatchNorm takes it off again
            assert not expected.any()
        else:
            torch.testing.assert_close(next(found), expected, atol=1e-6, rtol=1e-4)


def test_a_step_of_pretraining_goes_through_the_module_it_is_given():
    module, step = compiled.pretraining_piece(Work(TINY, Path()), "float32")
    before = [p.detach().clone() for p in module.parameters()]
    seen = []

    def network(x):
        seen.append(x.shape)
        return module(x)

    step(network)
    assert seen == [(128, 3, TINY.image_size, TINY.image_size)]
    assert all((a != b).any() for a, b in zip(before, module.parameters(), strict=True))


@pytest.mark.parametrize(("piece", "precision"), compiled.PIECES)
def test_a_piece_is_timed_both_ways(piece, precision):
    (found,) = in_processes(compiled.measure, (compiled.Job(TINY, piece, precision, backend="eager"),))
    assert found["piece"] == piece
    assert 0 < found["seconds"]["low"] <= found["seconds"]["median"]
    assert found["first_call_seconds"] > found["compiled_seconds"]["median"] > 0


def test_records_are_read_and_made_anew_only_when_asked(tmp_path, monkeypatch):
    made = []

    def measured(job):
        made.append(job)
        return record(job.piece, job.precision, 0.05, 0.04)["extra"]

    monkeypatch.setattr(compiled, "_in_a_process", measured)
    assert compiled.run("smoke", results=tmp_path) == []
    for times in (1, 2):
        assert len(compiled.run("smoke", results=tmp_path, again=True)) == len(made) / times == 3
    found = compiled.run("smoke", results=tmp_path)
    assert [(r["method"], r["precision"]) for r in found] == [
        (f"compiled_{piece}", precision) for piece, precision in compiled.PIECES
    ]
    assert len(made) == 6


def test_the_table_says_after_how_many_calls_it_pays():
    records = [
        record("pretraining", "float32", 0.05, 0.06),
        record("pretraining", "bfloat16", 0.05, 0.02),
        record("replay", "float32", 0.042, 0.04),
    ]
    text = compiled.table(records, "Caption.").markdown()
    assert (
        "| pre-training, one step | float32 | 50.0 ms | 60.0 ms | 0.83 (0.75 to 0.92) | 30 s | never |"
        in text
    )
    assert "2.50 (2.25 to 2.75) | 30 s | 1,000 |" in text
    assert compiled.sentence(records) == (
        "Compiled, of 3 pieces: faster pre-training, one step (bfloat16); "
        "slower pre-training, one step (float32)."
    )
    assert compiled.sentence([]) == "torch.compile was not measured in this profile."

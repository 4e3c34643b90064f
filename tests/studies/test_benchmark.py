"""The benchmark's reference gives freelib's numbers, and what is measured is counted rightly."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from studies import machine
from studies.benchmark import PIECES, SMALL, Job, Ours, Work, load_reference, measure, measure_pools
from studies.machine import Traffic, cost, seconds_by_kind, spread

REFERENCE = Path(__file__).parents[1] / "benchmarks" / "reference.py"
TINY = replace(SMALL, repeats=2)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    work = Work(TINY, tmp_path_factory.mktemp("images"))
    work.write_images()
    return work


@pytest.fixture(scope="module")
def reference(work):
    return load_reference(REFERENCE, work)


def test_an_epoch_of_pretraining_is_the_references(work, reference):
    x = torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    nets = Ours(work).pretraining(), reference.pretraining(), work.teachers[0].module
    # On the batch's statistics: else the convolutions' biases count, whose gradients are rounding alone.
    ours, theirs, start = (copy.deepcopy(net).train()(x) for net in nets)
    assert (ours - start).abs().mean() > 0.02  # it has learnt something
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)


def test_a_recovered_task_is_the_references(work, reference):
    images, gradients = Ours(work).recovery()
    expected, expected_gradients = reference.recovery()
    torch.testing.assert_close(images, expected, atol=2e-3, rtol=0)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        assert (ours - theirs).norm() < 0.02 * theirs.norm() + 1e-6
    half = Ours(work, "bfloat16").recovery()[0]
    assert 0 < (half - images).abs().mean() < 0.03


def test_replays_gradient_is_the_references(work, reference):
    for ours, theirs in zip(Ours(work).replay(), reference.replay(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)


def test_a_test_episode_is_the_references(work, reference):
    torch.testing.assert_close(Ours(work).test(), reference.test(), atol=1e-4, rtol=1e-3)


def test_costs_are_counted():
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    assert cost(lambda: a @ b) == {"flops": 2 * 3 * 4 * 5, "bytes": 4 * (12 + 20 + 15)}
    with Traffic() as traffic:
        a.T.view(4, 3)[1:]
    assert traffic.bytes == 0  # views move nothing
    assert spread([4.0, 1.0, 2.0, 3.0, 5.0]) == {"median": 3.0, "low": 2.0, "high": 4.0}


def test_large_operations_are_timed_by_kind(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(clock))  # an operation takes 1

    def kinds(piece):
        return tuple(seconds_by_kind(piece).values())

    a = torch.ones(3, 3)
    assert list(seconds_by_kind(a.exp)) == ["kernels", "batch_norm", "pooling"]
    assert kinds(lambda: a.exp().sum()) == (0, 0, 0)
    assert kinds(lambda: a.exp() @ a) == (1, 0, 0)
    image, kernel = torch.ones(1, 1, 8, 8), torch.ones(1, 1, 3, 3, requires_grad=True)
    assert kinds(lambda: torch.conv2d(image, kernel).exp()) == (1, 0, 0)
    assert kinds(lambda: torch.conv2d(image, kernel).exp().sum().backward()) == (2, 0, 0)
    norm = torch.nn.BatchNorm2d(1)
    assert kinds(lambda: torch.max_pool2d(norm(image), 2).sum().backward()) == (0, 2, 2)


def test_a_measurement_has_every_piece_and_variant(work):
    threads = torch.get_num_threads()
    found = measure(Job(replace(TINY, repeats=2), work.folder, REFERENCE, threads, counting=True))
    assert list(found["seconds"]) == list(PIECES)
    assert {p: list(v) for p, v in found["seconds"].items()} == {
        "pretraining": ["float32", "bfloat16", "reference"],
        "recovery": ["float32", "bfloat16", "reference"],
        "replay": ["float32", "reference"],
        "test": ["float32", "reference"],
    }
    assert [len(v["reference"]) for v in found["seconds"].values()] == [2, 2, 6, 6]
    assert all(s > 0 for v in found["seconds"].values() for times in v.values() for s in times)
    # the folded kernel of the generator spares more than half of its multiplications
    recovery = found["costs"]["recovery"]
    assert 0.4 < recovery["float32"]["flops"] / recovery["reference"]["flops"] < 0.9
    assert recovery["bfloat16"]["flops"] == recovery["float32"]["flops"]
    assert all(s > 0 for v in found["costs"].values() for c in v.values() for s in c["seconds"].values())
    assert set(found["peaks"]) == {"float32", "bfloat16", "bytes"}


def test_rounds_with_pools_on_disk_are_timed(tmp_path):
    found = measure_pools(Job(replace(TINY, members=(4, 6)), tmp_path, None, torch.get_num_threads()))
    assert list(found) == [4, 6]
    assert len(list((tmp_path / "6").glob("*.safetensors"))) == 6
    assert all(x["seconds"] > 0 for x in found.values())
    assert 100 < found[4]["peak_memory_mib"] <= found[6]["peak_memory_mib"]

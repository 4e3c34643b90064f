"""The benchmark's reference gives freelib's numbers, and what is measured is counted rightly."""

import copy
import importlib.util
import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from studies import benchmark
from studies.benchmark import (
    PIECES,
    SMALL,
    VARIANTS,
    Job,
    Ours,
    Size,
    Traffic,
    Work,
    benchmark_records,
    cost,
    load_reference,
    measure,
    measure_rounds,
    spread,
)

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "benchmarks" / "reference.py"
TINY = replace(SMALL, repeats=2)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    work = Work(TINY, tmp_path_factory.mktemp("images"))
    work.write_images()
    return work


@pytest.fixture(scope="module")
def reference(work):
    return load_reference(REFERENCE, work)


def test_a_synthesised_task_is_the_references(double, tmp_path):
    """In float64: in float32 Adam's first steps make of rounding, where a gradient is 0, a step."""
    work = Work(TINY, tmp_path)
    images, gradients = Ours(work).recovery()
    expected, expected_gradients = load_reference(REFERENCE, work).recovery()
    assert images.dtype == torch.float64
    assert (images - work.start(torch.randn(20, 256))).abs().mean() > 0.01
    torch.testing.assert_close(images, expected, atol=1e-10, rtol=0)
    assert all(gradient.norm() > 1e-3 for gradient in expected_gradients)
    torch.testing.assert_close(gradients, expected_gradients, atol=1e-12, rtol=1e-8)


def test_replay_and_a_test_episode_are_the_references(work, reference):
    for ours, theirs in zip(Ours(work).replay(), reference.replay(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(Ours(work).test(), reference.test(), atol=1e-4, rtol=1e-3)
    exact, half = (Ours(work, precision).recovery()[0] for precision in ("float32", "bfloat16"))
    assert 0 < (half - exact).abs().mean() < 0.03
    assert (exact - reference.recovery()[0]).abs().mean() < 1e-3  # as above
    x = torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    nets = Ours(work).pretraining(), reference.pretraining(), work.teachers[0].module
    # On the batch's statistics: else the convolutions' biases count, whose gradients are rounding alone.
    ours, theirs, start = (copy.deepcopy(net).train()(x) for net in nets)
    assert (ours - start).abs().mean() > 0.02  # it has learnt something
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)


def test_costs_are_counted_and_records_read():
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    found = cost(lambda: a @ b)
    assert (found["flops"], found["bytes"]) == (2 * 3 * 4 * 5, 4 * (12 + 20 + 15))
    with Traffic() as traffic:
        a.T.view(4, 3)[1:]
    assert traffic.bytes == 0  # views move nothing
    assert spread([4.0, 1.0, 2.0, 3.0, 5.0]) == {"median": 3.0, "low": 2.0, "high": 4.0}
    # no reference is named, so that a measurement would fail
    found = benchmark_records(Size(), "nowhere", ROOT / "results", "cpu")
    listed = dict(map(reversed, json.loads((ROOT / "tests/committed_records.json").read_text())["measurements"]))
    assert [listed[record["config_digest"]] for record in found] == [
        *(piece for piece in PIECES for _ in VARIANTS[piece]), "round", "round", "round",
    ]  # fmt: skip


def test_large_operations_are_timed_by_kind(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: next(clock))  # an operation takes 1

    def kinds(piece):
        seconds = cost(piece)["seconds"]
        return seconds["kernels"], seconds["batch_norm"], seconds["pooling"]

    a = torch.ones(3, 3)
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
    found = measure_rounds(Job(replace(TINY, members=(4, 6)), tmp_path, None, torch.get_num_threads()))
    assert list(found) == [4, 6]
    assert len(list((tmp_path / "6").glob("*.safetensors"))) == 6
    assert all(x["seconds"] > 0 for x in found.values())
    assert 100 < found[4]["peak_memory_mib"] <= found[6]["peak_memory_mib"]


def test_records_hold_medians_and_are_read_again(tmp_path, monkeypatch):
    def in_processes(run, *jobs):
        if run is measure_rounds:
            return [{n: {"seconds": 1.0, "peak_memory_mib": 9.0} for n in TINY.members}]
        calls.append(jobs)
        one = {"float32": [1.0, 2.0, 3.0], "bfloat16": [0.5, 1.0, 1.5], "reference": [4.0, 6.0, 12.0]}
        counted = {v: {"flops": 1.0} for v in one}
        found = {"seconds": dict.fromkeys(PIECES, one), "costs": dict.fromkeys(PIECES, counted)}
        peaks = {"float32": 1.0, "bfloat16": 2.0, "bytes": 3.0}
        return [found | {"peaks": peaks, "peak_memory_mib": float(i)} for i, _ in enumerate(jobs)]

    calls = []
    size = replace(TINY, processes=2)
    monkeypatch.setattr(benchmark, "in_processes", in_processes)
    first, again = (benchmark_records(size, REFERENCE, tmp_path, "smoke") for _ in range(2))
    assert [[(job.threads, job.reference is None) for job in jobs] for jobs in calls] == [
        [(1, False)], [(1, True), (1, True)], [(2, False)],
    ]  # fmt: skip
    assert first == again
    half = first[1]["extra"]
    assert (half["piece"], first[1]["precision"]) == ("pretraining", "bfloat16")
    assert half["ratio"] == {"median": 8.0, "low": 7.0, "high": 8.0}
    assert half["side_by_side"]["median"] == 0.5  # two processes: two pieces in 1 second
    assert half["peaks"] == {"flops": 2.0, "reference_flops": 1.0, "bytes": 3.0}
    assert first[-1]["extra"] == {"piece": "round", "members": 16, "seconds": 1.0, "peak_memory_mib": 9.0}


@pytest.fixture(scope="module")
def compiled():
    spec = importlib.util.spec_from_file_location("compiled", ROOT / "benchmarks" / "compiled.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_outer_gradient_that_is_compiled_is_replays(compiled, work):
    function, inputs = compiled.replay_piece(work)
    found = iter(function(*inputs))
    for name, expected in zip(work.student.params, Ours(work).replay(), strict=True):
        if "conv.bias" in name:  # BatchNorm takes it off again
            assert not expected.any()
        else:
            torch.testing.assert_close(next(found), expected, atol=1e-6, rtol=1e-4)


def test_a_step_of_pretraining_goes_through_the_module_it_is_given(compiled, work):
    module, step = compiled.pretraining_piece(work, "float32")
    before, seen = [p.detach().clone() for p in module.parameters()], []

    def network(x):
        seen.append(x.shape)
        return module(x)

    step(network)
    assert seen == [(128, 3, TINY.image_size, TINY.image_size)]
    assert all((a != b).any() for a, b in zip(before, module.parameters(), strict=True))

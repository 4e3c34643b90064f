"""Does torch.compile pay? Two pieces of the benchmark as they are and compiled, one thread each, in turns."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from freelib.datasets.episodes import images_to_float
from freelib.environment import keep_freed_memory
from freelib.fast.conv4_derivatives import SupportLoss, descend, pull_back, weight_names
from freelib.models.pretraining import PoolConfig
from freelib.run.measure import computed
from freelib.run.profiles import Profile, get_profile
from freelib.run.records import Record, RecordStore
from freelib.show.tables import Table
from freelib.studies.benchmark import Ours, Size, Work, in_processes
from freelib.studies.machine import seconds_of, spread

EXPERIMENT = "compiled"
PIECES = (("pretraining", "float32"), ("pretraining", "bfloat16"), ("replay", "float32"))
TITLES = {"pretraining": "pre-training, one step", "replay": "replay, one episode"}


@dataclass(frozen=True)
class Job:
    """What one process measures, and torch.compile's backend."""

    size: Size
    piece: str
    precision: str
    backend: str = "inductor"


def outer_gradient(
    weights: list[Tensor], support: Tensor, labels: Tensor, query: Tensor, query_labels: Tensor,
    *, n_way: int, eps: list[float], lr: float, steps: int,
) -> list[Tensor]:  # fmt: skip
    """MAML's outer gradient on one episode as one function of tensors, all of it by the written-out formulas.

    weights: as `SupportLoss` has them; images prepared; gives the gradients of the weights
    """
    losses, weights = descend(SupportLoss(support, labels, n_way, eps), weights, lr, steps)
    gradient = SupportLoss(query, query_labels, n_way, eps).gradient(weights)
    return pull_back(losses, gradient, lr)


def replay_piece(work: Work) -> tuple[Callable[..., list[Tensor]], tuple[Any, ...]]:
    """`outer_gradient` on the benchmark's episode, and its arguments."""
    learner, rng = work.student, torch.Generator().manual_seed(1)
    episode = Ours(work).memory.episode(5, 1, work.size.n_query, rng)
    names, params = weight_names(learner.backbone), learner.params
    assert names is not None
    inputs = (
        *(learner.transform(episode.support), episode.support_labels),
        *(learner.transform(episode.query), episode.query_labels),
    )
    eps = [m.eps for m in learner.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    piece = partial(outer_gradient, n_way=5, eps=eps, lr=learner.inner_lr, steps=5)
    return torch.no_grad()(piece), ([params[name].detach() for name in names], *inputs)


def pretraining_piece(work: Work, precision: str) -> tuple[Callable[[Tensor], Tensor], Callable[..., None]]:
    """A teacher's module, and a step of its training through that module or what it was compiled to."""
    module = copy.deepcopy(work.teachers[0].module).train().requires_grad_(True)
    config = PoolConfig()
    optimizer = torch.optim.Adam(module.parameters(), config.learning_rate, fused=True)
    images = images_to_float(work.images[: config.batch_size])
    batch = work.teachers[0].transform(images.contiguous(memory_format=torch.channels_last))
    labels = work.labels[: config.batch_size] % 5

    def step(network: Callable[[Tensor], Tensor]) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = F.cross_entropy(network(batch).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return module, step


def measure(job: Job) -> dict[str, Any]:
    """In this process: seconds as it is and compiled, and those of the first compiled call.

    Raises what torch.compile raises, where there is no C++ compiler for one.
    """
    torch._inductor.config.force_disable_caches = True  # else a second measurement compiles nothing
    torch.set_num_threads(1)
    keep_freed_memory()
    compiled = partial(torch.compile, backend=job.backend, dynamic=False)
    work = Work(job.size, Path())  # reads no files
    plain: Callable[[], Any]
    fast: Callable[[], Any]
    if job.piece == "replay":
        function, inputs = replay_piece(work)
        plain, fast = partial(function, *inputs), partial(compiled(function), *inputs)
    else:
        module, step = pretraining_piece(work, job.precision)
        plain, fast = partial(step, module), partial(step, compiled(module))
    for _ in range(3):
        plain()
    first = seconds_of(fast)
    for _ in range(3):
        fast()
    turns = [(seconds_of(plain), seconds_of(fast)) for _ in range(3 * job.size.repeats)]
    return {
        "piece": job.piece,
        "seconds": spread([a for a, _ in turns]),
        "compiled_seconds": spread([b for _, b in turns]),
        "ratio": spread([a / b for a, b in turns]),
        "first_call_seconds": first,
    }


def _in_a_process(job: Job) -> dict[str, Any]:
    (found,) = in_processes(measure, (job,))
    return found


def run(profile: str | Profile, *, results: str | Path, again: bool = False) -> list[Record]:
    """The records that stand, of PIECES; with `again` they are made anew, in minutes, with a C++ compiler."""
    store = RecordStore(Path(results) / get_profile(profile).name / "records")
    size = replace(Size(), members=())
    if again:
        for path in (store.root / EXPERIMENT).glob("*.json"):
            path.unlink()
        for piece, precision in PIECES:
            make = partial(_in_a_process, Job(size, piece, precision))
            computed(EXPERIMENT, f"compiled_{piece}", asdict(size), make, store, precision=precision)
    found = {(r["extra"]["piece"], r["precision"]): r for r in store.find({"experiment": EXPERIMENT})}
    return [found[key] for key in PIECES if key in found]


def table(records: Sequence[Record], caption: str) -> Table:
    """A row a piece: milliseconds as it is and compiled, and after how many calls the first one has paid."""
    rows = []
    for record in records:
        x = record["extra"]
        plain, fast = x["seconds"]["median"], x["compiled_seconds"]["median"]
        gain = plain - fast
        rows.append(
            {
                "piece": x["piece"],
                "precision": record["precision"],
                "seconds": plain,
                "compiled_seconds": fast,
                **{
                    f"ratio{k}": x["ratio"][n]
                    for k, n in (("", "median"), ("_low", "low"), ("_high", "high"))
                },
                "first_call_seconds": x["first_call_seconds"],
                "pays_after": x["first_call_seconds"] / gain if gain > 0 else float("inf"),
            }
        )
    frame = pd.DataFrame(rows)
    cells = pd.DataFrame(
        {
            "piece": frame["piece"].map(TITLES),
            "precision": frame["precision"],
            "as it is": frame["seconds"].map(lambda s: f"{1000 * s:.1f} ms"),
            "compiled": frame["compiled_seconds"].map(lambda s: f"{1000 * s:.1f} ms"),
            "times faster: median of pairs (quartiles)": [
                f"{r.ratio:.2f} ({r.ratio_low:.2f} to {r.ratio_high:.2f})" for r in frame.itertuples()
            ],
            "first call": frame["first_call_seconds"].map("{:.0f} s".format),
            "pays after, calls": ["never" if x == float("inf") else f"{x:,.0f}" for x in frame["pays_after"]],
        }
    )
    return Table(caption, frame, cells, "One thread, in turns. The first call compiles, with an empty cache.")


def sentence(records: Sequence[Record]) -> str:
    """What is faster compiled and what slower, where both quartiles say so."""
    if not records:
        return "torch.compile was not measured in this profile."
    better, worse = (
        [f"{TITLES[r['extra']['piece']]} ({r['precision']})" for r in records if faster(r)]
        for faster in (lambda r: r["extra"]["ratio"]["low"] > 1, lambda r: r["extra"]["ratio"]["high"] < 1)
    )
    return (
        f"Compiled, of {len(records)} pieces: faster {', '.join(better) or 'none'}; "
        f"slower {', '.join(worse) or 'none'}."
    )

"""How fast freelib is: the benchmark's records, their table, the roofline."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from freelib.methods.free import FreeConfig
from freelib.run.measure import computed
from freelib.run.profiles import PROFILES, Profile, get_profile
from freelib.run.records import Record, RecordStore
from freelib.show.tables import Table
from freelib.studies.benchmark import (
    PIECES,
    SMALL,
    VARIANTS,
    Job,
    Size,
    Work,
    in_processes,
    measure,
    measure_pools,
)
from freelib.studies.machine import spread
from freelib.studies.roofline import emulated

EXPERIMENT = "benchmark"
SIZES = {"smoke": SMALL}
"""By profile, where it is not the paper's."""
REVISION = 2
"""2: the seconds in convolutions and matrix products."""
TARGETS = {"pretraining": 5.0, "recovery": 4.0, "replay": 4.0, "test": 6.0, "all": 5.0}
REPLAY_BATCHES = 19
"""A round's, for the sum: 18.6 in the run of the paper's size; a patience of 10 makes it 11 at least."""


def run(
    profile: str | Profile, *, results: str | Path, reference: str | Path, again: bool = False
) -> list[Record]:
    """The benchmark's records, a piece and precision each: read where they stand, else measured together.

    reference: the file that defines the straightforward implementation; again: measure anew, replacing them
    """
    profile = get_profile(profile)
    store = RecordStore(Path(results) / profile.name / "records")
    size = SIZES.get(profile.name, Size())
    config = asdict(replace(size, members=()))
    found = cache(lambda: measure_all(size, Path(reference).resolve()))
    if again:
        for path in (store.root / EXPERIMENT).glob("*.json"):
            path.unlink()

    def piece(name: str, precision: str) -> Record:
        return computed(
            EXPERIMENT, name, config, lambda: found()[name, precision], store, precision=precision,
            revision=REVISION,
        )  # fmt: skip

    def pool(n: int) -> Record:
        settings = config | {"members": n}
        return computed(EXPERIMENT, "round", settings, lambda: pools()[n], store, precision="bfloat16")

    pools = cache(lambda: _rounds(size))
    return [piece(p, v) for p in PIECES for v in VARIANTS[p]] + [pool(n) for n in size.members]


def _rounds(size: Size) -> dict[int, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        (found,) = in_processes(measure_pools, (Job(size, Path(folder), None),))
    return {n: {"piece": "round", "members": n} | values for n, values in found.items()}


def measure_all(size: Size, reference: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """What the records hold, by piece and precision.

    seconds, reference_seconds, ratio: one thread each, in turns in one process; side_by_side: ours, wall time
    a piece with several processes of one thread at once; threads, reference_threads: one process with
    as many threads. All as median and quartiles.
    """
    processes = size.processes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Work(size, folder).write_images()
        (alone,) = in_processes(measure, (Job(size, folder, reference, 1, True),))
        beside = in_processes(measure, *[(Job(size, folder, None),)] * processes)
        (threaded,) = in_processes(measure, (Job(size, folder, reference, processes),))
    found = {}
    for piece in PIECES:
        for v in VARIANTS[piece]:
            ours, theirs = alone["seconds"][piece][v], alone["seconds"][piece]["reference"]
            counted, peaks = alone["costs"][piece], alone["peaks"]
            found[piece, v] = {
                "piece": piece,
                "seconds": spread(ours),
                "reference_seconds": spread(theirs),
                "ratio": spread([b / a for a, b in zip(ours, theirs, strict=True)]),
                "side_by_side": spread([s / processes for one in beside for s in one["seconds"][piece][v]]),
                "threads": spread(threaded["seconds"][piece][v]),
                "reference_threads": spread(threaded["seconds"][piece]["reference"]),
                "cost": counted[v],
                "reference_cost": counted["reference"],
                "peaks": {"flops": peaks[v], "reference_flops": peaks["float32"], "bytes": peaks["bytes"]},
                "peak_memory_mib": max(one["peak_memory_mib"] for one in beside),
            }
    return found


def rows(records: Sequence[Record]) -> pd.DataFrame:
    """A row a piece and precision: seconds, ratios at one thread and on all cores, shares of the limits.

    ratio: the median of the ratios of paired runs, one thread each; ratio_all_cores: the reference with
    threads over ours side by side
    flops_share: ours of the reference's operations
    kernels_share, batch_norm_share, pooling_share: of our seconds on one thread, those in PyTorch's
      convolutions and matrix products, its BatchNorm, its pooling; large_share: those in all three
    ratio_limit: `ratio_all_cores` if all but the convolutions and matrix products took no time
    roof_share: of the roofline's limit, the slower of computing at the measured peak and moving every
      operation's tensors at the measured bandwidth: above 1 where caches spare it; NaN where `emulated`
    """
    table = []
    for record in records:
        x = record["extra"]
        if x["piece"] not in PIECES:
            continue
        s, peak = x["seconds"]["median"], x["peaks"]
        computing, moving = x["cost"]["flops"] / peak["flops"], x["cost"]["bytes"] / peak["bytes"]
        all_cores = x["reference_threads"]["median"] / x["side_by_side"]["median"]
        table.append(
            {
                "piece": x["piece"],
                "precision": record["precision"],
                "seconds": s,
                "reference_seconds": x["reference_seconds"]["median"],
                "ratio": x["ratio"]["median"],
                "ratio_low": x["ratio"]["low"],
                "ratio_high": x["ratio"]["high"],
                "side_by_side": x["side_by_side"]["median"],
                "threads": x["threads"]["median"],
                "reference_threads": x["reference_threads"]["median"],
                "ratio_all_cores": all_cores,
                **{f"{kind}_share": value / s for kind, value in x["cost"]["seconds"].items()},
                "large_share": sum(x["cost"]["seconds"].values()) / s,
                "ratio_limit": all_cores * s / x["cost"]["seconds"]["kernels"],
                "roof_share": math.nan if emulated(record) else max(computing, moving) / s,
                "flops_share": x["cost"]["flops"] / x["reference_cost"]["flops"],
                "target": TARGETS[x["piece"]],
                "paper_size": record["config"]["images"] == Size().images,
            }
        )
    return pd.DataFrame(table)


def paper_counts() -> dict[str, int]:
    """How often the `paper` profile does each piece for CIFAR-FS, 1 shot: alignment and monitor left out."""
    paper, free = PROFILES["paper"], FreeConfig()
    return {
        "pretraining": paper.pool["n_models"] * paper.pool["epochs"],
        "recovery": (free.warmup_rounds + free.rounds) * free.meta_batch,
        "replay": free.rounds * REPLAY_BATCHES * free.replay_episodes,
        "test": paper.n_episodes,
    }


def hours(table: pd.DataFrame) -> tuple[float, float]:
    """The sum of the paper profile on all cores: ours, side by side at its fastest, and the reference's."""
    best = table.sort_values("side_by_side").groupby("piece").first()
    counts = pd.Series(paper_counts())
    ours, theirs = ((counts * best[c]).sum() / 3600 for c in ("side_by_side", "reference_threads"))
    return float(ours), float(theirs)


def speed_table(table: pd.DataFrame, caption: str) -> Table:
    """The pieces, ours against the reference."""

    def time(seconds: float) -> str:
        return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"

    cells = pd.DataFrame(
        {
            "piece": table["piece"],
            "precision": table["precision"],
            "ours, 1 thread": table["seconds"].map(time),
            "reference (float32), 1 thread": table["reference_seconds"].map(time),
            "ratio, 1 thread each: median of pairs (quartiles)": [
                f"{r.ratio:.1f} ({r.ratio_low:.1f} to {r.ratio_high:.1f})" for r in table.itertuples()
            ],
            "operations, of the reference's": table["flops_share"].map("{:.0%}".format),
            "ours, processes side by side": table["side_by_side"].map(time),
            "ours, threads": table["threads"].map(time),
            "reference, threads": table["reference_threads"].map(time),
            "ratio, reference's threads over ours side by side": table["ratio_all_cores"].map(
                "{:.1f}".format
            ),
            "target": table["target"].map("{:.0f}".format),
            "of roofline": ["–" if math.isnan(x) else f"{x:.0%}" for x in table["roof_share"]],
        }
    )
    ours, theirs = hours(table)
    note = (
        f"Sum over the paper profile's counts on all cores: {ours:.1f} h against {theirs:.1f} h, "
        f"{theirs / ours:.1f}×; assumed: {REPLAY_BATCHES} replay batches a round. Distillation and the looks "
        "at the validation classes are in neither sum. Recovery is of one model; a round has four."
    )
    if not table["paper_size"].all():
        note = "The pieces are too small to be summed over the paper profile's counts."
    if table["roof_share"].isna().any():
        note += " –: bfloat16 is emulated here, its measured peak is below float32's and no limit."
    return Table(caption, table, cells, note)


def pool_table(records: Sequence[Record], caption: str) -> Table:
    """Seconds of a round and peak memory by the pool's size."""
    found = [r["extra"] for r in records if r["extra"]["piece"] == "round"]
    table = pd.DataFrame(found)[["members", "seconds", "peak_memory_mib"]]
    cells = pd.DataFrame(
        {
            "models in the pool": table["members"].astype(str),
            "seconds a round": table["seconds"].map("{:.2f}".format),
            "peak memory, MiB": table["peak_memory_mib"].map("{:.0f}".format),
        }
    )
    return Table(caption, table, cells)


def reached(table: pd.DataFrame) -> str:
    """What was measured with one thread and float32 each, and each target against the best on all cores.

    Where it was missed, what is left if PyTorch's large operations were all that takes time (convolutions,
    matrix products, BatchNorm, pooling) says whether it is in reach.
    """
    sentences, alike, most = [], one_thread(table), limits(table)
    for piece, ratio in ratios(table).items():
        target = TARGETS[piece]
        verdict = "holds"
        if ratio < target:
            verdict = f"does not hold; if PyTorch's large operations in it were all, {most[piece]:.1f}×"
        if not table["paper_size"].all():
            verdict = "too small a size to tell"
        sentences.append(
            f"{piece}: one thread and float32 each {alike[piece]:.1f}×; each at its best on all cores "
            f"{times(ratio, target)}, {target:.0f}× was aimed at: {verdict}."
        )
    return "\n".join(sentences)


def times(ratio: float, target: float) -> str:
    """`3.4×`; with one more digit where rounding would turn a target that was missed into one that holds."""
    text = f"{ratio:.1f}"
    return f"{ratio:.2f}×" if ratio < target <= float(text) else f"{text}×"


def one_thread(table: pd.DataFrame) -> dict[str, float]:
    """By each of TARGETS: the ratio with one thread and float32 on both sides."""
    alike = table[table["precision"] == "float32"].set_index("piece")
    counts = pd.Series(paper_counts())
    ours, theirs = ((counts * alike[name]).sum() for name in ("seconds", "reference_seconds"))
    return {piece: theirs / ours if piece == "all" else float(alike["ratio"][piece]) for piece in TARGETS}


def ratios(table: pd.DataFrame) -> dict[str, float]:
    """By each of TARGETS: how many times faster than the reference, on all cores."""
    ours, theirs = hours(table)
    best = table.groupby("piece")["ratio_all_cores"].max()
    return {piece: theirs / ours if piece == "all" else float(best[piece]) for piece in TARGETS}


def limits(table: pd.DataFrame) -> dict[str, float]:
    """`ratios` if our large operations were all that takes time."""
    large = table["large_share"]
    return ratios(
        table.assign(
            side_by_side=table["side_by_side"] * large, ratio_all_cores=table["ratio_all_cores"] / large
        )
    )

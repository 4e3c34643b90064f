"""The paper's own size, end to end: FREE on CIFAR-FS at 1 shot, with the time that each part of it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from freelib.environment import nothing_is_made
from freelib.experiments.performance import REPLAY_BATCHES
from freelib.run.accuracy_rows import accuracy_rows
from freelib.run.grid import Plan, run_grid, standing
from freelib.run.profiles import Profile, get_profile
from freelib.run.records import Record, RecordStore
from freelib.run.units import grid
from freelib.show.tables import DATASET_TITLES, Table, plus_minus

EXPERIMENT = "paper_size"
PARTS = {
    "pretraining": "pre-training the pool",
    "recovery": "recovery",
    "alignment": "distillation (BelL's aligned steps)",
    "replay": "replay",
    "monitor": "looks at the validation classes",
    "test": "test",
    "rest": "the rest: checkpoints, heads, memory",
}


def sized(profile: Profile) -> Profile:
    """The `paper` profile's run on a profile's device, at its precision; small where the profile has a size.

    Nothing that the result depends on differs from `paper` but device and precision.
    """
    if EXPERIMENT in profile.experiments:
        return profile.for_experiment(EXPERIMENT)
    paper = get_profile("paper")
    own = replace(paper, name=profile.name, datasets=("cifar-fs",), shots=(1,), workers=profile.workers)
    if profile.device == paper.device:
        return own
    precision = profile.method_fields("free").get("precision", profile.precision)
    return replace(
        own,
        device=profile.device,
        pool={**paper.pool, "precision": profile.pool.get("precision", "float32")},
        overrides={"free": {"precision": precision, "checkpoint_every": 10}},  # its rounds take long
    )


def plan(profile: Profile) -> Plan:
    """The one run, and the profile that it runs in."""
    own = sized(profile)
    return [(own, grid(EXPERIMENT, ["free"], own.datasets[:1], own.shots[:1], own.seeds[:1]))]


def run(profile: str | Profile, *, results: str | Path, cache: str | Path | None = None) -> list[Record]:
    """The run's record: read where it stands, else made, which takes hours beyond smoke; see `run_grid`.

    With FREELIB_RUNS=none nothing is made, and where no record stands there is none.
    """
    ((own, units),) = plan(get_profile(profile))
    store = RecordStore(Path(results) / own.name / "records")
    if nothing_is_made():
        return standing(units, own, store)
    return run_grid(units, own, store, cache=cache)


def rows(records: Sequence[Record], *, reference: str = "free") -> pd.DataFrame:
    """The accuracy's row, see `accuracy_rows`: what others report is of this size."""
    return accuracy_rows(records, table="table1", reference=reference)


def counts(record: Record) -> dict[str, int]:
    """How often the run did each piece of the benchmark: epochs, models, episodes of replay and of test.

    Where the selected round is not the last one, both are tested.
    """
    pool, config = record["pool"]["config"], record["config"]
    batches = sum(record["history"].get("replay_batches", []))
    last = config["warmup_rounds"] + config["rounds"]
    tests = 1 if (record["extra"] or {}).get("selected_round", last) in (None, last) else 2
    return {
        "pretraining": pool["n_models"] * pool["epochs"],
        "recovery": last * config["meta_batch"],
        "replay": round(batches) * config["replay_episodes"],
        "test": tests * record["n_episodes"],
    }


def seconds(record: Record) -> dict[str, float]:
    """Seconds of the whole by part, of those of PARTS that were timed, and of the "rest" of the training.

    Pre-training is the sum over the models, which wait for nothing of each other, over the run's threads.
    """
    spent = {part: record["seconds"][part] for part in PARTS if part in record["seconds"]}
    if "pretraining" in spent:
        spent["pretraining"] /= record["threads"]
    timed = sum(value for part, value in spent.items() if part not in ("pretraining", "test"))
    return spent | {"rest": max(0.0, record["seconds"]["training"] - timed)}


def time_table(record: Record, pieces: pd.DataFrame, caption: str) -> Table:
    """Each part's time beside what the benchmark's pieces promise for as many of them.

    pieces: `performance.rows`, of the sizes that the run has: on one thread, or side by side on all cores
      where the run has several; others, and a run on another device than the benchmark's CPU, promise nothing
    """
    column = "seconds" if record["threads"] == 1 else "side_by_side"
    alike = pieces.assign(alike=pieces["precision"] == record["precision"]).sort_values("alike")
    fits = alike["paper_size"] & (record["device"] == "cpu")
    promised = alike[fits].groupby("piece")[column].last()  # float32 where that is all
    done = counts(record)
    table = pd.DataFrame(
        {
            "part": part,
            "seconds": value,
            "pieces": done.get(part, float("nan")),
            "promised": done[part] * promised[part] if part in promised.index else float("nan"),
        }
        for part, value in seconds(record).items()
    )
    known = table[table["promised"].notna()]
    sums = [("together", table["seconds"].sum(), float("nan"))]
    if len(known):
        sums.insert(0, ("those with a promise", known["seconds"].sum(), known["promised"].sum()))
    cells = pd.DataFrame(
        {
            "part": [*(PARTS[part] for part in table["part"]), *(name for name, *_ in sums)],
            "time": list(map(_time, [*table["seconds"], *(spent for _, spent, _ in sums)])),
            "pieces": ["" if pd.isna(n) else f"{n:.0f}" for n in table["pieces"]] + [""] * len(sums),
            "the benchmark's pieces, as many": [
                "–" if pd.isna(x) else _time(x) for x in [*table["promised"], *(x for *_, x in sums)]
            ],
        }
    )
    machine = record["cpu"] if record["device"] == "cpu" else record["device"]
    note = (
        f"On {machine}, {_threads(record)}: the models of pre-training and of recovery, and the episodes of "
        "replay and test, are shared out. Pieces: epochs of one model, models inverted, episodes of replay "
        "and of test. Pre-training's time is the sum over its models, over the threads."
    )
    return Table(caption, table, cells, note)


def _threads(record: Record) -> str:
    return f"{record['threads']} thread{'' if record['threads'] == 1 else 's'}"


def _time(value: float) -> str:
    return f"{value / 3600:.2f} h" if value >= 360 else f"{value:.1f} s"


def accuracy_sentence(record: Record) -> str:
    """What the run reached, at which size, beside what others report."""
    row = rows([record]).iloc[0]
    pool, config = record["pool"]["config"], record["config"]
    reported = "" if pd.isna(row["paper"]) else f"; {row['paper']:.2f} % are reported ({row['source']})"
    return (
        f"At the paper's size (a pool of {pool['n_models']} models, {pool['epochs']} epochs each; "
        f"{config['rounds']:,} rounds; one seed) FREE reaches "
        f"{plus_minus(row['accuracy'], row['ci95'])} % on {DATASET_TITLES[record['dataset']]}, "
        f"{record['n_shot']}-shot{reported}."
    )


def sentence(record: Record) -> str:
    """What the run took and reached, beside what others report."""
    row = rows([record]).iloc[0]
    done = counts(record)["replay"] / (record["config"]["rounds"] * record["config"]["replay_episodes"])
    reported = "" if pd.isna(row["paper"]) else f", {row['paper']:.2f} % are reported ({row['source']})"
    parts = seconds(record)
    left_out = "" if "pretraining" in parts else ", without its pool's pre-training,"
    return (
        f"The whole run{left_out} took {_time(sum(parts.values()))} on {_threads(record)} and reached "
        f"{plus_minus(row['accuracy'], row['ci95'])} %{reported}. It replayed {done:.1f} batches a round; "
        f"the benchmark's sum assumes {REPLAY_BATCHES}."
    )

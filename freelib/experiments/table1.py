"""Table 1: FREE and the methods it is compared with, by data set and number of shots."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from freelib.methods import get_method
from freelib.run.accuracy_rows import accuracy_rows
from freelib.run.grid import run_grid
from freelib.run.profiles import Profile, get_profile
from freelib.run.records import Record, RecordStore, counts_looks, has_processor_time, training_seconds
from freelib.run.units import Unit, grid, without_repeats
from freelib.show.tables import DATASET_TITLES, plus_minus, signed

EXPERIMENT = "table1"
PUBLISHED = ("random", "average", "ota", "dro", "purer", "bidf_mkd")
"""The methods that the paper's Table 1 has beside FREE, which it puts above all of them."""


def units(
    profile: Profile,
    datasets: Sequence[str] | None = None,
    shots: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    methods: Sequence[str] | None = None,
    *,
    experiment: str = EXPERIMENT,
) -> list[Unit]:
    """The runs behind the table's cells; the profile's data sets, shots, seeds and methods where None.

    experiment: whose table it is, if another has the same cells with methods of its own
    """
    methods = tuple(methods or profile.methods)
    shown: list[Unit] = []
    for dataset in datasets or profile.datasets:
        axes = [dataset], shots or profile.shots, seeds or profile.seeds_for(dataset)
        shown += grid(experiment, methods, *axes)
        if "pool_features" in methods:
            shown += grid(experiment, ["pool_features"], *axes, {"centre": "none"})
    return without_repeats(shown, profile)


def run(
    profile: str | Profile,
    *,
    results: str | Path,
    datasets: Sequence[str] | None = None,
    shots: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    methods: Sequence[str] | None = None,
    cache: str | Path | None = None,
) -> list[Record]:
    """The records of the table's cells: those in `results/<profile>/records` are read, the others made.

    Arguments are `units`'s. Raises ValueError, MissingDataError before anything runs; GridError, naming them,
    where units fail.
    """
    profile = get_profile(profile)
    store = RecordStore(Path(results) / profile.name / "records")
    return run_grid(units(profile, datasets, shots, seeds, methods), profile, store, cache=cache)


def rows(records: Sequence[Record], *, reference: str = "free") -> pd.DataFrame:
    """The table's rows, see `accuracy_rows`: by data set, shots and accuracy, oracles last."""
    table = accuracy_rows(records, table=EXPERIMENT, variant=not_centred, reference=reference)
    order = {name: number for number, name in enumerate(dict.fromkeys(table["dataset"]))}
    by_dataset = table.assign(order=table["dataset"].map(order))
    columns = ["order", "n_shot", "oracle", "accuracy"]
    return by_dataset.sort_values(columns, ignore_index=True).drop(columns="order")


def not_centred(record: Record) -> str:
    """The words of `accuracy_rows` for the pool's features without centring."""
    return (
        "not centred"
        if record["method"] == "pool_features" and record["config"].get("centre") == "none"
        else ""
    )


def above(table: pd.DataFrame, method: str, other: str) -> bool:
    """Whether a method's interval lies above another's in every data set and number of shots."""
    table = table.set_index(["dataset", "n_shot", "method"])
    low = (table["accuracy"] - table["ci95"]).xs(method, level="method")
    high = (table["accuracy"] + table["ci95"]).xs(other, level="method")
    return bool((low > high.reindex(low.index)).all())


def conclusion(table: pd.DataFrame) -> str:
    """What the table shows, in a sentence for each data set and number of shots."""
    sentences: list[str] = []
    for (dataset, n_shot), group in table.groupby(["dataset", "n_shot"], sort=False):
        methods = {row["method"]: row for row in group.to_dict("records")}
        if (free := methods.pop("free", None)) is None:
            continue
        rivals = [row for row in methods.values() if not row["oracle"] and row["method"] != "random"]
        sentence = (
            f"On {DATASET_TITLES.get(str(dataset), dataset)}, 5-way {n_shot}-shot, FREE reaches "
            f"{plus_minus(free['accuracy'], free['ci95'])} %"
        )
        if not pd.isna(free["paper"]):
            sentence += f" (reported: {free['paper']:.2f} %, at the paper's sizes)"
        if "random" in methods:
            sentence += ", " + _compared(methods["random"], "the untrained student")
        if rivals:
            best = max(rivals, key=lambda row: row["accuracy"])
            sentence += ", and " + _compared(best, f"the best of the others, {best['title']}")
        sentences.append(sentence + ".")
    return " ".join(sentences)


def against_the_paper(table: pd.DataFrame) -> str:
    """Where our order agrees with the paper's, FREE above all of PUBLISHED, and where it contradicts it.

    Says so in a sentence for each data set and number of shots, and counts those in which the claim holds;
    order is told by the intervals of the paired differences. Those of them that are below the untrained
    student's mean with their whole interval are named: to be above them says little.
    """
    sentences, held = [], 0
    columns = table[table["method"] == "free"].groupby(["dataset", "n_shot"], sort=False)
    for (dataset, n_shot), _ in columns:
        group = table[(table["dataset"] == dataset) & (table["n_shot"] == n_shot)]
        rivals = [row for row in group.to_dict("records") if row["method"] in PUBLISHED]
        if not rivals:
            continue
        strongest = max(rivals, key=lambda row: row["accuracy"])
        ahead = [row for row in rivals if row["difference"] > row["difference_ci95"]]
        held += all(-row["difference"] > row["difference_ci95"] for row in rivals)
        name = f"the strongest of the other {len(rivals)}, {strongest['title']}"
        place = f"{DATASET_TITLES.get(str(dataset), dataset)}, {n_shot}-shot"
        sentence = f"{place}: FREE is {_compared(strongest, name)}"
        if ahead:
            names = ", ".join(
                f"{row['title']} ({signed(row['difference'], row['difference_ci95'])})" for row in ahead
            )
            sentence += f"; against the published order, above FREE: {names}"
        untrained = next((row["accuracy"] for row in rivals if row["method"] == "random"), -math.inf)
        if below := [row for row in rivals if row["accuracy"] + row["ci95"] < untrained]:
            names = ", ".join(f"{r['title']} ({plus_minus(r['accuracy'], r['ci95'])} %)" for r in below)
            sentence += f"; worse than the untrained student ({untrained:.1f} %): {names}"
        sentences.append(sentence + ".")
    return "\n".join([*sentences, f"FREE is above every one of them in {held} of {len(columns)} columns."])


def budgets(records: Sequence[Record]) -> str:
    """Which methods trained longer than FREE or less than half as long, and how often each was looked at.

    Of several seeds the shortest counts, and the sentence says so: the work is the same, and what else the
    machine did only adds to it.
    """
    looks: dict[str, int] = {}
    for record in records:
        times = len((record["history"] or {}).get("validation_round") or ())
        looks[record["method"]] = max(times, looks.get(record["method"], 0))
    lines = []
    for (dataset, n_shot), methods in _by_column(records).items():
        if (free := methods.pop("free", None)) is not None:
            longer, shorter = [], []
            for name, own in methods.items():
                mine, frees, clock = _beside_free(own, free)
                if mine > frees:
                    longer.append(f"{get_method(name).title} ({mine:.0f} s against {frees:.0f} s {clock})")
                elif 0.5 < mine < frees / 2:  # what takes no second is not trained
                    shorter.append(f"{get_method(name).title} ({mine:.0f} s, {100 * mine / frees:.0f} %)")
            place = f"{DATASET_TITLES.get(dataset, dataset)}, {n_shot}-shot"
            lines.append(
                f"{place}: trained longer than FREE, by the shortest seeds: {', '.join(longer) or 'none'}; "
                f"less than half as long: {', '.join(shorter) or 'none'}."
            )
    seen = ", ".join(f"{get_method(name).title} {times}" for name, times in looks.items() if times)
    return "\n".join([*lines, f"Looks at the validation classes: {seen or 'none'}; the others none."])


def seconds_of(records: Sequence[Record]) -> str:
    """Each method's training time, a line a column; of several seeds the shortest, as in `budgets`."""
    lines = []
    for (dataset, n_shot), methods in _by_column(records).items():
        by_processor = has_processor_time([record for own in methods.values() for record in own])
        spent = {
            get_method(name).title: min(training_seconds(r, by_processor=by_processor) or 0.0 for r in own)
            for name, own in methods.items()
        }
        words = ", ".join(f"{title} {seconds:.0f} s" for title, seconds in spent.items())
        clock = _clock([record for own in methods.values() for record in own], by_processor)
        lines.append(f"Training on {DATASET_TITLES.get(dataset, dataset)}, {n_shot}-shot, {clock}: {words}.")
    return "\n".join(lines)


def _by_column(records: Sequence[Record]) -> dict[tuple[str, int], dict[str, list[Record]]]:
    columns: dict[tuple[str, int], dict[str, list[Record]]] = {}
    for record in records:
        methods = columns.setdefault((record["dataset"], record["n_shot"]), {})
        methods.setdefault(record["method"], []).append(record)
    return columns


def _beside_free(own: Sequence[Record], free: Sequence[Record]) -> tuple[float, float, str]:
    """Seconds of a method's training and of FREE's, by the processor where both have it, and the clock."""
    by_processor = has_processor_time([*own, *free])
    mine, frees = (
        min(training_seconds(record, by_processor=by_processor) or 0.0 for record in group)
        for group in (own, free)
    )
    return mine, frees, _clock([*own, *free], by_processor)


def _clock(records: Sequence[Record], by_processor: bool) -> str:
    """Whose seconds some records' are; at most so many, where a record `counts_looks`."""
    if not by_processor:
        return "by the wall's clock"
    return "of processor time" + (" at most" if any(map(counts_looks, records)) else "")


def _compared(other: dict[Hashable, Any], name: str) -> str:
    """FREE's distance to another method: the paired difference, turned round, in words."""
    gap, half_width = 0.0 - other["difference"], other["difference_ci95"]
    if abs(gap) <= half_width:
        return f"not told apart from {name} ({gap:+.1f} ± {half_width:.1f} points)"
    return f"{abs(gap):.1f} ± {half_width:.1f} points {'above' if gap > 0 else 'below'} {name}"

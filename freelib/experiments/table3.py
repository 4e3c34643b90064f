"""Table 3: models of several architectures in one pool, and students of more than one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from freelib.experiments.alignment_claim import SUMMED, pairs, sentence, variant
from freelib.methods import METHODS, get_method
from freelib.methods.prototypes import PoolFeaturesConfig
from freelib.run.accuracy_rows import accuracy_rows
from freelib.run.grid import run_grid
from freelib.run.profiles import Profile, get_profile
from freelib.run.records import Record, RecordStore
from freelib.run.units import Unit, grid, without_repeats
from freelib.show.tables import DATASET_TITLES, Table, accuracy_table

EXPERIMENT = "table3"
STUDENTS = {"conv4": "Conv4", "resnet10": "ResNet-10", "resnet18": "ResNet-18"}
NO_STUDENT = "none"


def needs_one_architecture(method: str) -> bool:
    """Whether a method fuses weights, so that a mixed pool is nothing for it."""
    return get_method(method).same_architecture


def units(
    profile: Profile,
    methods: Sequence[str],
    datasets: Sequence[str],
    shots: Sequence[int],
    seeds: Sequence[int],
) -> list[Unit]:
    """The grid of the methods that apply, once for each student; FREE also with summed gradients."""
    made = []
    for arch, settings in profile.students.items():
        student = {} if arch == "conv4" else {"arch": arch}
        for method in methods:
            config = get_method(method).Config
            without_student = issubclass(config, PoolFeaturesConfig)
            if needs_one_architecture(method) or (without_student and student):
                continue
            known = {item.name for item in fields(config)}
            own = student | {name: value for name, value in settings.items() if name in known}
            for words in ({}, SUMMED) if method == "free" else ({},):
                made += grid(EXPERIMENT, [method], datasets, shots, seeds, {**own, **words})
    return without_repeats(made, profile)


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
    """The records of the table's cells, see `table1.run`; methods that need one architecture have none."""
    profile = get_profile(profile).for_experiment(EXPERIMENT)
    axes = (datasets or profile.datasets, shots or profile.shots, seeds or profile.seeds)
    chosen = units(profile, methods or profile.methods, *axes)
    return run_grid(chosen, profile, RecordStore(Path(results) / profile.name / "records"), cache=cache)


def student_of(record: Record) -> str:
    """The student's architecture, or "none" where the pool's own features answer."""
    without = issubclass(get_method(record["method"]).Config, PoolFeaturesConfig)
    return NO_STUDENT if without else record["config"]["arch"]


def rows(records: Sequence[Record], *, reference: str = "free") -> pd.DataFrame:
    """The table's rows, see `accuracy_rows`, by `student`; differences are to its `reference`."""
    tables = []
    options: dict[str, Any] = {"table": EXPERIMENT, "reference": reference, "variant": variant}
    for student in dict.fromkeys(map(student_of, records)):
        # the reference with a Conv4 is what methods without a student are held against
        chosen = [r for r in records if student_of(r) == student]
        if student == NO_STUDENT:
            other = [r for r in records if r["method"] == reference and student_of(r) == "conv4"]
            table = accuracy_rows([*chosen, *other], **options)
            table = table[~table["method"].str.startswith(reference)]
        else:
            table = accuracy_rows(chosen, **options)
        if student not in (NO_STUDENT, "conv4"):
            table["paper"] = float("nan")  # what others report is of a Conv4
        tables.append(table.assign(student=student))
    return pd.concat(tables, ignore_index=True)


def table(rows: pd.DataFrame, caption: str) -> Table:
    """The rows for readers, and a dash for each method that can't use this pool."""
    titled = rows.assign(title=[_title(row) for _, row in rows.iterrows()])
    whole = accuracy_table(titled, caption, note=conclusion(rows))
    absent = [get_method(name).title for name in METHODS if needs_one_architecture(name)]
    empty = dict.fromkeys(whole.cells.columns, "")
    dashes = pd.DataFrame([{**empty, "method": title, "accuracy, %": "–"} for title in absent])
    cells = pd.concat([whole.cells, dashes], ignore_index=True)
    reason = f"{', '.join(absent)} fuse weights: models of several architectures give them nothing to fuse."
    return replace(whole, cells=cells, note=f"{whole.note} {reason}")


def _title(row: pd.Series) -> str:
    name = STUDENTS.get(row["student"])
    return row["title"] if name is None else f"{row['title']}, student {name}"


def conclusion(rows: pd.DataFrame) -> str:
    """What the pair of alignments says for each student."""
    return " ".join(
        sentence(
            row,
            f"On {DATASET_TITLES.get(row['dataset'], row['dataset'])}, {row['n_shot']}-shot, student "
            f"{STUDENTS[row['student']]}",
        )
        for _, row in pairs(rows).iterrows()
    )

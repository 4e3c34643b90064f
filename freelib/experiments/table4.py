"""Table 4: FREE without one of its parts at a time, and with what its public release does differently."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from freelib.experiments.verdicts import HOLDS, Cell, judged, one_seed_half_width, too_small
from freelib.methods.base import MethodConfig
from freelib.methods.free import FreeConfig
from freelib.run.accuracy_rows import accuracy_rows
from freelib.run.grid import run_grid
from freelib.run.profiles import Profile, get_profile
from freelib.run.records import Record, RecordStore
from freelib.run.units import Unit, make_config, unit_config
from freelib.show.tables import DATASET_TITLES, Table, plus_minus, seconds_cell, seconds_notes, signed

EXPERIMENT = "table4"
SCRATCH_STEPS = 2  # times FIve's passes, which bring it to their agreement with the teacher, or above
PARTS = ("generator from scratch, equal passes", "summed gradients", "no replay")
PLAIN_RATE = 0.1  # up to 0.3 the first rounds' distillation loss falls as with summed gradients
PLAIN = "plain steps inside BelL"
WITHIN = "replay within models"
TOGETHER = "the release's settings, sizes apart"
ROUNDING = ("recovery in float32", "recovery in bfloat16")
SEVERAL_SEEDS = (*PARTS, PLAIN, WITHIN, *ROUNDING)
"""The variants that a claim rests on; the others run with the first seed only."""
RELEASE = ("align_lr", "align_sweeps", "kd_heads", "lambda_bn")
"""What a profile of few rounds changes of the public release's settings, sizes apart."""
SELECTIONS = {"test": "selected on the test classes", "last": "last round, no selection"}


def variants(full: FreeConfig) -> dict[str, dict[str, Any]]:
    """What each row of the ablation sets, by its words; what `full` already is, is left out."""
    many = SCRATCH_STEPS * full.adapt_steps
    scratch = {"recovery": "scratch", "warmup_rounds": 0}  # there is no generator to warm up
    other = "float32" if full.precision == "bfloat16" else "bfloat16"
    per_model = full.kd_heads == "per_model"
    all_variants: dict[str, dict[str, Any]] = {
        "generator from scratch, equal passes": {**scratch, "scratch_steps": full.adapt_steps},
        "generator from scratch, twice the passes": {**scratch, "scratch_steps": many},
        "summed gradients": {"alignment": "summed"},
        PLAIN: {"align_optimizer": "sgd_inside", "align_inner_lr": PLAIN_RATE},
        "one align sweep": {"align_sweeps": 1},
        "no replay": {"replay_scope": "none"},
        WITHIN: {"replay_scope": "within"},
        "without λ_bn" if full.lambda_bn else "with λ_bn": {"lambda_bn": 0.0 if full.lambda_bn else 0.05},
        "without λ_adv": {"lambda_adv": 0.0},
        "cross-entropy alone": {"lambda_bn": 0.0, "lambda_adv": 0.0},
        "a third of the meta-step": {"meta_lr": full.meta_lr / 3},
        "the release's loss": {"distillation": "release"},
        "the release's memory": {"memory_tasks": "last"},
        TOGETHER: {
            **{name: getattr(FreeConfig(), name) for name in RELEASE},
            "distillation": "release",
            "memory_tasks": "last",
        },
        "one head for all models" if per_model else "a head for each model": {
            "kd_heads": "shared" if per_model else "per_model"
        },
        f"recovery in {other}": {"precision": other},
    }
    found: dict[str, dict[str, Any]] = {}
    configs = [full]
    for words, fields in all_variants.items():  # without λ_bn, two of them are one
        if (changed := replace(full, **fields)) not in configs:
            configs.append(changed)
            found[words] = fields
    return found


def units(
    profile: Profile, datasets: Sequence[str], shots: Sequence[int], seeds: Sequence[int]
) -> list[Unit]:
    """The full method, its variants and its selections, for each data set and number of shots.

    The full method and `SEVERAL_SEEDS` come with every seed, the others with the first.
    """
    made = []
    for dataset in datasets:
        for n_shot in shots:
            for seed in seeds:
                full, first = Unit(EXPERIMENT, "free", dataset, n_shot, seed), seed == seeds[0]
                made.append(full)
                settings = variants(_free(unit_config(full, profile)))
                made += [
                    replace(full, overrides=fields)
                    for words, fields in settings.items()
                    if first or words in SEVERAL_SEEDS
                ]
                made += [replace(full, selection=selection) for selection in SELECTIONS if first]
    return made


def _free(config: MethodConfig) -> FreeConfig:
    assert isinstance(config, FreeConfig)
    return config


def run(
    profile: str | Profile,
    *,
    results: str | Path,
    datasets: Sequence[str] | None = None,
    shots: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    cache: str | Path | None = None,
) -> list[Record]:
    """The records of the table's rows: those that stand are read, the others made; see `table1.run`."""
    profile = get_profile(profile).for_experiment(EXPERIMENT)
    chosen = units(profile, datasets or profile.datasets, shots or profile.shots, seeds or profile.seeds)
    return run_grid(chosen, profile, RecordStore(Path(results) / profile.name / "records"), cache=cache)


def variant(record: Record, full: FreeConfig) -> str:
    """The words for what a record's run does differently from the full method; empty for that itself.

    Raises ValueError where it is no row of this table.
    """
    if record["selection"] != "validation":
        return SELECTIONS[record["selection"]]
    config = _free(make_config("free", record["config"]))
    for words, fields in {"": {}, **variants(full)}.items():
        if config == replace(full, **fields):
            return words
    raise ValueError(f"the record {record['config_digest']} is none of the ablation's variants")


def rows(records: Sequence[Record]) -> pd.DataFrame:
    """The table's rows, see `accuracy_rows`; each n_shot's full method comes first.

    by_seed: each seed's difference to the full method; agreement: see `late_agreement`, mean over seeds
    floor: `moved_by_chance` of these rows
    """
    full = {r["n_shot"]: _free(make_config("free", r["config"])) for r in reversed(records)}
    words = {id(record): variant(record, full[record["n_shot"]]) for record in records}
    table = accuracy_rows(records, table=EXPERIMENT, variant=lambda record: words[id(record)])
    groups: dict[tuple[str, int, str], dict[int, Record]] = {}
    for record in records:
        key = (record["dataset"], record["n_shot"], words[id(record)])
        groups.setdefault(key, {})[record["seed"]] = record
    table["variant"] = [key[2] or "the full method" for key in groups]
    table["by_seed"] = [
        [r["accuracy"] - groups[dataset, n_shot, ""][seed]["accuracy"] for seed, r in group.items()]
        for (dataset, n_shot, _), group in groups.items()
    ]
    agreements = [[late_agreement(record) for record in group.values()] for group in groups.values()]
    table["agreement"] = [sum(values) / len(values) for values in agreements]
    table["floor"] = moved_by_chance(table)
    return table


def late_agreement(record: Record) -> float:
    """Percent of recovered images that their teacher puts in the intended class, in the later half."""
    values = record["history"]["teacher_agreement"]
    late = values[len(values) // 2 :]
    return float(100 * sum(late) / len(late))


def against_plain(records: Sequence[Record]) -> pd.DataFrame:
    """Summed gradients against aligned steps in the form of Lemma 1, plain ones inside; see `accuracy_rows`.

    Adam is outside in both, and they differ in nothing but that the tasks' steps follow each other. The full
    method's fresh Adam inside keeps the signs of the first gradients, not their sizes.
    """

    def plain(record: Record) -> bool:
        return bool(record["config"]["align_optimizer"] == "sgd_inside")

    chosen = [r for r in records if plain(r) or r["config"]["alignment"] == "summed"]
    rows = accuracy_rows(chosen, table=EXPERIMENT, variant=lambda r: "" if plain(r) else PARTS[1])
    return rows.dropna(subset=["difference"]) if len(rows) else rows


def plain_sentences(records: Sequence[Record]) -> str:
    """What `against_plain` says, a sentence a data set and number of shots; empty where one is missing."""
    return " ".join(
        f"On {DATASET_TITLES.get(row['dataset'], row['dataset'])}, {row['n_shot']}-shot, {PARTS[1]} in place "
        f"of aligned plain steps: {verdict(row)}."
        for row in against_plain(records).to_dict("records")
    )


def table(rows: pd.DataFrame, caption: str) -> Table:
    """The rows for readers."""
    several = bool(rows["n_seeds"].max() > 1)
    cells = {
        "data set": [DATASET_TITLES.get(name, name) for name in rows["dataset"]],
        "shots": rows["n_shot"].tolist(),
        "variant": rows["variant"].tolist(),
        "accuracy, %": list(map(plus_minus, rows["accuracy"], rows["ci95"])),
        "seeds": rows["n_seeds"].tolist(),
        "minus full, same episodes": list(map(signed, rows["difference"], rows["difference_ci95"])),
        "by seed": [
            ", ".join(f"{value:+.1f}".replace("-", "−") for value in values) if any(values) else ""
            for values in rows["by_seed"]
        ],
        "teacher agreement, %": [f"{value:.0f}" for value in rows["agreement"]],
        "passes": [f"{value:.0f}" for value in rows["passes"]],
        "training, s": list(map(seconds_cell, rows["seconds"], rows["by_processor"], rows["at_most"])),
    }
    if not several:
        del cells["by seed"]
    words = f"{caption} Mean ± 95 % interval over {rows['n_episodes'].iloc[0]} episodes."
    notes = [conclusion(rows), of_one_seed(rows), same_round(rows), *seconds_notes(cells["training, s"])]
    return Table(
        words, rows.drop(columns=["by_seed", "floor"]), pd.DataFrame(cells), " ".join(filter(None, notes))
    )


def verdict(row: Mapping[Hashable, Any]) -> str:
    """What a row's paired difference says: "lower by 1.2 ± 0.4 points", "higher by …", "not told apart (…)".

    Where there are several seeds, it has to stand their interval too; of one seed it has to reach the row's
    floor, if it has one; see `Cell`.
    """
    cell, gap = Cell.of("", row, floor=row.get("floor", 0.0)), (row["difference"], row["difference_ci95"])
    sign, seeds = cell.sign, (row["seed_difference"], row["seed_difference_ci95"])
    over = ", one seed" if pd.isna(seeds[1]) else f", over seeds {signed(*seeds)}"
    if cell.drowned:
        over = f", {too_small(cell.floor)}"
    if not sign:
        return f"not told apart ({signed(*gap)}{over})"
    return f"{'lower' if sign > 0 else 'higher'} by {plus_minus(abs(gap[0]), gap[1])} points{over}"


def conclusion(rows: pd.DataFrame) -> str:
    """What the table says of the paper's three parts, in a sentence for each data set and number of shots."""
    sentences = []
    for (dataset, n_shot), group in rows.groupby(["dataset", "n_shot"], sort=False):
        by_words = {row["variant"]: row for row in group.to_dict("records")}
        said = [f"{words}: {verdict(row)}" for words in PARTS if (row := by_words.get(words)) is not None]
        name = DATASET_TITLES.get(str(dataset), dataset)
        sentences.append(f"On {name}, 5-way {n_shot}-shot, against the full method: {'; '.join(said)}.")
    return " ".join(sentences)


def missing_parts(rows: pd.DataFrame) -> list[str]:
    """Those of PARTS that some data set and number of shots has no row for."""
    groups = [set(group["variant"]) for _, group in rows.groupby(["dataset", "n_shot"])]
    return [part for part in PARTS if not groups or any(part not in group for group in groups)]


def claim(rows: pd.DataFrame) -> str:
    """What becomes of the claim that accuracy falls, intervals and all, without each of the parts.

    A row of one seed decides nothing, and there is no verdict while a part is not measured; see `judged`.
    """
    if missing := missing_parts(rows):
        return f"not judged while these are not measured: {'; '.join(missing)}"
    parts = rows[rows["variant"].isin(PARTS)]
    return judged([Cell.of("", row, by_seed=True).sign for row in parts.to_dict("records")])


def every_part_helps(rows: pd.DataFrame) -> bool:
    """Whether that claim holds."""
    return claim(rows) == HOLDS


def same_round(rows: pd.DataFrame) -> str:
    """Which selections picked the full method's round, so that their zero tells nothing; empty if none."""
    same = (rows["difference"] == 0) & (rows["difference_ci95"] == 0)
    words = list(dict.fromkeys(rows[same & rows["variant"].isin(SELECTIONS.values())]["variant"]))
    if not words:
        return ""
    named = " and ".join(f"*{text}*" for text in words)
    return (
        f"For {named} the round is the full method's own: these rows are the same weights, and their +0.0 "
        "says nothing of the selection."
    )


def moved_by_chance(rows: pd.DataFrame) -> float:
    """Half-width of the 95 % interval of one seed's difference, in points, from the rows with several seeds.

    See `one_seed_half_width`; 0 where those are too few.
    """
    several = rows[(rows["n_seeds"] > 1) & rows["difference"].notna()] if len(rows) else rows
    return one_seed_half_width((float(pd.Series(x).std()), len(x)) for x in several.get("by_seed", ()))


def of_one_seed(rows: pd.DataFrame) -> str:
    """How far rows of one seed are to be trusted, by the spread over seeds; empty where none says."""
    moved = moved_by_chance(rows)
    if not moved or (rows["n_seeds"] > 1).all():
        return ""
    return (
        f"The 95 % interval of one seed's difference has a half-width of {moved:.1f} points, by the spread "
        "over seeds of the rows that have several: of one seed, a smaller difference counts as none, "
        "whatever its interval over episodes."
    )

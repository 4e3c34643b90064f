"""Beyond the paper: pool distillation against what a user would pick instead, and what of it matters."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from freelib.datasets.cache import cache_folder
from freelib.datasets.episodes import EpisodeSampler
from freelib.experiments import table1
from freelib.experiments.verdicts import Cell
from freelib.meta_learner import MetaLearner
from freelib.methods.pool_distillation import PoolDistillation, PoolDistillationConfig, synthesised_images
from freelib.methods.training import TrainingLog
from freelib.models.backbones import DEFAULT_WIDTH
from freelib.run.accuracy_rows import accuracy_rows
from freelib.run.evaluation import evaluate_centres, mean_and_interval, paired_difference
from freelib.run.grid import run_grid
from freelib.run.measure import measured
from freelib.run.pools import get_pool
from freelib.run.profiles import Profile, get_profile
from freelib.run.records import Record, RecordStore
from freelib.run.runner import TEST_SEED, VALIDATION_SEED, Run
from freelib.run.units import Unit, unit_config
from freelib.show.tables import DATASET_TITLES, Table, by_chance, named, plus_minus, signed
from freelib.storage import Checkpoint, digest_of, load_tensors, save_tensors

EXPERIMENT = "beyond"
METHOD = PoolDistillation.name
REVISION = PoolDistillation.revision
RIVALS = ("free", "best_teacher", "pool_features", "pool_opinions", "oracle_protonet")
REAL = "real (oracle)"
"""The label in the records of the variant with real images; readers get `named`'s words for an oracle."""
SHARE = 16  # the ablation's variants have this part of the method's images, or four batches if that is more


@dataclass(frozen=True)
class Variant:
    """A way to change the method; `real` images stand in for the recovered ones (an oracle)."""

    group: str
    label: str
    fields: dict[str, Any] = field(default_factory=dict)
    real: bool = False


def variants(n: int, width: int) -> list[Variant]:
    """What is changed of a run with n images and a student of that width; the first is the base."""
    half = n // 2
    return [
        Variant("as it is", "half recovered, half procedural"),
        Variant("images", "recovered only", {"recovered": n, "procedural": 0}),
        Variant("images", "procedural only", {"recovered": 0, "procedural": n}),
        Variant(
            "images",
            "half of them mixtures",
            {"recovered": half // 2, "procedural": half // 2, "mixed": n - half // 2 * 2},
        ),
        Variant("images", "a quarter of the images", {"recovered": half // 4, "procedural": half // 4}),
        Variant("images", REAL, {"recovered": n, "procedural": 0}, real=True),
        Variant("teacher", "no whitening", {"whitening": 0.0}),
        Variant("teacher", "whitening 0.5", {"whitening": 0.5}),
        Variant("teacher", "features for probabilities", {"teach": "features"}),
        Variant("teacher", "features, no whitening", {"teach": "features", "whitening": 0.0}),
        Variant("loss", "places only", {"relation_weight": 0.0}),
        Variant("student", "its own axes not whitened", {"student_whitening": 0.0}),
        Variant("student", "twice as wide", {"width": 2 * width}),
    ]


def run(
    profile: str | Profile,
    *,
    results: str | Path,
    datasets: Sequence[str] | None = None,
    shots: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    methods: Sequence[str] = (METHOD, *RIVALS),
    cache: str | Path | None = None,
) -> list[Record]:
    """The records of the method and of its rivals on the meta-test classes; see `table1.run`."""
    profile = get_profile(profile).for_experiment(EXPERIMENT)
    store = RecordStore(Path(results) / profile.name / "records")
    return run_grid(units(profile, datasets, shots, seeds, methods), profile, store, cache=cache)


def units(
    profile: Profile,
    datasets: Sequence[str] | None = None,
    shots: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    methods: Sequence[str] = (METHOD, *RIVALS),
) -> list[Unit]:
    """The runs behind the table's cells; the profile's data sets, shots and seeds where None."""
    return table1.units(profile, datasets, shots, seeds, methods, experiment=EXPERIMENT)


def rows(records: Sequence[Record], *, reference: str = METHOD) -> pd.DataFrame:
    """The table's rows, see `accuracy_rows`: by data set in the records' order, shots and accuracy.

    Differences are against pool distillation, or `reference`.
    """
    table = accuracy_rows(records, table="table1", reference=reference, variant=table1.not_centred)
    places = {name: number for number, name in enumerate(dict.fromkeys(table["dataset"]))}
    order = table.assign(place=table["dataset"].map(places))
    return order.sort_values(["place", "n_shot", "accuracy"], ignore_index=True).drop(columns="place")


def ablation(
    profile: str | Profile,
    *,
    results: str | Path,
    dataset: str | None = None,
    seed: int = 0,
    cache: str | Path | None = None,
) -> list[Record]:
    """A record for each variant, scored on the meta-validation classes: `extra` has accuracies by shots."""
    profile = get_profile(profile)
    store = RecordStore(Path(results) / profile.name / "records")
    unit = Unit(EXPERIMENT, METHOD, dataset or profile.datasets[0], profile.shots[0], seed)
    base = unit_config(unit, profile)
    assert isinstance(base, PoolDistillationConfig)
    n = max((base.recovered + base.procedural + base.mixed) // SHARE, 4 * base.batch_size)
    base = replace(base, recovered=n // 2, procedural=n // 2, mixed=0)
    records = []
    for variant in variants(n, base.width or DEFAULT_WIDTH[base.arch]):
        config, run = replace(base, **variant.fields), Run(unit, profile, cache)
        about = {"group": variant.group, "label": variant.label, "real": variant.real, **asdict(config)}
        about |= tested_on(run, "validation")

        def make(variant: Variant = variant, config: PoolDistillationConfig = config, run: Run = run) -> Any:
            return score_centres(run, _train(run, config, variant, most=n))

        records.append(measured(run, f"{METHOD} variant", about, make, store, revision=REVISION))
    return records


def _train(run: Run, config: PoolDistillationConfig, variant: Variant, *, most: int) -> MetaLearner:
    """A variant's student. What stands where a killed run keeps its images is what it is trained on."""
    pool = get_pool(run.unit.dataset, run.profile, run.unit.seed, cache=run.cache)
    folder = cache_folder(run.cache) / "beyond"
    if variant.real:
        images = run.dataset("train").images
        rng = torch.Generator().manual_seed(run.unit.seed)
        images = images[torch.randperm(len(images), generator=rng)[: config.recovered]]
    else:
        whole = replace(config, recovered=most)
        identity = {name: value for name, value in asdict(whole).items() if name in _RECOVERY}
        file = folder / f"{digest_of([pool.digest, identity, run.unit.seed, REVISION])}.safetensors"
        if not file.is_file():
            made = synthesised_images(pool, whole, seed=run.unit.seed, log=TrainingLog())
            save_tensors(file, {"images": made})
        images = load_tensors(file)["images"][: config.recovered]
    checkpoint = Checkpoint(folder / f"{run.digest}.pt")
    checkpoint.save({"recovered": images, "log": TrainingLog().state_dict()})
    learner = PoolDistillation().meta_train(pool, config, seed=run.unit.seed, checkpoint=checkpoint)
    checkpoint.remove()
    return learner


def tested_on(run: Run, split: str) -> dict[str, Any]:
    """What a score depends on besides the learner."""
    p, seed = run.profile, VALIDATION_SEED if split == "validation" else TEST_SEED
    return {"split": split, "episode_seed": seed, "n_episodes": p.n_episodes, "shots": p.shots}


_RECOVERY = (
    "recovered", "warmup_rounds", "meta_batch", "lambda_ce", "lambda_bn", "lambda_adv", "lambda_tv",
    "lambda_l2", "adapt_steps", "images_per_class",
    "z_dim", "ngf", "generator_lr", "z_lr", "meta_lr", "augment_padding", "augment_flip", "precision",
)  # fmt: skip


def score_centres(run: Run, learner: MetaLearner, split: str = "validation") -> dict[str, Any]:
    """Accuracies by shots and by the mean that is taken off: episodes' for the learner's own, else means."""
    seed = VALIDATION_SEED if split == "validation" else TEST_SEED
    found: dict[str, Any] = {}
    for n_shot in run.profile.shots:
        shape = {"n_way": run.profile.n_way, "n_shot": n_shot, "n_query": run.profile.n_query}
        sampler = EpisodeSampler(run.dataset(split), **shape, seed=seed)
        for centre, score in evaluate_centres(learner, sampler, run.profile.n_episodes).items():
            found[f"{n_shot} {centre}"] = round(score.mean, 3)
            if centre == learner.centre:
                found[f"{n_shot} episodes"] = [round(value, 2) for value in score.accuracies.tolist()]
    seconds = {} if learner.log is None else learner.log.seconds
    return found | {"split": split, "training": {name: round(value, 1) for name, value in seconds.items()}}


def latest_ablation(records: Sequence[Record]) -> list[Record]:
    """Of all records, the variants' newest of each label, in the order of `variants`.

    The newest base has the word: of the others only those of its data set, pool and seed, and tested like it.
    """
    all_of_them = [
        r
        for r in sorted(records, key=lambda record: record["started"])
        if r["experiment"] == EXPERIMENT and r["method"] == f"{METHOD} variant"
    ]
    order = [variant.label for variant in variants(1, 1)]
    base = next((r for r in reversed(all_of_them) if r["config"]["label"] == order[0]), None)
    if base is None:
        return []
    same = {r["config"]["label"]: r for r in all_of_them if _tested_on(r) == _tested_on(base)}
    return [same[label] for label in order if label in same]


def _tested_on(record: Record) -> dict[str, Any]:
    fields = {name: record[name] for name in ("dataset", "data_digest", "pool", "seed")}
    episodes = {key: len(value) for key, value in record["extra"].items() if key.endswith(" episodes")}
    return fields | episodes


def ablation_rows(records: Sequence[Record]) -> pd.DataFrame:
    """A row a variant: group, label; by shots accuracy, interval, difference to the first, uncentred."""
    table = []
    for record in records:
        row: dict[str, Any] = {name: record["config"][name] for name in ("group", "label")}
        row["label"] = named("real only", True) if row["label"] == REAL else row["label"]
        for n_shot in shots_of(record):
            episodes, first = (
                torch.tensor(r["extra"][f"{n_shot} episodes"], dtype=torch.float64)
                for r in (record, records[0])
            )
            row[f"{n_shot} accuracy"], row[f"{n_shot} ci95"] = mean_and_interval(episodes)
            row[f"{n_shot} difference"], row[f"{n_shot} difference_ci95"] = paired_difference(episodes, first)
            row[f"{n_shot} none"] = record["extra"][f"{n_shot} none"]
        table.append(row)
    return pd.DataFrame(table)


def shots_of(record: Record) -> Iterator[int]:
    """The numbers of shots that a measurement has episodes of."""
    return (int(key.split()[0]) for key in record["extra"] if key.endswith(" episodes"))


def ablation_table(rows: pd.DataFrame, caption: str) -> Table:
    """The rows of `ablation_rows` for readers."""
    shots = [int(name.split()[0]) for name in rows.columns if name.endswith(" accuracy")]
    cells = rows[["group", "label"]].replace({"group": {"as it is": "base"}})  # it is not the whole method
    for n in shots:
        word = f"{n} shot{'s' if n > 1 else ''}"
        cells[f"{word}, %"] = list(map(plus_minus, rows[f"{n} accuracy"], rows[f"{n} ci95"]))
        cells[f"{word}, difference"] = list(
            map(signed, rows[f"{n} difference"], rows[f"{n} difference_ci95"])
        )
        cells[f"{word}, not centred"] = [f"{value:.1f}" for value in rows[f"{n} none"]]
    return Table(
        caption, rows, cells, "Meta-validation classes. Differences: to the first row, same episodes."
    )


def conclusion(rows: pd.DataFrame) -> str:
    """Pool distillation against each rival, a sentence for each data set and number of shots that has it."""
    sentences = []
    for (dataset, n_shot), group in rows.groupby(["dataset", "n_shot"], sort=False):
        by_name = {row["method"]: row for row in group.to_dict("records")}
        if (own := by_name.pop(METHOD, None)) is None:
            continue
        several = own["n_seeds"] > 1
        seeds = f"{own['n_seeds']} seeds" if several else "one seed"
        gaps = [
            f"{signed(found.difference, found.half_width)}{f' ({over(found)})' if several else ''} against "
            f"{found.other}"
            for found in map(cell, by_name.values())
        ]
        sentences.append(
            f"{DATASET_TITLES.get(str(dataset), dataset)}, 5-way {n_shot}-shot: one student reaches "
            f"{plus_minus(own['accuracy'], own['ci95'])} % ({seeds}): {', '.join(gaps)}."
        )
    return "\n".join(sentences)


def cell(row: Mapping[Hashable, Any], floor: float = 0.0) -> Cell:
    """Pool distillation minus a row of `rows`; floor: see `Cell`, against what is drawn by chance too."""
    where = f"{DATASET_TITLES.get(row['dataset'], row['dataset'])}, {row['n_shot']}-shot"
    return Cell.of(where, row, floor=floor if by_chance(str(row["method"])) else 0.0)


def over(found: Cell) -> str:
    """`over seeds +1.2 ± 0.8`, or `one seed`."""
    return f"over seeds {signed(*found.seeds)}" if found.seeds else "one seed"


def beats(rows: pd.DataFrame, other: str, floor: float = 0.0) -> bool:
    """Whether it is above another method in every column that has both: over episodes, and over seeds.

    other: the method, with its centring or without; floor: see `Cell`
    """
    found = rows[rows["method"].str.partition(" ")[0] == other].to_dict("records")
    return bool(found) and all(cell(row, floor).sign == 1 for row in found)

"""The end of `results/README.md`: what was run, whether that was long enough, what differs from the paper."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields

from freelib.backbones import DEFAULT_WIDTH
from freelib.experiments import beyond, paper_size, table3
from freelib.experiments.evidence import PLANS, Evidence, name_of
from freelib.experiments.pools import pool_parts
from freelib.experiments.summary import rounds_of_free
from freelib.experiments.units import domains, make_config
from freelib.methods import get_method
from freelib.methods.free import FreeConfig
from freelib.pretraining import PoolConfig
from freelib.profiles import Profile, get_profile
from freelib.records import Record
from freelib.report import duration, facts, spent
from freelib.tables import DATASET_TITLES

TITLES = {beyond.EXPERIMENT: "beyond the paper", paper_size.EXPERIMENT: "the paper's size, end to end"}
NATIVE = {"cifar-fs": 32, "mini-imagenet": 84, "cub": 84}


def what_was_run(evidence: Evidence) -> Iterator[str]:
    """How many of the profile's runs have a record, how long they took, and on what machine."""
    yield from (
        "## What was run",
        "",
        "| | runs with a record | of | training and test |",
        "| --- | --- | --- | --- |",
    )
    for name in PLANS:
        runs = evidence.runs(name)
        numbers = f"{len(runs.records)} | {len(runs.wanted)} | {duration(spent(runs.records))}"
        yield f"| {TITLES.get(name, f'{name[:-1]} {name[-1]}')} | {numbers} |"
    yield from ("", "One run may serve several tables; its time is counted in each.", "")
    yield from (*_long_enough(evidence), "| | |", "| --- | --- |")
    yield from (f"| {name} | {value} |" for name, value in facts(evidence.store).items())
    yield ""


def _long_enough(evidence: Evidence) -> Iterator[str]:
    """What the last third of training still brought, on the meta-validation classes."""
    yield from ("### Were the runs long enough?", "")
    yield "Accuracy on the meta-validation classes, of runs that look at them at least three times. Where the"
    yield "last third of training still brings points, a longer run would be better than what is shown here."
    yield from ("", "| method | | first look, % | best until two thirds, % | best of all, % | gained |")
    yield "| --- | --- | --- | --- | --- | --- |"
    for where, record in _looked_at(evidence.runs("table1").records):
        rounds, scores = (record["history"][f"validation_{name}"] for name in ("round", "accuracy"))
        middle, best = (
            max(s for r, s in zip(rounds, scores, strict=True) if r <= 2 / 3 * rounds[-1]),
            max(scores),
        )
        gain = f"{best - middle:+.1f}".replace("-", "−")
        shown = " | ".join(f"{value:.1f}" for value in (scores[0], middle, best))
        yield f"| {get_method(record['method']).title} | {where} | {shown} | {gain} |"
    yield ""


def _looked_at(records: Iterable[Record]) -> Iterator[tuple[str, Record]]:
    """Those with at least three looks, each training once, and in words which it is."""
    seen = set()
    for record in records:
        shots = f"{record['n_shot']}-shot"
        if not get_method(record["method"]).uses_shots:  # one training, and one curve of it
            shots = f"all shots, seen at {record['evaluation']['validation_shots']}-shot"
        where = f"{name_of(record['dataset'])}, {shots}, seed {record['seed']}"
        key = (record["method"], where)
        if key not in seen and len((record["history"] or {}).get("validation_round", [])) >= 3:
            seen.add(key)
            yield where, record


def _pool_of(own: Profile, paper: Profile) -> str:
    """What a mixed pool is made of, in words; the paper's in brackets."""
    (dataset,) = own.datasets
    parts = pool_parts(dataset, own)
    models = sum(part.take or part.config.n_models for part in parts)
    there = paper.pool_fields(dataset)["n_models"]
    native = {name: paper.size_of(name) or NATIVE.get(name) or "native" for name in domains(dataset)}
    sizes = ", ".join(
        f"{name_of(name)} {own.size_of(name) or 'native'} ({size})" for name, size in native.items()
    )
    narrow = {
        f"{table3.STUDENTS[arch]} {part.config.width} ({DEFAULT_WIDTH[arch]})"
        for part in parts
        for arch in part.config.archs
        if part.config.width not in (None, DEFAULT_WIDTH[arch])
    }
    return (
        f"; {models} models ({there}) in {len(parts)} parts, pixels: {sizes}; {own.n_episodes} episodes "
        f"({paper.n_episodes}) each"
        + (f"; channels of the first stage: {', '.join(sorted(narrow))}" if narrow else "")
    )


def what_differs(evidence: Evidence) -> Iterator[str]:
    """How the profile's sizes differ from the paper's, and what else is not as there."""
    profile, paper = evidence.profile, get_profile("paper")
    here, there = (make_config("free", p.method_fields("free")) for p in (profile, paper))
    changed = ", ".join(
        f"{item.name} {getattr(here, item.name)} ({getattr(there, item.name)})"
        for item in fields(here)
        if item.name != "checkpoint_every" and getattr(here, item.name) != getattr(there, item.name)
    )
    yield from (
        "## What differs from the paper",
        "",
        "In brackets, what the paper or its public release has.",
        "",
    )
    yield f"- FREE's settings: {changed}."
    for dataset in profile.datasets:
        ours, theirs = ({**asdict(PoolConfig()), **p.pool_fields(dataset)} for p in (profile, paper))
        yield (
            f"- {DATASET_TITLES.get(dataset, dataset)}: {ours['n_models']} models ({theirs['n_models']}) of "
            f"{ours['epochs']} epochs ({theirs['epochs']}), images of {profile.size_of(dataset) or 'native'} "
            f"pixels ({paper.size_of(dataset) or NATIVE[dataset]}), {len(profile.seeds_for(dataset))} seed(s)"
            + (", 200 images a class (600)." if dataset == "mini-imagenet" else ".")
        )
    for name in ("table2", "table3", "table4", "figure7"):
        own = profile.for_experiment(name)
        rounds = f"{rounds_of_free(own)} rounds of FREE ({FreeConfig().rounds})"
        pool = _pool_of(own, paper.for_experiment(name)) if own.pool_parts else ""
        yield f"- {name[:-1].capitalize()} {name[-1]}: {rounds}{pool}."
    yield "- The round that is tested is picked on the meta-validation classes (on the test classes)."
    if {record["device"] for record in evidence.everything} <= {"cpu"}:
        yield "- Nothing of this was run on a GPU."
    yield ""

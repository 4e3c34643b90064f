"""The end of `results/README.md`: what was run, whether that was long enough, what differs from the paper."""

from __future__ import annotations

from collections.abc import Iterator

from freelib.experiments import pool_settings, table3
from freelib.experiments.differences import line_of_the_papers_size, method_lines, of_pools
from freelib.experiments.evidence import PLANS, Evidence, name_of
from freelib.experiments.long_enough import called, long_enough
from freelib.experiments.summary import rounds_of_free
from freelib.methods.free import FreeConfig
from freelib.models.backbones import DEFAULT_WIDTH
from freelib.run.pools import pool_config, pool_parts
from freelib.run.profiles import Profile, get_profile
from freelib.run.report import duration, facts, spent
from freelib.run.units import domains
from freelib.show.tables import DATASET_TITLES

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
        yield f"| {called(name)} | {numbers} |"
    yield from ("", "One run may serve several tables; its time is counted in each.", "")
    yield from (*long_enough(evidence), "| | |", "| --- | --- |")
    yield from (f"| {name} | {value} |" for name, value in facts(evidence.store).items())
    yield ""


def _pool_of(own: Profile, paper: Profile) -> str:
    """What a mixed pool is made of, in words; the paper's in brackets."""
    (dataset,) = own.datasets
    parts, theirs = pool_parts(dataset, own), pool_parts(dataset, paper)
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
    ours, released = ([part.config for part in some] for some in (parts, theirs))
    others = of_pools(ours, released, "n_models", "width")
    return (
        f"; {models} models ({there}) in {len(parts)} parts, pixels: {sizes}; {own.n_episodes} episodes "
        f"({paper.n_episodes}) each"
        + (f"; channels of the first stage: {', '.join(sorted(narrow))}" if narrow else "")
        + (f"; by part, {'; '.join(others)}" if others else "")
    )


def what_differs(evidence: Evidence) -> Iterator[str]:
    """How the profile's sizes differ from the paper's, and what else is not as there."""
    profile, paper = evidence.profile, get_profile("paper")
    yield from (
        "## What differs from the paper",
        "",
        "In brackets, what the paper or its public release has; of the other methods, what their own paper "
        "or release has, as far as we know it, else the library's usual value.",
        "",
        *method_lines(profile),
    )
    for dataset in profile.datasets:
        changes = of_pools([pool_config(dataset, profile)], [pool_config(dataset, paper)])
        size = profile.size_of(dataset) or "native"
        changes.append(f"pixels: {size} ({paper.size_of(dataset) or NATIVE[dataset]})")
        if dataset == "mini-imagenet":
            changes.append("images a class: 200 (600)")
        seeds = len(profile.seeds_for(dataset))
        title = DATASET_TITLES.get(dataset, dataset)
        yield (
            f"- {title}: {seeds} seed{'' if seeds == 1 else 's'} of the methods; of the pool, "
            f"{'; '.join(changes)}."
        )
    for name in ("table2", "table3", "table4", "figure7"):
        own = profile.for_experiment(name)
        rounds = f"{rounds_of_free(own)} rounds of FREE ({FreeConfig().rounds})"
        pool = _pool_of(own, paper.for_experiment(name)) if own.pool_parts else ""
        yield f"- {name[:-1].capitalize()} {name[-1]}: {rounds}{pool}."
    yield from line_of_the_papers_size(evidence)
    if any(pool_config(name, profile).augment for name in profile.datasets):
        rows = pool_settings.rows(evidence.runs(pool_settings.EXPERIMENT).records, profile)
        told = pool_settings.sentence(rows) or "No run here tells by how much."
        yield (
            "- Crop and flip, or bfloat16, in pre-training may move every row that learns from these models. "
            f"{told}"
        )
    yield "- The round that is tested is picked on the meta-validation classes (on the test classes)."
    if {record["device"] for record in evidence.everything} <= {"cpu"}:
        yield "- Nothing of this was run on a GPU."
    yield ""

"""Settings that a profile has and the `paper` profile has not, each with a short explanation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from freelib.experiments import paper_size
from freelib.experiments.evidence import Evidence
from freelib.methods import get_method
from freelib.models.pretraining import PoolConfig
from freelib.run.pools import pool_config
from freelib.run.profiles import Profile, get_profile
from freelib.run.units import Unit, unit_config

WITHOUT_EFFECT = ("device", "checkpoint_every", "measure_every", "n_shot")
"""What no result depends on, or what is told elsewhere."""
METHOD_PHRASES = {
    "adapt_steps": "passes of a generator",
    "adversarial_from": "batches before the adversarial term sets in",
    "align_lr": "rate of the distillation's outer step",
    "align_sweeps": "distillation sweeps a round",
    "eci_start": "rounds before inversion adapts to the learner",
    "images_per_class": "images a class of a recovered task",
    "kd_heads": "the student's last layer in distillation, for each model or shared by all",
    "lambda_bn": "weight of the BatchNorm term of inversion",
    "monitor_every": "rounds between looks at the meta-validation classes",
    "ngf": "width of the generator",
    "precision": "number format of the convolutions, but for a student's with inner steps",
    "replay_batches": "batches of replay a round, at most, which FREE's release does not limit",
    "replay_episodes": "episodes of a replay batch",
    "replay_patience": "batches without gain after which replay stops, 0 for never",
    "rounds": "rounds of training",
    "warmup_rounds": "rounds of the generator alone, before the student learns",
}
POOL_PHRASES = {
    "n_models": "models",
    "epochs": "epochs",
    "augment": "random crop and flip of the training images",
    "precision": "number format",
    "width": "channels of the first stage",
}


def shown(value: Any) -> str:
    """A setting's value for readers."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value).replace("_", " ")


def differing(here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """The names of the settings that two configs do not share, but for those of no effect."""
    return [name for name in here if name not in WITHOUT_EFFECT and here[name] != there[name]]


def of_method(method: str, profile: Profile, paper: Profile) -> list[str]:
    """Each setting of a method that differs in table 1, in words, the paper profile's value in brackets.

    Where it differs between numbers of shots, each has its own.
    """
    own, theirs = (
        [asdict(unit_config(Unit("table1", method, p.datasets[0], shots, 0), p)) for shots in profile.shots]
        for p in (profile, paper)
    )
    names = dict.fromkeys(name for pair in zip(own, theirs, strict=True) for name in differing(*pair))
    found = []
    for name in names:
        values = [shown(config[name]) for config in own]
        each = [f"{value} at {shots}-shot" for value, shots in zip(values, profile.shots, strict=True)]
        value = values[0] if len(set(values)) == 1 else " and ".join(each)
        words = f"{METHOD_PHRASES[name]} (`{name}`)" if name in METHOD_PHRASES else f"`{name}`"
        found.append(f"{words}: {value} ({shown(theirs[0][name])})")
    return found


def of_pools(own: Iterable[PoolConfig], theirs: Iterable[PoolConfig], *known: str) -> list[str]:
    """Each setting in which some of these pools differ from the paper's, in words, but for those `known`.

    Values that differ between the pools are listed in their order.
    """
    ours, paper = ([asdict(config) for config in configs] for configs in (own, theirs))
    names = dict.fromkeys(name for pair in zip(ours, paper, strict=True) for name in differing(*pair))
    return [
        f"{POOL_PHRASES.get(name, name)}: {_each(ours, name)} ({_each(paper, name)})"
        for name in names
        if name not in known
    ]


def _each(configs: list[dict[str, Any]], name: str) -> str:
    return ", ".join(dict.fromkeys(shown(config[name]) for config in configs))


def method_lines(profile: Profile) -> Iterator[str]:
    """A line a method of table 1 that has other settings in a profile than in `paper`, FREE's first."""
    for method in sorted(profile.methods, key=lambda name: name != "free"):
        if changes := of_method(method, profile, get_profile("paper")):
            yield f"- {get_method(method).title}: {'; '.join(changes)}."


def line_of_the_papers_size(evidence: Evidence) -> Iterator[str]:
    """In which settings the run of the paper's size differs from `paper`; nothing where it has no record."""
    for record in evidence.runs(paper_size.EXPERIMENT).records:
        config, paper = record["config"], get_profile("paper")
        unit = Unit("table1", record["method"], record["dataset"], record["n_shot"], record["seed"])
        theirs = asdict(unit_config(unit, paper))
        changes = [
            f"{METHOD_PHRASES.get(name, name)}: {shown(config[name])} ({shown(theirs[name])})"
            for name in differing(config, theirs)
        ]
        pool = record["pool"]["config"]
        pools = [PoolConfig(**{**pool, "archs": tuple(pool["archs"])})], [pool_config(unit.dataset, paper)]
        changes += [f"of the pool, {text}" for text in of_pools(*pools)]
        if changes:
            yield f"- The run of the paper's size, end to end, differs only in: {'; '.join(changes)}."

"""The jobs of the graph, for `Snakefile`: which they are, and one of them run.

python workflow/jobs.py list PROFILE > plan.json    the runs that the notebooks ask for, short ones grouped
python workflow/jobs.py run PROFILE KEY…            pools and trainings by the keys that plan.json has
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import click

from freelib.environment import keep_freed_memory
from freelib.run import plan, pools
from freelib.run.execute import run_units
from freelib.storage import digest_of

FACTOR = 2.0
"""Of the seconds and the memory that are told: what a job is given, before it is killed and goes on."""

notebooks_option = click.option("--notebooks", default="notebooks", type=click.Path(path_type=Path))
dataset_option = click.option("--dataset", "datasets", multiple=True)


def trainings(profile: str, notebooks: Path, datasets: tuple[str, ...]) -> Any:
    """The trainings of `freelib.run.plan`, of some data sets only where some are named."""
    return plan.trainings(notebooks, PROFILE=profile, **({"DATASETS": list(datasets)} if datasets else {}))


@click.group()
def main() -> None:
    """The jobs of the graph."""


@main.command("list")
@click.argument("profile")
@click.option("--minutes", default=30.0, help="Trainings on the same pool share a job of so many minutes.")
@notebooks_option
@dataset_option
def list_jobs(profile: str, minutes: float, notebooks: Path, datasets: tuple[str, ...]) -> None:
    """Print the jobs, and for each notebook those that it waits for, as JSON."""
    served, asked = trainings(profile, notebooks, datasets)
    single = plan.jobs(served, plan.Costs(plan.earlier_runs()))
    grouped: dict[str, dict[str, Any]] = {}
    last: dict[Any, str] = {}
    holds: dict[str, str] = {}
    for key, job in single.items():
        group, seconds = (tuple(job["needs"]), job["memory_mib"] // 1024), job["seconds"] or 3600.0
        name = last.get(group)
        if not job["needs"] or name is None or grouped[name]["seconds"] + seconds > 60 * minutes:
            name = last[group] = key
            grouped[name] = {"keys": [], "needs": job["needs"], "threads": job["threads"]}
            grouped[name] |= {"seconds": 0.0, "memory_mib": 0.0}
        grouped[name]["keys"].append(key)
        grouped[name]["seconds"] += seconds
        grouped[name]["memory_mib"] = max(grouped[name]["memory_mib"], job["memory_mib"])
        holds[key] = name
    for job in grouped.values():
        job["minutes_of_a_thread"] = math.ceil(FACTOR * job.pop("seconds") / 60)
        job["memory_mib"] = math.ceil(FACTOR * job["memory_mib"])
    waits = {name: sorted({holds[f"run-{key}"] for key in keys}) for name, keys in asked.items()}
    click.echo(json.dumps({"jobs": grouped, "notebooks": waits}, indent=1))


@main.command()
@click.argument("profile")
@click.argument("keys", nargs=-1)
@click.option("--results", default="results", type=click.Path(path_type=Path))
@notebooks_option
@dataset_option
def run(profile: str, keys: tuple[str, ...], results: Path, notebooks: Path, datasets: tuple[str, ...]) -> None:
    """Pre-train the pools, and make the records of the trainings, of these keys; what is there stays."""
    keep_freed_memory()
    served, _ = trainings(profile, notebooks, datasets)
    parts = {}
    for unit, own in (units[0] for units in served.values()):
        for part, told in zip(
            pools.pool_parts(unit.dataset, own), plan.settings_of(unit, own)["pool"]["parts"], strict=True
        ):
            name = "pool-" + digest_of({"parts": [{**told, "take": None}]})
            parts[name] = (part.dataset, own, part.seed(pools.pool_seed(own, unit.seed)), part.config)
    for key in keys:
        if key in parts:
            dataset, own, seed, config = parts[key]
            pools.pretrain_into(dataset, own, seed, config=config)
            continue
        by_profile = defaultdict(list)
        for unit, own in served[key.removeprefix("run-")]:
            by_profile[own].append(unit)
        for own, units in by_profile.items():
            run_units(units, own, results)


if __name__ == "__main__":
    main()

"""The numbers of an accuracy table, from records: means, intervals, differences, and what others report."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from freelib.methods import get_method
from freelib.run.evaluation import mean_and_interval, mean_over_seeds, paired_difference
from freelib.run.records import Record, counts_looks, has_processor_time, training_seconds

REFERENCE = Path(__file__).with_name("reference.csv")


def reference_values(table: str) -> dict[tuple[str, str, int], tuple[float, str]]:
    """What others report: (data set, method, shots) -> (accuracy in percent, source), from `reference.csv`.

    A reader who holds the paper fills its empty cells in there; they then show up everywhere.
    """
    with REFERENCE.open(encoding="utf-8", newline="") as file:
        return {
            (line["dataset"], line["method"], int(line["n_shot"])): (float(line["value"]), line["source"])
            for line in csv.DictReader(file)
            if line["table"] == table and line["value"].strip()
        }


def episode_means(records: Sequence[Record]) -> Tensor:
    """Accuracy of each episode in percent, averaged over the records (the seeds): `(n_episodes,)` float64.

    Raises ValueError where the records were not tested on the same episodes.
    """
    tested_on = {
        (r["dataset"], r["data_digest"], r["n_shot"], r["n_episodes"], r["evaluation"]["seed"])
        for r in records
    }
    if len(tested_on) != 1:
        raise ValueError(
            f"records of {len(tested_on)} different sets of episodes can't be averaged: {tested_on}"
        )
    return torch.tensor([record["episode_accuracies"] for record in records], dtype=torch.float64).mean(0)


def accuracy_rows(
    records: Iterable[Record],
    *,
    table: str,
    reference: str = "free",
    variant: Callable[[Record], str] = lambda record: "",
) -> pd.DataFrame:
    """One row for each data set, number of shots, method and variant of it, in the records' order.

    variant: a few words for a record whose method appears with several configurations, else an empty string
    accuracy, ci95: mean over episodes (averaged over seeds first) in percent, and its 95 % interval's
    half-width
    seed_spread: standard deviation of the seeds' accuracies, NaN for one seed; n_seeds
    difference, difference_ci95: to the reference method on the same episodes, paired, over the seeds that
    both have (all, where one of them draws nothing by chance, from one pool); NaN for the method itself, and
    where they have no seed in common
    seed_difference, seed_difference_ci95: mean of the differences seed by seed, with its interval over seeds;
    NaN where they have no two seeds in common; what draws nothing by chance counts for every seed of its pool
    last: accuracy of the last round instead of the selected one
    seconds: of meta-training, see `training_seconds`, of the shortest seed (the work is the same, and what
      else a machine does only adds to it); by_processor: whether it is processor time, which all of the row's
      records have; at_most: whether it is no more than a bound, see `counts_looks`
    passes: of images through a model and back, mean over seeds
    models: networks that answer at test time, NaN where the record does not say how many the pool has
    paper, source: the value that others report, NaN where we do not know it

    Raises ValueError where two records are of one method, data set, number of shots and seed.
    """
    groups: dict[tuple[str, int, str, str], dict[int, Record]] = {}
    for record in records:
        key = (record["dataset"], record["n_shot"], record["method"], variant(record))
        if record["seed"] in groups.setdefault(key, {}):
            raise ValueError(
                f"two records of {key} with seed {record['seed']}: a table shows one configuration each"
            )
        groups[key][record["seed"]] = record
    known = reference_values(table)
    rows = []
    for (dataset, n_shot, name, words), by_seed in groups.items():
        seeds, method = list(by_seed.values()), get_method(name)
        by_processor = has_processor_time(seeds)
        episodes = episode_means(seeds)
        strata = dataset.count("+") + 1
        _, ci95 = mean_and_interval(episodes, strata=strata)
        accuracy = pd.Series([record["accuracy"] for record in seeds])
        difference = by_seed_difference = (float("nan"), float("nan"))
        other = groups.get((dataset, n_shot, reference, ""))
        if other is not None and other is not by_seed:
            pair = of_common_seeds(by_seed, other)
            if all(pair):
                difference = paired_difference(*map(episode_means, pair), strata=strata)
                by_seed_difference = _over_seeds(*pair)
        paper, source = (
            known.get((dataset, name, n_shot), (float("nan"), "")) if not words else (float("nan"), "")
        )
        rows.append(
            {
                "dataset": dataset,
                "n_shot": n_shot,
                "method": f"{name} ({words})" if words else name,
                "title": f"{method.title}, {words}" if words else method.title,
                "oracle": method.oracle,
                "needs": method.needs,
                "accuracy": accuracy.mean(),
                "ci95": ci95,
                "seed_spread": accuracy.std(),
                "n_seeds": len(seeds),
                "n_episodes": seeds[0]["n_episodes"],
                "difference": difference[0],
                "difference_ci95": difference[1],
                "seed_difference": by_seed_difference[0],
                "seed_difference_ci95": by_seed_difference[1],
                "last": _mean(record["accuracy_last"] for record in seeds),
                "seconds": _least(training_seconds(r, by_processor=by_processor) for r in seeds),
                "by_processor": by_processor,
                "at_most": by_processor and any(map(counts_looks, seeds)),
                "passes": _mean(record["passes"] for record in seeds),
                "models": method.models_at_test or _pool_size(seeds[0]),
                "paper": paper,
                "source": source,
            }
        )
    return pd.DataFrame(rows)


def of_common_seeds(*groups: Mapping[int, Record]) -> list[list[Record]]:
    """Each group's records of the seeds that all have, perhaps none.

    All records where chance has no part in a group, and the pool is one.
    """
    records = [record for group in groups for record in group.values()]
    if _one_pool(records) and not all(get_method(record["method"]).uses_seed for record in records):
        return [list(group.values()) for group in groups]
    common = set.intersection(*map(set, groups))
    return [[record for seed, record in group.items() if seed in common] for group in groups]


def _one_pool(records: Sequence[Record]) -> bool:
    """Whether the records' runs all had the same pool."""
    return all(record["pool"] == records[0]["pool"] for record in records)


def _over_seeds(own: Sequence[Record], other: Sequence[Record]) -> tuple[float, float]:
    """The accuracies' differences seed by seed, own − other: mean and interval; NaN of fewer than two.

    Where nothing is drawn by chance in one of them, and the pool is one, it is held against each seed of the
    other.
    """
    by_chance = [get_method(group[0]["method"]).uses_seed for group in (own, other)]
    accuracies = [{record["seed"]: record["accuracy"] for record in group} for group in (own, other)]
    if sum(by_chance) == 1 and _one_pool([*own, *other]):
        steady = by_chance.index(False)
        accuracies[steady] = dict.fromkeys(accuracies[1 - steady], _mean(accuracies[steady].values()))
    if not any(by_chance) or len(accuracies[0]) < 2 or accuracies[0].keys() != accuracies[1].keys():
        return math.nan, math.nan
    gaps = [mine - accuracies[1][seed] for seed, mine in accuracies[0].items()]
    return mean_over_seeds(torch.tensor(gaps, dtype=torch.float64))


def _pool_size(record: Record) -> float:
    pool = record["pool"] or {}
    return sum(map(part_size, pool.get("parts", [pool])))


def part_size(part: Mapping[str, Any]) -> float:
    """How many models a part of a record's pool has, NaN where it does not say so."""
    return part.get("take") or part.get("config", {}).get("n_models", math.nan)


def _mean(values: Iterable[float | None]) -> float:
    return pd.Series(list(values), dtype="float64").mean()


def _least(values: Iterable[float | None]) -> float:
    return pd.Series(list(values), dtype="float64").min()

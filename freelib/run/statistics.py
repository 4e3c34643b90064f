"""Statistics of records as data frames: means, intervals, paired differences, and what others report.

Two sources of chance are kept apart. The interval over *episodes* says how well a learner's accuracy is known; the
interval over *seeds* says how much it moves when training starts anew. A difference between two methods is
paired: over the same episodes, or seed by seed.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from scipy.stats import t as student
from torch import Tensor

from freelib.methods import method_of_record
from freelib.run.evaluation import mean_and_interval, paired_difference
from freelib.run.pools import parts_of
from freelib.run.records import Record, is_upper_bound, training_seconds

REFERENCE = Path(__file__).with_name("reference.csv")
ENOUGH = 4
"""Degrees of freedom that a standard deviation over seeds needs to be of use for others."""


def mean_over_seeds(values: Iterable[float]) -> tuple[float, float]:
    """Mean of some seeds' values and half-width of its 95 % interval by Student's t, NaN for one value."""
    found = pd.Series(list(values), dtype="float64")
    return float(found.mean()), float(student.ppf(0.975, len(found) - 1) * found.std() / math.sqrt(len(found)))


def one_seed_floor(spreads: Iterable[tuple[float, int]]) -> float:
    """Half-width of the 95 % interval of one seed's difference, in points, from rows that have several seeds.

    spreads: standard deviation over seeds and number of seeds, of each row; rows of one seed do not count.
      The variances are pooled. 0 where they have fewer than ENOUGH degrees of freedom.

    With one seed, a difference below this floor is none, however narrow its interval over episodes.
    """
    several = [(spread, n) for spread, n in spreads if n > 1 and not math.isnan(spread)]
    freedom = sum(n - 1 for _, n in several)
    if freedom < ENOUGH:
        return 0.0
    pooled = math.sqrt(sum((n - 1) * spread**2 for spread, n in several) / freedom)
    return float(student.ppf(0.975, freedom)) * pooled


def significance(row: Mapping[Hashable, Any] | pd.Series, floor: float = 0.0) -> int:
    """1 or −1 where a row of `compare` is significantly above or below its reference, else 0.

    All its intervals have to lie on one side of 0: over episodes, and over seeds where there are several.
    With one seed the difference also has to reach the `one_seed_floor`.
    """

    def sign(mean: float, half_width: float) -> int:
        return int(mean > half_width) - int(mean < -half_width)

    over_episodes = sign(row["difference"], row["difference_ci95"])
    if math.isnan(row["seed_difference_ci95"]):
        return over_episodes if abs(row["difference"]) >= floor else 0
    return over_episodes if over_episodes == sign(row["seed_difference"], row["seed_difference_ci95"]) else 0


def reported_values(table: str) -> dict[tuple[str, str, int], tuple[float, str]]:
    """What others report: (data set, method, shots) -> (accuracy in percent, source), from `reference.csv`.

    A reader who holds the paper fills its empty cells in there; they then show up everywhere.
    """
    rows = pd.read_csv(REFERENCE).dropna(subset="value").query("table == @table")
    found = rows[["dataset", "method", "n_shot", "value", "source"]].itertuples(index=False, name=None)
    return {(dataset, method, n_shot): (value, source) for dataset, method, n_shot, value, source in found}


def check_same_episodes(records: Sequence[Record]) -> None:
    """Raises ValueError where records were not tested on the same episodes, be it of images of another size."""
    keys = ("dataset", "n_way", "n_shot", "n_query", "n_episodes")
    tested_on = {(*(r[key] for key in keys), r["evaluation"]["seed"]) for r in records}
    if len(tested_on) != 1:
        raise ValueError(f"records of {len(tested_on)} different sets of episodes can't be compared: {tested_on}")


def episode_means(records: Sequence[Record]) -> Tensor:
    """Accuracy of each episode in percent, averaged over the records (the seeds): `(n_episodes,)` float64.

    Raises ValueError where the records were not tested on the same episodes.
    """
    check_same_episodes(records)
    if len(found := {r["data_digest"] for r in records if not r["config"].get("unlabelled")}) > 1:
        raise ValueError(f"records of {len(found)} different data sets can't be averaged: {found}")
    return torch.tensor([record["episode_accuracies"] for record in records], dtype=torch.float64).mean(0)


def compare(
    records: Iterable[Record],
    *,
    reference: str = "free",
    variant: Callable[[Record], str] = lambda record: "",
    reported: str | None = None,
) -> pd.DataFrame:
    """One row for each data set, number of shots, method and variant of it, in the records' order.

    variant: a few words for a record whose method appears with several configurations, else an empty string.
    reported: the table in `reference.csv` whose values others report.

    Columns:
      dataset, n_shot, method, variant, title, oracle, n_seeds, n_episodes.
      accuracy, ci95: mean over episodes (averaged over seeds first) in percent, and its 95 % interval's
        half-width.
      seed_spread: standard deviation of the seeds' accuracies, NaN for one seed.
      difference, difference_ci95: to the reference method on the same episodes, paired, over the seeds that
      both have (all, where one of them is deterministic and the pool is one); NaN for the reference itself,
      and where they have no seed in common.
      seed_difference, seed_difference_ci95: mean of the differences seed by seed with its interval over
      seeds; NaN where they have no two seeds in common. A deterministic method counts for every seed of its
      pool.
      last: accuracy of the last round instead of the selected checkpoint.
      seconds: of meta-training, CPU time where all of the row's records have it (`clock` says which), of the
      shortest seed: the work is the same, and what else a machine does only adds to it; at_most: an upper
        bound.
      iterations: generator iterations, mean over seeds. models: networks at inference.
      reported, source: the value that others report, NaN where it is not known to us.

    Raises ValueError where two records are of one method, variant, data set, number of shots and seed, and where
    what is compared was not tested on the same episodes.

    >>> from freelib.run import get_profile, run_units, table_units
    >>> profile = get_profile("cpu")
    >>> units = table_units("table1", profile, ["free", "purer"], datasets=["cub"], shots=[1])
    >>> rows = compare(run_units(units, profile, "results"))
    >>> rows[["title", "accuracy", "difference"]].round(1).values.tolist()
    [['FREE', 37.9, nan], ['PURER', 31.5, -6.4]]
    """
    groups: dict[tuple[str, int, str, str], dict[int, Record]] = {}
    for record in records:
        key = (record["dataset"], record["n_shot"], record["method"], variant(record))
        if record["seed"] in groups.setdefault(key, {}):
            raise ValueError(f"two records of {key} with seed {record['seed']}: a row shows one configuration")
        groups[key][record["seed"]] = record
    known = reported_values(reported) if reported else {}
    rows = []
    for key, by_seed in groups.items():
        other = groups.get((*key[:2], reference, ""))
        own, others = _of_common_seeds(by_seed, other) if other and other is not by_seed else ([], [])
        rows.append(_row(key, list(by_seed.values()), own, others, known))
    return pd.DataFrame(rows)


def _row(
    key: tuple[str, int, str, str],
    seeds: list[Record],
    own: list[Record],
    other: list[Record],
    known: Mapping[tuple[str, str, int], tuple[float, str]],
) -> dict[str, object]:
    """A row of `compare`; own, other: its records and the reference's that are compared, perhaps none."""
    (dataset, n_shot, name, words), method, first = key, method_of_record(key[2]), seeds[0]
    strata = dataset.count("+") + 1
    accuracy = pd.Series([record["accuracy"] for record in seeds])
    difference, over_seeds = (math.nan, math.nan), (math.nan, math.nan, math.nan)
    if own and other:
        check_same_episodes([*own, *other])
        difference = paired_difference(episode_means(own), episode_means(other), strata=strata)
        over_seeds = _seed_differences(own, other)
    clock = "training_cpu" if all("training_cpu" in (r["seconds"] or {}) for r in seeds) else "training"
    reported, source = (math.nan, "") if words else known.get((dataset, name, n_shot), (math.nan, ""))
    return {
        "dataset": dataset,
        "n_shot": n_shot,
        "method": name,
        "variant": words,
        "title": f"{method.title}, {words}" if words else method.title,
        "oracle": method.oracle,
        "accuracy": accuracy.mean(),
        "ci95": mean_and_interval(episode_means(seeds), strata=strata)[1],
        "seed_spread": accuracy.std(),
        "n_seeds": len(seeds),
        "n_episodes": first["n_episodes"],
        "difference": difference[0],
        "difference_ci95": difference[1],
        "seed_difference": over_seeds[0],
        "seed_difference_ci95": over_seeds[1],
        "seed_difference_spread": over_seeds[2],
        "last": _mean(record["accuracy_last"] for record in seeds),
        "seconds": min(training_seconds(record, clock) for record in seeds),
        "clock": clock,
        "at_most": clock == "training_cpu" and any(map(is_upper_bound, seeds)),
        "iterations": _mean(record["passes"] for record in seeds),
        "models": method.models_at_test or pool_size(first),
        "reported": reported,
        "source": source,
    }


def _of_common_seeds(own: Mapping[int, Record], other: Mapping[int, Record]) -> tuple[list[Record], list[Record]]:
    """Both groups' records of the seeds that both have; all where one is deterministic, of one pool."""
    records = [*own.values(), *other.values()]
    if _one_pool(records) and not all(method_of_record(record["method"]).uses_seed for record in records):
        return list(own.values()), list(other.values())
    common = own.keys() & other.keys()
    return [r for seed, r in own.items() if seed in common], [r for seed, r in other.items() if seed in common]


def _one_pool(records: Sequence[Record]) -> bool:
    return all(record["pool"] == records[0]["pool"] for record in records)


def _seed_differences(own: Sequence[Record], other: Sequence[Record]) -> tuple[float, float, float]:
    """The accuracies' differences seed by seed, own − other: mean, interval and standard deviation.

    All NaN for fewer than two seeds. A deterministic method has one value for all seeds of a pool.
    """
    one_pool, accuracies = _one_pool([*own, *other]), list[Any]()
    for group in (own, other):
        found = pd.Series({r["seed"]: r["accuracy"] for r in group})
        steady = one_pool and not method_of_record(group[0]["method"]).uses_seed
        accuracies.append(found.mean() if steady else found)
    gaps = pd.Series(accuracies[0] - accuracies[1]).dropna()
    return (*mean_over_seeds(gaps), float(gaps.std())) if len(gaps) > 1 else (math.nan,) * 3


def pool_size(record: Record) -> float:
    """How many models a record's pool has, NaN where it does not say so."""
    return sum(part.get("take") or part.get("config", {}).get("n_models", math.nan) for part in parts_of(record))


def _mean(values: Iterable[float | None]) -> float:
    return float(pd.Series(list(values), dtype="float64").mean())

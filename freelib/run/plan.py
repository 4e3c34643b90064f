"""What runs take, before they start: the runs that the notebooks' grids name, and their cost by earlier records."""

import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import torch
from scipy.optimize import least_squares
from sklearn.feature_extraction import DictVectorizer
from torch.utils.flop_counter import FlopCounterMode

from freelib.datasets.class_lists import IMAGES_PER_CLASS
from freelib.datasets.own import about
from freelib.models.backbones import build_backbone
from freelib.models.pool import ModelPool
from freelib.run.execute import listing
from freelib.run.notebooks import find_notebooks, parameters
from freelib.run.pools import parts_of, pool_parts, pool_seed
from freelib.run.profiles import Profile
from freelib.run.records import Record, RecordStore
from freelib.run.runner import Run
from freelib.run.units import Unit
from freelib.storage import digest_of, plain

Asked = tuple[Unit, Profile]
Fields = Mapping[str, Any]
KINDS = ("recovered", "procedural", "mixed", "n_unlabelled")


def asked_by(path: Path, **given: Any) -> list[Asked]:
    """The units that a notebook's cells with the tag "grid" ask for, with their profiles; none is run.

    given: values in place of the notebook's parameters, where it has them
    """
    defaults = parameters(path)
    namespace = defaults | {name: value for name, value in given.items() if name in defaults}
    sys.path.insert(0, str(path.parent))  # the folder that its kernel runs in
    try:
        with listing() as asked:
            for cell in nbformat.read(path, as_version=4).cells:
                if "grid" in cell.metadata.get("tags", ()):
                    exec(compile(cell.source, path.name, "exec"), namespace)
    finally:
        sys.path.remove(str(path.parent))
    return asked


def trainings(notebooks: str | Path, **given: Any) -> tuple[dict[str, list[Asked]], dict[str, list[str]]]:
    """By a key, the units that one training serves; and by notebook, the keys that its grids ask for."""
    served: dict[str, dict[str, Asked]] = defaultdict(dict)
    asked: dict[str, dict[str, None]] = {}
    for path in find_notebooks(notebooks):
        for unit, profile in asked_by(path, **given):
            key = digest_of(settings_of(Run(unit, profile).trained_as, profile))
            served[key].setdefault(replace(unit, experiment="").name, (unit, profile))
            asked.setdefault(path.stem, {})[key] = None
    return {key: [*units.values()] for key, units in served.items()}, {name: [*keys] for name, keys in asked.items()}


def settings_of(unit: Unit, profile: Profile) -> dict[str, Any]:
    """The fields of a unit's record that are known before it is run; of the images nothing but their size."""
    parts = [
        {"dataset": part.dataset, "take": part.take, "config": part.config}
        | {"seed": part.seed(pool_seed(profile, unit.seed))}
        | {"image_size": profile.size_of(part.dataset) or about(part.dataset).size}
        for part in pool_parts(unit.dataset, profile)
    ]
    return plain({**Run(unit, profile).settings, "pool": {"parts": parts}})


@cache
def network_size(arch: str, width: int | None, size: int) -> tuple[float, int]:
    """What the time of an image of size² pixels through a network is in proportion to, and the number of its weights.

    The time goes by a power of the operations, for larger networks do more of them a second. Of 0.6, 0.7 and 0.8 the
    power is the one that forecasts the committed records best.
    """
    network = build_backbone(arch, image_size=size, width=width).eval().to("meta")
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, size, size, device="meta"))
    return counter.get_total_flops() ** 0.6, sum(weight.numel() for weight in network.parameters())


def _parts(fields: Fields) -> list[dict[str, Any]]:
    """A record's pool by parts: the models taken, their time as that of so many Conv4s, and their weights."""
    found = []
    for part in parts_of(fields):
        archs, size, n = part["config"]["archs"], part["image_size"], part.get("take") or part["config"]["n_models"]
        models = [network_size(archs[i % len(archs)], part["config"]["width"], size) for i in range(n)]
        time, weights = (sum(each) for each in zip(*models, strict=True))
        found.append({**part, "n": n, "time": time / network_size("conv4", None, size)[0], "weights": weights})
    return found


def image_size(fields: Fields) -> float:
    """Side of a record's images in pixels, the mean over its data sets."""
    sizes = {part["dataset"]: part["image_size"] for part in parts_of(fields)}
    return float(sum(sizes.values()) / len(sizes))


def work(fields: Fields) -> dict[str, float]:
    """What the seconds of each phase of a record are in proportion to, as far as its settings tell; of others 1."""
    c, parts, evaluation = fields["config"], _parts(fields), fields["evaluation"]
    n = defaultdict(lambda: 1, {name: value for name, value in c.items() if value})
    rounds, batch, every = n["rounds"], n["meta_batch"], c.get("monitor_every")
    images = sum(c.get(kind, 0) for kind in KINDS) or 1
    made = c.get("recovered") or (rounds + c.get("warmup_rounds", 0)) * batch * n["images_per_class"]
    # 18.6 batches a round were replayed in the one record that has a patience, of 10
    replayed = min(n["replay_batches"], 2 * (c.get("replay_patience") or math.inf))

    def episode(n_shot: int, steps: str) -> int:
        return (n[steps] if c["head"] == "maml" else 1) * n_shot + c["n_query"]

    own = episode(c["n_shot"], "inner_steps")
    networks = sum(part["n"] for part in parts) if fields["method"] in ("pool_features", "pool_opinions") else 1
    checked = evaluation["validation_episodes"] * len(fields["dataset"].split("+")) * networks
    seen = [
        part["config"]["epochs"] * part["config"]["n_way"] * IMAGES_PER_CLASS.get(part["dataset"], 600)
        for part in parts
    ]
    return {
        "pretraining": sum(part["time"] * images for part, images in zip(parts, seen, strict=True)),
        "grouping": sum(part["n"] for part in parts) * n["grouping_steps"] * n["images_per_class"],
        "recovery": made * n["scratch_steps" if c.get("recovery") == "scratch" else "adapt_steps"],
        "alignment": rounds
        * batch
        * n["align_sweeps"]
        * n["images_per_class"]
        * (1 + (c.get("alignment") == "variance")),
        "distillation": rounds * n["distill_steps"] * n["epochs"] * images,
        "replay": rounds * replayed * n["replay_episodes"] * own,
        "images": images,
        "answers": images * sum(part["time"] for part in parts),
        "meta_training": rounds * batch * n["episodes"] * own,
        "fusion": rounds * n["round_steps"],
        "rest": rounds * n["round_batches"] * batch * own,
        "monitor": (rounds // every if every else 0) * checked * episode(evaluation["validation_shots"], "test_steps"),
        "test": fields["n_episodes"] * networks * episode(c["n_shot"], "test_steps"),
    }


def spent(record: Record) -> dict[str, float]:
    """CPU seconds of a run's phases of half a second or more; test's and pre-training's are by the wall's clock."""
    phases = {name: value for name, value in record["seconds"].items() if not name.endswith("_cpu")}
    training, cpu = phases.pop("training"), record["seconds"].get("training_cpu")
    found = {name: phases.pop(name) for name in ("test", "pretraining") if name in phases}
    phases["rest"] = training - sum(phases.values())
    if cpu is not None and training > 1:
        found |= {name: value * cpu / training for name, value in phases.items()}
    return {name: value for name, value in found.items() if value >= 0.5}


def training_alone(phases: Mapping[str, float]) -> float:
    """Seconds of all phases but the test and the pool's pre-training."""
    return sum(seconds for phase, seconds in phases.items() if phase not in ("test", "pretraining"))


def earlier_runs(results: str | Path = "results", profile: str = "*") -> list[Record]:
    """The records of runs, of one profile or all, below a folder of results. Raises ValueError where there is none."""
    folders = sorted(Path(results).glob(f"{profile}/records"))
    records = [record for folder in folders for record in RecordStore(folder).all()]
    if runs := [r for r in records if r["evaluation"] and "training" in (r["seconds"] or {})]:
        return runs
    raise ValueError(f"there is no record of a run in {results}: costs are told by earlier records.")


class Costs:
    """Seconds and memory of runs, by records of earlier ones: a phase takes its `work` times a rate.

    The rate's logarithm is linear in the method's phase, the processor, the image size, the student's time an image,
    the generator's width and the precision.
    """

    def __init__(self, runs: Iterable[Record]) -> None:
        runs = list(runs)
        timed = ((run, *each) for run in runs for each in spent(run).items())
        phases = [(run, phase, seconds, work(run).get(phase, 1.0)) for run, phase, seconds in timed]
        self.cpu: str = Counter(run["cpu"] for run in runs).most_common(1)[0][0]
        self.phases = {(run["method"], phase) for run, phase, *_ in phases}
        self.peaks = [(run["method"], run["peak_memory_mib"], image_size(run)) for run in runs]
        self.columns = DictVectorizer(sparse=False)
        found = self.columns.fit_transform([_features(run, phase, run["cpu"]) for run, phase, *_ in phases])
        rates = [math.log(seconds / max(count, 1)) for *_, seconds, count in phases]
        n = found.shape[1]
        x, y = np.vstack([found, 0.1 * np.eye(n)]), np.append(rates, np.zeros(n))  # a slight ridge
        how = {"loss": "soft_l1", "f_scale": 0.1, "xtol": 1e-14, "ftol": 1e-14, "gtol": 1e-12}  # outliers count less
        found = least_squares(lambda w: x @ w - y, np.zeros(n), jac=lambda w: x, **how).x
        self.weights = found.round(6)  # the digits beyond depend on the processor

    def seconds(self, fields: Fields, cpu: str | None = None) -> dict[str, float]:
        """CPU seconds of each phase of a run by its record's fields; of a method without records, of the pool alone.

        cpu: a processor as a record names it, that of most records if None
        """
        own = {phase for method, phase in self.phases if method == fields["method"]} | {"pretraining"}
        known = work(fields)
        counts = {phase: count for phase in sorted(own) if (count := known.get(phase, 1.0))}
        rates = self.columns.transform([_features(fields, phase, cpu or self.cpu) for phase in counts]) @ self.weights
        return {phase: count * math.exp(rate) for (phase, count), rate in zip(counts.items(), rates, strict=True)}

    def memory_mib(self, fields: Fields) -> float:
        """Peak memory of a run: the most of its method's records, where what is above the least of all ∝ pixels."""
        least = min(peak for _, peak, _ in self.peaks)
        own = [(peak - least) / size**2 for method, peak, size in self.peaks if method == fields["method"]]
        return least + max(own, default=0) * image_size(fields) ** 2


def _features(fields: Fields, phase: str, cpu: str) -> dict[str, float]:
    c, size = fields["config"], image_size(fields)
    features = {cpu: 1.0, "size": math.log(size / 32)}
    if phase == "pretraining":
        return features | {phase: 1.0, "float32": float(_parts(fields)[0]["config"]["precision"] == "float32")}
    student, usual = ((c.get("arch", "conv4"), c.get("width")), ("conv4", None))
    time = math.log(network_size(*student, round(size))[0] / network_size(*usual, round(size))[0])
    features |= {f"{fields['method']} {phase}": 1.0, "network": time, f"network {phase}": time}
    if fields["precision"] == "float32" and phase not in ("test", "monitor", "images"):
        features |= {"float32": 1.0, f"float32 {phase}": 1.0}
    return features | ({"ngf": math.log(c.get("ngf", 32) / 32)} if phase == "recovery" else {})


def held_out(runs: Sequence[Record], folds: int = 10) -> list[tuple[Record, float]]:
    """Records with a training of 10 CPU seconds or more, and the seconds that the others tell over those it took.

    Held out together are the records of one method, config and data set, whatever their seeds.
    """
    of = [int(digest_of([run["method"], run["config"], run["dataset"]]), 16) % folds for run in runs]
    found = []
    for fold in range(folds):
        costs = Costs(run for run, own in zip(runs, of, strict=True) if own != fold)
        for run in (run for run, own in zip(runs, of, strict=True) if own == fold):
            told, took = training_alone(costs.seconds(run, run["cpu"])), training_alone(spent(run))
            found += [(run, told / took)] if told and took >= 10 else []
    return found


def jobs(served: Mapping[str, Sequence[Asked]], costs: Costs) -> dict[str, dict[str, Any]]:
    """Each part of a pool, and each training with its tests, by name: what it `needs`, and what it takes.

    seconds: of CPU on the records' processor, shared out to as many `threads` at most; None where they are not known
    memory_mib: the peak of a thread; bytes: of the weights that are kept
    """
    found: dict[str, dict[str, Any]] = {}
    for key, units in served.items():
        fields, needs = settings_of(*units[0]), []
        for part in fields["pool"]["parts"]:
            alone = {**fields, "method": None, "pool": {"parts": [{**part, "take": None}]}}
            needs.append("pool-" + digest_of(alone["pool"]))
            ((whole,), seconds) = _parts(alone), costs.seconds(alone)["pretraining"]
            own = {"memory_mib": costs.memory_mib(alone), "bytes": 4 * whole["weights"]}
            found[needs[-1]] = {"needs": [], "seconds": seconds, "threads": whole["n"], **own}
        told, c = [costs.seconds(settings_of(*each)) for each in units], fields["config"]
        weights = network_size(c.get("arch", "conv4"), c.get("width"), round(image_size(fields)))[1]
        own = {"memory_mib": costs.memory_mib(fields), "bytes": 4 * weights * len(units)}
        seconds = training_alone(told[0]) + sum(each.get("test", 0.0) for each in told)
        found[f"run-{key}"] = {"needs": needs, "seconds": seconds or None, "threads": 1, **own}
    return found


def wall_clock(found: Mapping[str, Fields], workers: int) -> float:
    """Seconds of `jobs` on some workers: pools first, then runs, the longest first, none before what it needs."""
    free, ended = [0.0] * workers, dict[str, float]()
    for name, job in sorted(found.items(), key=lambda item: (bool(item[1]["needs"]), -(item[1]["seconds"] or 0))):
        n = min(job["threads"], workers)
        free.sort()
        ended[name] = max([free[n - 1], *(ended[each] for each in job["needs"])]) + (job["seconds"] or 0) / n
        free[:n] = [ended[name]] * n
    return max(free)


def forecast(unit: Unit, profile: Profile, pool: Path | None, minutes: float | None) -> dict[str, Any]:
    """Pool, models, rounds or images, and seconds of a training; None for what is not known.

    seconds: the minutes', else by `Costs` of the records in the folder `results`, without validation checks
    """
    fields = settings_of(unit, profile)
    part = fields["pool"]["parts"][0] | ({"take": len(ModelPool.load(pool))} if pool else {})
    told = {"method": unit.method, "pool": str(pool or f"{unit.dataset}, profile {profile.name}")}
    told["models"] = part["take"] or part["config"]["n_models"]
    if minutes is not None:
        return told | {"seconds": 60 * minutes}
    c = fields["config"]
    told |= {"rounds": c["rounds"]} if "rounds" in c else {"images": sum(c.get(kind, 0) for kind in KINDS)}
    phases = {}
    with suppress(ValueError):  # no records
        phases = Costs(earlier_runs()).seconds(fields | {"pool": {"parts": [part]}})
    return told | {"seconds": round(training_alone(phases) - phases.get("monitor", 0)) or None}


def summary(profile: str, notebooks: str | Path, results: str | Path, workers: int, **given: Any) -> dict[str, Any]:
    """What all runs of a profile take: their number, hours, GiB, and how far such forecasts are to be trusted."""
    earlier = earlier_runs(results)
    costs, (served, _) = Costs(earlier), trainings(notebooks, PROFILE=profile, **given)
    found, ratios = jobs(served, costs), [ratio for _, ratio in held_out(earlier)]
    hours = {name: (job["seconds"] or 0) / 3600 for name, job in found.items()}
    runs = {name: job for name, job in found.items() if job["needs"]}
    return {
        "runs": sum(map(len, served.values())),
        "trainings": len(served),
        "trainings_not_known": sum(job["seconds"] is None for job in runs.values()),
        "core_hours_of_pools": sum(hours[name] for name in found.keys() - runs.keys()),
        "core_hours_of_runs": sum(hours[name] for name in runs),
        "hours_of_the_longest_run": max(hours[name] for name in runs),
        **{f"wall_clock_hours_of_{n}_workers": wall_clock(found, n) / 3600 for n in sorted({1, workers})},
        "memory_of_a_run_gib": max(job["memory_mib"] for job in runs.values()) / 1024,
        "disk_gib": sum(job["bytes"] for job in found.values()) / 2**30,
        "processor": costs.cpu,
        "held_out_records": len(ratios),
        "of_them_within_25_percent": sum(abs(ratio - 1) <= 0.25 for ratio in ratios),
    }

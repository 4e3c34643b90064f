"""One call from a pool to a learner, in some minutes: the sizes that fit into them, by a short trial."""

import os
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from freelib import fast
from freelib.datasets import FewShotDataset
from freelib.datasets.episodes import EpisodeSampler
from freelib.datasets.unlabelled import images_of
from freelib.environment import torch_threads
from freelib.meta_learner import MetaLearner
from freelib.methods import get_method
from freelib.methods.base import PRECISIONS, Monitor
from freelib.methods.pool_distillation import PoolDistillation
from freelib.models.pool import ModelPool
from freelib.progress import Progress
from freelib.run.evaluation import evaluate
from freelib.run.units import make_config
from freelib.storage import Checkpoint

KINDS = ("recovered", "procedural", "mixed")
PHASES = ("recovery", "images", "answers", "distillation")
PLANNED = 0.9
"""Share of the time that is planned for: a trial of a second is not exact."""
LEAST, INVERTED_FROM, MOST = 600, 12_000, 120_000
"""Images: the least; from where on a sixth of them is worth synthesising; and the most that were tried."""


def seconds_of_phases(rates: Mapping[str, float], sizes: Mapping[str, int]) -> list[float]:
    """Seconds of each of PHASES, by their seconds an image (shown to the student once) and those of the "warmup"."""
    n, recovered = sum(sizes[kind] for kind in KINDS) + sizes.get("n_unlabelled", 0), sizes["recovered"]
    recovery = recovered * rates["recovery"] + rates["warmup"] if recovered else 0.0
    return [recovery, n * rates["images"], n * rates["answers"], n * sizes["epochs"] * rates["distillation"]]


def chosen_sizes(rates: Mapping[str, float], seconds: float, given: int = 0) -> dict[str, Any]:
    """Images of each kind, epochs, and the batch's size that some seconds are best spent on.

    Of unlabelled images that are given, as many are taken as there is time for, and nothing is synthesised.

    By trials on CIFAR-FS with 40 teachers and on glyphs with 10: all epochs together may take three times what an
    image costs before, within 10 and 40 epochs; where a sixth is synthesised, half as many images do, from
    INVERTED_FROM on; 1,500 steps are worth more than large batches.
    """
    best: dict[str, Any] = {}
    for share, warmup, worth in ((0.0, 0.0, 1), (1 / 6, rates["warmup"], 2))[: 1 if given else 2]:
        before = rates["images"] + rates["answers"] + share * rates["recovery"]
        epochs = min(40, max(10, round(3 * before / rates["distillation"])))
        n = int(max(LEAST, min(MOST, (seconds - warmup) / (before + epochs * rates["distillation"]))))
        epochs = min(40, max(10, int(((seconds - warmup) / n - before) / rates["distillation"])))
        recovered, taken = int(share * n), min(given, n)
        drawn = round(0.3 * (n - taken))
        if not best or (n >= INVERTED_FROM and worth * n > sum(best[kind] for kind in KINDS)):
            best = {
                "recovered": recovered,
                "procedural": drawn,
                "mixed": n - recovered - drawn - taken,
                "epochs": epochs,
            }
            best |= {"n_unlabelled": taken} if given else {}
            best["batch_size"] = next((size for size in (128, 64) if n * epochs >= 1500 * size), 32)
    return best


def measured_rates(pool: ModelPool, config: Any, *, seed: int, inversion: bool) -> dict[str, float]:
    """Rates for `seconds_of_phases`, by a trial of 320 images; an inversion that is not tried takes 1e9 s."""
    small = {"recovered": int(inversion), "procedural": 160, "mixed": 160, "epochs": 1, "warmup_rounds": 0}
    small |= {"batch_size": min(64, config.batch_size)}
    log = PoolDistillation().meta_train(pool, replace(config, **small), seed=seed).log
    rates = {name: log.seconds[name] / sum(small[kind] for kind in KINDS) for name in PHASES}
    n_way = sum(len(description["class_names"]) for description in pool.descriptions) / len(pool)
    a_round, seconds = config.images_per_class * min(config.meta_batch, len(pool)) * n_way, log.seconds["recovery"]
    return rates | {"recovery": seconds / a_round if inversion else 1e9, "warmup": config.warmup_rounds * seconds}


class TimeLeft(Checkpoint):
    """Keeps nothing: what a training would keep tells how far it is, and so how many seconds are left."""

    def __init__(self, progress: Progress, phases: list[float], epochs: int) -> None:
        self.progress, self.phases, self.epochs, self.began = progress, phases, epochs, time.perf_counter()

    def load(self) -> None:
        return None

    def remove(self) -> None:
        return None

    def save(self, state: dict[str, Any]) -> None:
        shares = (1, "targets" in state, "targets" in state, state.get("epochs", 0) / self.epochs)
        done = sum(share * seconds for share, seconds in zip(shares, self.phases, strict=True))
        pace = (time.perf_counter() - self.began) / done if done else 1.0
        self.progress.note(f"{pace * (sum(self.phases) - done):.0f} s left")
        self.progress(round(done), round(sum(self.phases)))


def say(text: str) -> None:
    """A line on standard error, where progress is shown at all."""
    if os.environ.get("FREELIB_PROGRESS") != "off":
        sys.stderr.write(text + "\n")


def planned(
    pool: ModelPool,
    config: Any,
    minutes: float,
    progress: Progress,
    *,
    seed: int,
    named: Collection[str],
    images: Mapping[str, Tensor],
) -> tuple[Any, dict[str, Tensor], TimeLeft]:
    """The config with the sizes that fit into some minutes, which a line says, the images that there is time for, and
    what shows the time left.

    named: settings that are not to be chosen; images: unlabelled ones as `images_of` gives them
    """
    began, given = time.perf_counter(), len(images.get("images", ()))
    measured_rates(pool, config, seed=seed, inversion=False)  # pays for what is imported and read
    configs = [config] if "precision" in named else [replace(config, precision=each) for each in PRECISIONS]
    tried = [(measured_rates(pool, each, seed=seed, inversion=False), each) for each in configs]
    rates, config = min(tried, key=lambda pair: pair[0]["answers"] + 10 * pair[0]["distillation"])
    if minutes >= 2 and not given:
        with suppress(ValueError):  # models that can only be called are not inverted
            rates = measured_rates(pool, config, seed=seed, inversion=True)
    sizes = chosen_sizes(rates, PLANNED * 60 * minutes - (time.perf_counter() - began), given)
    phases = seconds_of_phases(rates, sizes)
    config = replace(config, **{name: value for name, value in sizes.items() if name not in named})
    kinds = {**dict(zip(KINDS, ("synthesised", *KINDS[1:]), strict=True)), "n_unlabelled": "unlabelled"}
    counts = ", ".join(f"{sizes[kind]:,} {name}" for kind, name in kinds.items() if kind in sizes)
    say(
        f"pool_distillation: {counts} images, shown to {len(pool)} teachers and {config.epochs} times to the student, "
        f"batches of {config.batch_size}, {config.precision}: about {sum(phases):.0f} s"
    )
    taken = {name: there[: config.n_unlabelled] for name, there in images.items()}
    return config, taken, TimeLeft(progress, phases, config.epochs)


def check_minutes(minutes: float | None, method: str, settings: Collection[str]) -> None:
    """Raises ValueError for minutes that are none, or that the method, with some settings named, can't be fitted to."""
    if minutes is not None and not 0 < minutes < 1e5:
        raise ValueError(f"minutes must be above 0, got {minutes}.")
    if minutes is not None and method != "pool_distillation":
        raise ValueError(f"minutes are for pool_distillation: {method} is sized by its settings, such as rounds.")
    if minutes is not None and (named := {*KINDS, "epochs"} & {*settings}):
        raise ValueError(f"minutes choose {', '.join(sorted(named))}: leave out one or the other.")


@contextmanager
def both_cores() -> Iterator[None]:
    """In the body, models and tasks a core each, as in a run's workers: more than operations split over cores do."""
    with fast.episode_threads(torch.get_num_threads()), torch_threads(1):
        yield


def meta_train(
    pool: ModelPool,
    minutes: float | None = None,
    method: str = "pool_distillation",
    seed: int = 0,
    n_shot: int = 1,
    validation: FewShotDataset | None = None,
    images: Any = None,
    **settings: Any,
) -> MetaLearner:
    """A learner out of a pool, in a few minutes of this machine.

    minutes: for pool_distillation, 5 by default; a trial of some seconds decides on its images and epochs. So two
      runs differ. What `learner.config` says of both, as settings in the minutes' place, gives the same bits
    method, settings: a name from `freelib methods`, or "module:Class", and fields of its config
    n_shot: images a class in the validation, and in methods that train for a number of them
    validation: a data set on which 100 episodes are tried; a method that does so several times keeps its best round

    images: unlabelled ones for pool_distillation or ldfml: a folder, a data set or its name, or a tensor; see
      `unlabelled_images`

    Raises ValueError for settings that do not fit the method, and for minutes that are not for it.

    >>> from freelib.models.backbones import build_backbone
    >>> from freelib.models.pretrained import PretrainedModel
    >>> network = build_backbone("conv4", n_way=5, image_size=16, width=8)
    >>> about = {"mean": [0.5] * 3, "std": [0.25] * 3, "image_size": 16}
    >>> pool = ModelPool.from_models([PretrainedModel(network, class_names=list("abcde"), **about)])
    >>> meta_train(pool, minutes=0.05, width=8).head
    'prototypes'
    """
    found, config = get_method(method), make_config(method, {"n_shot": n_shot} | settings)
    check_minutes(minutes, method, settings)
    if found.oracle:
        raise ValueError(f"{method} needs real images: get_method({method!r}).meta_train takes them.")
    if minutes is None and method == "pool_distillation" and not settings.keys() & {*KINDS, "epochs"}:
        minutes = 5.0
    monitor, time_left = None if validation is None else _monitor(validation, config), None
    more = images_of(config, images, size=pool.image_size, channels=pool.channels, seed=seed)
    with both_cores(), Progress(method) as progress:
        if minutes is not None:
            config, more, time_left = planned(pool, config, minutes, progress, seed=seed, named=settings, images=more)
        learner = found.meta_train(pool, config, seed=seed, monitor=monitor, checkpoint=time_left, **more)
    learner.config = config
    return learner


def _monitor(validation: FewShotDataset, config: Any) -> Monitor:
    shape = {"n_way": config.n_way, "n_shot": config.n_shot, "n_query": config.n_query}
    sampler = EpisodeSampler(validation, **shape, seed=2)

    def score(number: int, learner: MetaLearner) -> float:
        found = evaluate(learner, sampler, 100)
        say(f"round {number}: {found.mean:.1f} ± {found.ci95:.1f} % on 100 episodes of {validation.name}")
        return found.mean

    return score

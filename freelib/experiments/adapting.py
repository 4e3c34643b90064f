"""Pool distillation's student at test time: with and without centring, and by gradient steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from freelib.datasets.episodes import Episode, EpisodeSampler, class_major_labels
from freelib.experiments.beyond import EXPERIMENT, METHOD, REVISION, score_centres, shots_of, tested_on
from freelib.meta_learner import MetaLearner
from freelib.methods.base import build_student
from freelib.models.backbones import Backbone
from freelib.run.evaluation import mean_and_interval, paired_difference
from freelib.run.measure import NotMeasuredError, measured
from freelib.run.pools import get_pool
from freelib.run.profiles import Profile, get_profile
from freelib.run.records import Record, RecordStore
from freelib.run.runner import TEST_SEED, Run, learner_file
from freelib.run.units import Unit
from freelib.show.tables import DATASET_TITLES, signed
from freelib.storage import load_tensors

CENTRING, STEPS = f"{METHOD} centring", f"{METHOD} adapting"
WAYS = {"means": "nearest class means", "anil": "the last layer", "maml": "all weights"}
"""What adapts to an episode; the gradient steps start from the class means, and nothing is centred."""
SCALE = 10.0
"""Of the cosines that are the first logits, as in `prototype_logits`."""


def trained_student(run: Run) -> MetaLearner:
    """The student that a run left in the cache. Raises FileNotFoundError where there is none."""
    config, weights = run.settings["config"], load_tensors(learner_file(run.digest, run.cache))
    pool = get_pool(run.unit.dataset, run.profile, run.unit.seed, cache=run.cache)
    learner = build_student(pool, config, seed=run.unit.seed)
    learner.centre = config.centre
    learner.backbone.load_state_dict(weights)
    return learner


def _of_kept_students(
    method: str,
    measure: Callable[[Run], dict[str, Any]],
    profile: str | Profile,
    results: str | Path,
    datasets: Sequence[str] | None,
    cache: str | Path | None,
) -> list[Record]:
    """A measurement's record for each data set whose student, or record, is kept."""
    profile = get_profile(profile).for_experiment(EXPERIMENT)
    store = RecordStore(Path(results) / profile.name / "records")
    records = []
    for dataset in datasets or profile.datasets:
        run = Run(Unit(EXPERIMENT, METHOD, dataset, profile.shots[0], profile.seeds[0]), profile, cache)
        about = asdict(run.settings["config"]) | tested_on(run, "test")
        with suppress(FileNotFoundError, NotMeasuredError):  # no student, and no record
            records.append(measured(run, method, about, partial(measure, run), store, revision=REVISION))
    return records


def centring(
    profile: str | Profile,
    *,
    results: str | Path,
    datasets: Sequence[str] | None = None,
    cache: str | Path | None = None,
) -> list[Record]:
    """Accuracy of the trained students on the meta-test classes with and without centring, where kept."""

    def measure(run: Run) -> dict[str, Any]:
        return score_centres(run, trained_student(run), "test")

    return _of_kept_students(CENTRING, measure, profile, results, datasets, cache)


def uncentred(centred: Sequence[Record]) -> list[str]:
    """What `centring` found, in a sentence a data set."""
    sentences = []
    for record in centred:
        words = ((n, f"shot{'s' if n > 1 else ''}", record["extra"][f"{n} none"]) for n in shots_of(record))
        found = ", ".join(f"{value:.1f} % with {n} {shots}" for n, shots, value in words)
        title = DATASET_TITLES.get(record["dataset"], record["dataset"])
        sentences.append(f"{title}, without centring on the episode (not transductive), one seed: {found}.")
    return sentences


def with_a_head(learner: MetaLearner, n_way: int) -> MetaLearner:
    """A learner by gradient steps on a student's embedding: the same network, and a linear layer on it."""
    student = learner.backbone
    assert isinstance(student, Backbone)
    network = Backbone(student, student.n_way, n_way, student.arch, student.width).to(learner.device).eval()
    transform = learner.transform
    return MetaLearner(
        network,
        mean=transform.mean,
        std=transform.std,
        image_size=transform.image_size,
        inner_lr=learner.inner_lr,
        inner_steps=learner.inner_steps,
        precision=learner.precision,
    )


def predictions(learner: MetaLearner, episode: Episode, head: str, steps: int) -> Tensor:
    """Predictions `(n_query,)` after gradient steps on the support set, from a head of its class means.

    The head's weights are the classes' mean unit features, of length SCALE over the support's mean length of
    features: without a step it predicts the nearest class mean by cosine.
    head: "anil" steps the head, "maml" all weights
    """
    last = learner.backbone.head
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        features, labels = learner.embed(episode.support), episode.support_labels.to(learner.device)
        members = F.one_hot(labels, last.out_features).to(features.dtype)
        means = F.normalize(members.T @ F.normalize(features, dim=1), dim=1)
        last.weight.copy_(SCALE * means / features.norm(dim=1).mean())
        last.bias.zero_()
    learner.head = head
    return learner.adapt(episode.support, labels, steps=steps).predict(episode.query)


def score(learner: MetaLearner, sampler: EpisodeSampler, n_episodes: int) -> dict[str, list[float]]:
    """Accuracy of each episode in percent, by WAYS."""
    stepping = with_a_head(learner, sampler.n_way)
    labels = class_major_labels(sampler.n_way, sampler.n_query)
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    for episode in sampler.take(n_episodes):
        for way, accuracies in found.items():
            head, steps = ("anil", 0) if way == "means" else (way, stepping.inner_steps)
            right = predictions(stepping, episode, head, steps).cpu() == labels
            accuracies.append(round(float(right.double().mean()) * 100, 2))
    return found


def by_gradient_steps(
    profile: str | Profile,
    *,
    results: str | Path,
    datasets: Sequence[str] | None = None,
    cache: str | Path | None = None,
) -> list[Record]:
    """Accuracies of the trained students by WAYS on the meta-test classes, where kept."""
    return _of_kept_students(STEPS, _by_ways, profile, results, datasets, cache)


def _by_ways(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for n_shot in run.profile.shots:
        shape = {"n_way": run.profile.n_way, "n_shot": n_shot, "n_query": run.profile.n_query}
        sampler = EpisodeSampler(run.dataset("test"), **shape, seed=TEST_SEED)
        learner = trained_student(run)
        found[str(n_shot)] = score(learner, sampler, run.profile.n_episodes)
    return {"split": "test", "steps": learner.inner_steps, "lr": learner.inner_lr, "episodes": found}


def conclusion(records: Sequence[Record]) -> str:
    """What gradient steps bring or cost, in a line a data set and number of shots."""
    lines = []
    for record in records:
        extra, title = record["extra"], DATASET_TITLES.get(record["dataset"], record["dataset"])
        for n_shot, by_way in extra["episodes"].items():
            means, *rest = (torch.tensor(by_way[way], dtype=torch.float64) for way in WAYS)
            steps = f"{extra['steps']} steps of {extra['lr']}"
            gaps = ", ".join(
                f"{signed(*paired_difference(found, means))} by {steps} of {WAYS[way]}"
                for way, found in zip(list(WAYS)[1:], rest, strict=True)
            )
            words = f"{mean_and_interval(means)[0]:.1f} % by nearest class means"
            lines.append(f"{title}, {n_shot}-shot, not centred, one seed: {words}; {gaps}.")
    return "\n".join(lines)

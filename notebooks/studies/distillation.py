"""Pool distillation's student: what its training owes to each choice, and how it is best used at test time.

The student of a `Run` of pool distillation is measured in three ways, a record each. What the records hold is
compared in notebook 06.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from freelib.datasets.episodes import Episode, EpisodeSampler, class_major_labels
from freelib.folders import cache_folder
from freelib.inversion import InversionConfig
from freelib.meta_learner import MetaLearner
from freelib.methods.base import build_student
from freelib.methods.pool_distillation import PoolDistillation, PoolDistillationConfig, synthesised_images
from freelib.methods.training import TrainingLog
from freelib.models.backbones import Backbone
from freelib.models.pool import ModelPool
from freelib.run.evaluation import evaluate_centres
from freelib.run.measure import measured
from freelib.run.pools import get_pool
from freelib.run.records import Record
from freelib.run.runner import TEST_SEED, VALIDATION_SEED, Run, learner_file
from freelib.storage import Checkpoint, digest_of, load_tensors, plain, save_tensors

REVISION = PoolDistillation.revision
SCALE = 10.0
"""Of the cosines that are the logits before the first gradient step, as in `prototype_logits`."""


def variant(
    run: Run,
    config: PoolDistillationConfig,
    results: str | Path,
    *,
    group: str,
    label: str,
    n_stored: int,
    real: bool = False,
) -> Record:
    """The record of a student that is trained with another config, scored on the meta-validation classes.

    run: of pool distillation; gives the pool, the seed and the episodes. group, label: what is changed, for
      readers.
    n_stored: how many images are synthesised, once for all variants; each takes its first `config.recovered`.
    real: real meta-training images stand in for the synthesised ones (a real-data upper bound).

    `extra` is as `score_centres` gives it. Raises what `measured` raises.
    """
    about = {"group": group, "label": label, "real": real, **plain(config), **_episodes(run, "validation")}

    def make() -> dict[str, Any]:
        return score_centres(run, variant_student(run, config, n_stored=n_stored, real=real), "validation")

    return measured(run, f"{PoolDistillation.name} variant", about, make, results, revision=REVISION)


def centring(run: Run, results: str | Path) -> Record:
    """The record of a run's student on the meta-test classes, with each mean that may be taken off features.

    `extra` is as `score_centres` gives it. Raises what `measured` raises.
    """
    about = {**plain(run.settings["config"]), **_episodes(run, "test")}

    def make() -> dict[str, Any]:
        return score_centres(run, trained_student(run), "test")

    return measured(run, f"{PoolDistillation.name} centring", about, make, results, revision=REVISION)


def adapting(run: Run, results: str | Path) -> Record:
    """The record of a run's student on the meta-test classes by class means and by gradient steps from there.

    `extra["episodes"]` holds `score_steps` by the number of shots; `steps` and `lr` are the inner loop's.
    Raises what `measured` raises.
    """
    about = {**plain(run.settings["config"]), **_episodes(run, "test")}

    def make() -> dict[str, Any]:
        learner, n = trained_student(run), run.profile.n_episodes
        found = {str(s.n_shot): score_steps(learner, s, n) for s in _samplers(run, "test")}
        return {"split": "test", "steps": learner.inner_steps, "lr": learner.inner_lr, "episodes": found}

    return measured(run, f"{PoolDistillation.name} adapting", about, make, results, revision=REVISION)


def variant_student(run: Run, config: PoolDistillationConfig, *, n_stored: int, real: bool = False) -> MetaLearner:
    """The student of `variant`: distilled from images that are there already."""
    pool = get_pool(run.unit.dataset, run.profile, run.unit.seed)
    if real:
        images = run.datasets("train")[0].images
        rng = torch.Generator().manual_seed(run.unit.seed)
        images = images[torch.randperm(len(images), generator=rng)]
    else:
        images = stored_images(run, pool, replace(config, recovered=n_stored))
    with TemporaryDirectory() as folder:  # the method goes on from a checkpoint in which the images are made
        checkpoint = Checkpoint(Path(folder) / "images.pt")
        checkpoint.save({"recovered": images[: config.recovered], "log": TrainingLog().state_dict()})
        return PoolDistillation().meta_train(pool, config, seed=run.unit.seed, checkpoint=checkpoint)


def stored_images(run: Run, pool: ModelPool, config: PoolDistillationConfig) -> Tensor:
    """The images that pool distillation synthesises with a config, uint8; made once, kept in the cache."""
    own = {"recovered", "warmup_rounds", "meta_batch", "precision"}
    names = own | {field.name for field in fields(InversionConfig)}
    identity = {name: getattr(config, name) for name in names}
    digest = digest_of([pool.digest, identity, run.unit.seed, REVISION])
    file = cache_folder() / "beyond" / f"{digest}.safetensors"
    if not file.is_file():
        made = synthesised_images(pool, config, seed=run.unit.seed, log=TrainingLog())
        save_tensors(file, {"images": made})
    return load_tensors(file)["images"]


def trained_student(run: Run) -> MetaLearner:
    """The student that a run left in the cache; trained again where it is not there."""
    config, file = run.settings["config"], learner_file(run.digest)
    pool = get_pool(run.unit.dataset, run.profile, run.unit.seed)
    if not file.is_file():
        return PoolDistillation().meta_train(pool, config, seed=run.unit.seed)
    learner = build_student(pool, config, seed=run.unit.seed)
    learner.centre = config.centre
    learner.backbone.load_state_dict(load_tensors(file))
    return learner


def score_centres(run: Run, learner: MetaLearner, split: str) -> dict[str, Any]:
    """Accuracies in percent: "1 none", "1 support", "1 episode" are means at one shot with each centre.

    "1 episodes" are those of the single episodes with the learner's own centre; other shots likewise. "split"
    and "training", its seconds by phase, come with them.
    """
    found: dict[str, Any] = {}
    for sampler in _samplers(run, split):
        for centre, score in evaluate_centres(learner, sampler, run.profile.n_episodes).items():
            found[f"{sampler.n_shot} {centre}"] = round(score.mean, 3)
            if centre == learner.centre:
                accuracies = [round(value, 2) for value in score.accuracies.tolist()]
                found[f"{sampler.n_shot} episodes"] = accuracies
    seconds = {} if learner.log is None else learner.log.seconds
    return found | {"split": split, "training": {name: round(value, 1) for name, value in seconds.items()}}


def score_steps(learner: MetaLearner, sampler: EpisodeSampler, n_episodes: int) -> dict[str, list[float]]:
    """Accuracy of each episode in percent, by what adapts; nothing is centred.

    "means": the nearest class mean; "anil", "maml": the learner's inner steps of the last layer, or of all
    weights, that start there.
    """
    stepping = with_class_head(learner, sampler.n_way)
    labels = class_major_labels(sampler.n_way, sampler.n_query)
    n = stepping.inner_steps
    ways = {"means": ("anil", 0), "anil": ("anil", n), "maml": ("maml", n)}
    found: dict[str, list[float]] = {way: [] for way in ways}
    for episode in sampler.take(n_episodes):
        for way, (head, steps) in ways.items():
            right = predictions(stepping, episode, head, steps).cpu() == labels
            found[way].append(round(float(right.double().mean()) * 100, 2))
    return found


def with_class_head(learner: MetaLearner, n_way: int) -> MetaLearner:
    """A learner by gradient steps: the student's own network with a linear layer to class scores on it."""
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
    """Predictions `(n_query,)` after gradient steps on the support set that start from its class means.

    Steps that diverge predict no class: -1.

    The last layer's weights are the classes' mean unit features, of length SCALE over the support's mean
    length of features: without a step it predicts the nearest class mean by cosine.
    head: "anil" steps the last layer, "maml" all weights.
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
    try:
        return learner.adapt(episode.support, labels, steps=steps).predict(episode.query)
    except FloatingPointError:
        return torch.full((len(episode.query),), -1)


def _episodes(run: Run, split: str) -> dict[str, Any]:
    """What a score depends on besides the learner."""
    profile, seed = run.profile, VALIDATION_SEED if split == "validation" else TEST_SEED
    return {"split": split, "episode_seed": seed, "n_episodes": profile.n_episodes, "shots": profile.shots}


def _samplers(run: Run, split: str) -> list[EpisodeSampler]:
    """The episodes of a split, for each of the profile's numbers of shots."""
    (dataset,), profile = run.datasets(split), run.profile
    seed = VALIDATION_SEED if split == "validation" else TEST_SEED
    return [
        EpisodeSampler(dataset, n_way=profile.n_way, n_shot=n_shot, n_query=profile.n_query, seed=seed)
        for n_shot in profile.shots
    ]

"""The notebook on one's own models: a folder as a user would have it, and what FREE makes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from freelib.datasets.episodes import EpisodeSampler
from freelib.experiments.scene import Scene
from freelib.meta_learner import MetaLearner
from freelib.methods.base import build_student
from freelib.methods.free import Free, FreeConfig
from freelib.models.own_models import Architecture
from freelib.models.pool import ModelPool, PretrainedModel
from freelib.models.pretraining import PoolConfig, accuracy_on, split_classes, train_classifier
from freelib.run.evaluation import evaluate
from freelib.run.measure import computed
from freelib.run.records import Record
from freelib.run.runner import TEST_SEED
from freelib.storage import save_tensors


class OwnModels(Scene):
    """Stands in for a user: trains a few classifiers and writes them as users do; then tests the learner."""

    experiment = "bring_your_own_models"

    def write_folder(
        self,
        folder: str | Path,
        architectures: Mapping[str, Architecture],
        *,
        classes: Sequence[int] = (3, 4, 5),
        images: int = 120,
        epochs: int = 8,
    ) -> None:
        """One model of each architecture for each number of classes; every other one as safetensors."""
        folder, train, rng = Path(folder), self.dataset("train"), self.rng()
        folder.mkdir(parents=True, exist_ok=True)
        config = PoolConfig(epochs=epochs, batch_size=64, device=self.config.device)
        names = [(arch, n) for n in classes for arch in architectures]
        for number, (arch, n) in enumerate(names):
            chosen = torch.randperm(train.n_classes, generator=rng)[:n].tolist()
            parts = split_classes(train, chosen, config.holdout, rng)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(number)
                module = architectures[arch](n).to(config.device)
            about: dict[str, Any] = {
                "class_names": [train.class_names[c] for c in chosen],
                "image_size": train.image_size,
            }
            about |= {"mean": list(train.mean), "std": list(train.std), "domain": train.name}
            model = PretrainedModel(module, **about)
            kept = torch.randperm(len(parts[0]), generator=rng)[: images * n]
            train_classifier(model, parts[0][kept], parts[1][kept], config, rng)
            accuracy = round(accuracy_on(model, parts[2], parts[3]), 4)
            file = folder / f"{arch}-{n}"
            if number % 2:
                save_tensors(file.with_suffix(".safetensors"), module.state_dict())
            else:
                torch.save(module.state_dict(), file.with_suffix(".pt"))
            card = {"arch": arch, **about, "accuracy": accuracy}
            file.with_suffix(".json").write_text(json.dumps(card, indent=1), encoding="utf-8")

    def sampler(self) -> EpisodeSampler:
        """Episodes of classes that no model knows."""
        return self.run.sampler("test", TEST_SEED)

    def record(self, learner: MetaLearner, pool: ModelPool, config: FreeConfig, *, episodes: int) -> Record:
        """Accuracy of the learner, and of the same student untrained, on the same episodes."""

        def measure() -> dict[str, float]:
            untrained = build_student(pool, config, seed=self.unit.seed)
            found: dict[str, float] = {}
            for name, each in (("free", learner), ("untrained", untrained)):
                score = evaluate(each, self.sampler(), episodes)
                found |= {name: score.mean, f"{name}_ci95": score.ci95}
            return found

        about = {"free": config, "pool": pool.digest, "data": self.dataset("test").digest, "n": episodes}
        return computed(
            self.experiment,
            "own_models",
            about,
            measure,
            self.store,
            seed=self.unit.seed,
            precision=config.precision,
            revision=Free.revision,
        )


def above(record: Record) -> bool:
    """Whether the learner's interval lies above the untrained student's."""
    extra = record["extra"]
    return bool(extra["free"] - extra["free_ci95"] > extra["untrained"] + extra["untrained_ci95"])

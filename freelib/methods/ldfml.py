"""Labeled-data-free meta-learning: MAML on unlabelled images, whose labels the pool's models give."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from freelib.datasets.episodes import Episode, images_to_float
from freelib.meta_learner import MetaLearner
from freelib.methods.base import Method
from freelib.methods.ensemble import for_inference
from freelib.methods.oracles import OracleConfig, maml_rounds
from freelib.methods.training import TrainingRun
from freelib.models.pretrained import PretrainedModel
from freelib.settings import later


@dataclass(frozen=True)
class LdfmlConfig(OracleConfig):
    """As `OracleConfig`; unlabelled, n_unlabelled: see `PoolDistillationConfig`."""

    unlabelled: str = later("")
    n_unlabelled: int = later(0)


@torch.no_grad()
def soft_labels(model: PretrainedModel, images: Tensor) -> Tensor:
    """Probabilities `(n, n_way_i)` that a model gives to images, uint8 `(n, C, H, W)`; on the CPU."""
    asked = for_inference(model, torch.float32)
    parts = (images_to_float(part.to(model.device)) for part in images.split(500))
    return torch.cat([asked(part).float().softmax(1).cpu() for part in parts])


def confidence_and_balance(labels: Tensor) -> tuple[float, float]:
    """Of soft labels `(n, n_way)`, both in [0, 1]: the mean highest probability, 0 for chance; and the mean label's
    entropy, 1 where all classes are equally frequent."""
    chance, frequency = 1 / labels.shape[1], labels.mean(0)
    confidence = (float(labels.amax(1).mean()) - chance) / (1 - chance)
    entropy = -torch.special.xlogy(frequency, frequency).sum()
    return confidence, float(entropy / torch.tensor(float(labels.shape[1])).log())


class Ldfml(Method):
    """Labeled-data-free meta-learning, as far as its abstract tells: no inversion, but unlabelled images.

    Sun, Tanaka, Iwata. 2026. arXiv 2607.02850; only the abstract was known. It needs the models' answers alone.
    Every model gives soft labels p_i(c | x) to the images; MAML learns from tasks made so, weighted by how confident
    and how balanced the labels are.
    Decided here: a task is of one model. Images of a class are drawn with probabilities in proportion to p_i(c | x),
    without replacement, so that the cross-entropy of the drawn labels is on average about that of soft ones, for
    balanced classes; and models are drawn in proportion to confidence × balance (`confidence_and_balance`), which
    weights the tasks on average.
    """

    name = "ldfml"
    title = "LDFML"
    citation = "Sun et al., Labeled-data-free meta-learning, 2026, arXiv 2607.02850"
    needs = "calls"
    images = "required"
    cost = "every image through every model once; rounds × batches × episodes of second-order MAML"
    Config = LdfmlConfig

    def train(self, run: TrainingRun) -> MetaLearner:
        """See `Method.train`. Raises ValueError where a model has other classes than the student, or images are few."""
        pool, config, rng, images = run.pool, run.config, run.rng, run.images
        assert images is not None
        per_class = config.n_shot + config.n_query
        if len(images) < per_class:
            raise ValueError(f"A class of an episode takes {per_class} images, and {len(images)} are given.")
        if (n_ways := {len(d["class_names"]) for d in pool.descriptions}) != {config.n_way}:
            raise ValueError(f"A {config.n_way}-way student can't learn the tasks of {sorted(n_ways)}-way models.")
        with run.log.phase("answers"):
            answers = torch.stack([soft_labels(pool[i], images) for i in range(len(pool))])
            weights = torch.tensor([math.prod(confidence_and_balance(own)) for own in answers]).clamp_min(1e-6)

        def episode() -> Episode:
            model = int(torch.multinomial(weights, 1, generator=rng))
            likely = answers[model].T.clamp_min(1e-12)  # (n_way, n)
            rows = torch.multinomial(likely, per_class, generator=rng)
            return Episode.of_classes(images_to_float(images[rows]), config.n_shot)

        return maml_rounds(run, lambda step: [episode() for _ in range(config.meta_batch)])

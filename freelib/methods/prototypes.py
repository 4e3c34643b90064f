"""What needs no training at all: what the pool's models make of images, and the nearest class mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from freelib.meta_learner import CENTRES, MetaLearner
from freelib.methods.base import Method, MethodConfig, stream_seed
from freelib.methods.ensemble import FeatureEnsemble, ProbabilityEnsemble
from freelib.methods.procedural import check_colour, procedural_images
from freelib.models.pool import ModelPool, PretrainedModel, check_features
from freelib.settings import check_above_zero, check_at_least, check_one_of


@dataclass(frozen=True)
class PoolFeaturesConfig(MethodConfig):
    """centre: the mean taken off the features: "none", the "support"'s, or the "episode"'s (transductive)."""

    head: str = "prototypes"
    centre: str = "episode"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one_of(self, head=("prototypes",), centre=CENTRES)  # what is frozen has no inner loop


def ensemble_learner(ensemble: nn.Module, pool: ModelPool, config: PoolFeaturesConfig) -> MetaLearner:
    """A nearest-class-mean learner on what an ensemble of the pool's models makes of images."""
    return MetaLearner(
        ensemble,
        mean=(0.0,) * pool.channels,  # each model normalises for itself: the learner leaves images as they are
        std=(1.0,) * pool.channels,
        image_size=pool.image_size,
        head=config.head,
        centre=config.centre,
        precision=config.precision,
    )


class PoolFeatures(Method):
    """The features of all models, each of unit length, concatenated; nearest class mean by cosine.

    Our own bar for one small student: no training, but every model at inference. It needs the models'
    features. p_c = the mean of class c's support features (Snell et al., NeurIPS 2017, arXiv 1703.05175,
    equation 1); where they take squared Euclidean distances, here are cosines.
    """

    name = "pool_features"
    title = "Feature-ensemble prototypes"
    citation = "freelib; nearest class mean after Snell et al., Prototypical Networks for Few-shot Learning, 2017"
    needs = "weights"
    uses_shots = False
    uses_seed = False
    cost = "no training; all models at test time"
    models_at_test: ClassVar[int | None] = None
    Config = PoolFeaturesConfig

    def choose(self, pool: ModelPool) -> Sequence[PretrainedModel]:
        """The models whose features count."""
        return pool

    def build(self, pool: ModelPool, config: PoolFeaturesConfig, *, seed: int) -> MetaLearner:
        """See `Method.build`; nothing is random. Raises TypeError where a model has no features."""
        models = list(self.choose(pool))
        check_features(models)
        return ensemble_learner(FeatureEnsemble(models), pool, config)


class BestTeacher(PoolFeatures):
    """The features of the model with the highest held-out accuracy; nearest class mean by cosine."""

    name = "best_teacher"
    title = "Best teacher"
    cost = "no training; one model at test time"
    models_at_test = 1

    def choose(self, pool: ModelPool) -> Sequence[PretrainedModel]:
        """The one best model."""
        return [pool.best()]


@dataclass(frozen=True)
class PoolOpinionsConfig(PoolFeaturesConfig):
    """temperature, whitening, embedding: of the `ProbabilityEnsemble`, fitted on `procedural` images."""

    temperature: float = 4.0
    whitening: float = 0.25
    embedding: int = 128
    procedural: int = 4000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, embedding=1, procedural=2)  # one image has no axes
        check_above_zero(self, "temperature")


class PoolOpinions(Method):
    """All models' probabilities, partly whitened (`ProbabilityEnsemble`); nearest class mean by cosine.

    Our own: what pool distillation teaches its student, before the student. The models are only called, but
    every one of them at inference.
    """

    name = "pool_opinions"
    title = "Probability-ensemble prototypes"
    citation = "freelib; nearest class mean after Snell et al., Prototypical Networks, 2017"
    needs = "calls"
    uses_shots = False
    models_at_test = None
    cost = "some procedural images through every model; all models at test time"
    Config = PoolOpinionsConfig

    def build(self, pool: ModelPool, config: PoolOpinionsConfig, *, seed: int) -> MetaLearner:
        """See `Method.build`; random are the procedural images alone. Raises ValueError for gray models."""
        check_colour(pool.channels, ", and pool_opinions knows no other images: take pool_features")
        rng = torch.Generator().manual_seed(stream_seed(seed, "images"))
        images = procedural_images(config.procedural, pool.image_size, rng, mean=pool.mean, std=pool.std)
        ensemble = ProbabilityEnsemble(pool, temperature=config.temperature, precision=config.precision)
        ensemble.fit(ensemble.answers(images), whitening=config.whitening, most=config.embedding)
        return ensemble_learner(ensemble, pool, config)

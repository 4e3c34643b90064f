"""What needs no training at all: the pool's own features and the nearest class mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freelib.meta_learner import CENTRES, MetaLearner
from freelib.methods.base import Method, MethodConfig, Monitor
from freelib.models.pool import ModelPool, PretrainedModel, check_features
from freelib.settings import check_one_of
from freelib.storage import Checkpoint


@dataclass(frozen=True)
class PoolFeaturesConfig(MethodConfig):
    """centre: the mean taken off the features: "none", the "support"'s, or the "episode"'s (transductive)."""

    head: str = "prototypes"
    centre: str = "episode"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one_of(self, head=("prototypes",), centre=CENTRES)  # what is frozen has no inner loop


class JointFeatures(nn.Module):
    """Features of several models, each of unit length, side by side: images in [0, 1] -> `(n, Σ d_i)`."""

    def __init__(self, models: Sequence[PretrainedModel]) -> None:
        super().__init__()
        self.models = list(models)
        self.members = nn.ModuleList([model.module for model in models])

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """`(n, C, H, W)` in [0, 1] -> `(n, Σ d_i)`."""
        return torch.cat([F.normalize(model.features(images).float(), dim=1) for model in self.models], dim=1)


def frozen_learner(
    models: Sequence[PretrainedModel], pool: ModelPool, config: PoolFeaturesConfig
) -> MetaLearner:
    """A nearest-class-mean learner on the joint features of some models."""
    # Each model normalises for itself, so the learner leaves images as they are.
    return MetaLearner(
        JointFeatures(models),
        mean=(0.0,) * pool.channels,
        std=(1.0,) * pool.channels,
        image_size=pool.image_size,
        head="prototypes",
        centre=config.centre,
        precision=config.precision,
    )


class PoolFeatures(Method):
    """The features of all models, each normalised, concatenated; nearest class mean by cosine.

    The bar for one small student: no training, but every model of the pool at test time.
    """

    name = "pool_features"
    title = "Pool features"
    citation = (
        "freelib; nearest class mean after Snell et al., Prototypical Networks for Few-shot Learning, 2017"
    )
    needs = "weights"
    uses_shots = False
    uses_seed = False
    cost = "no training; all models at test time"
    models_at_test: ClassVar[int | None] = None
    Config = PoolFeaturesConfig

    def choose(self, pool: ModelPool) -> Sequence[PretrainedModel]:
        """The models whose features count."""
        return pool

    def meta_train(
        self,
        pool: ModelPool,
        config: PoolFeaturesConfig,
        *,
        seed: int,
        monitor: Monitor | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> MetaLearner:
        """See `Method.meta_train`; there is nothing to train, and nothing random.

        Raises TypeError where a model has no features.
        """
        models = [model.to(config.device) for model in self.choose(pool)]
        check_features(models)
        return frozen_learner(models, pool, config)


class BestTeacher(PoolFeatures):
    """The features of the model with the highest held-out accuracy; nearest class mean by cosine."""

    name = "best_teacher"
    title = "Best teacher"
    cost = "no training; one model at test time"
    models_at_test = 1

    def choose(self, pool: ModelPool) -> Sequence[PretrainedModel]:
        """The one best model."""
        return [pool.best()]

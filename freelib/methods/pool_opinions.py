"""What the pool's answers are worth without any training: the joint opinion and the nearest class mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from freelib.meta_learner import MetaLearner
from freelib.methods.base import Method, Monitor, stream_seed
from freelib.methods.joint_opinion import JointOpinion
from freelib.methods.pool_features import PoolFeaturesConfig
from freelib.methods.procedural import check_colour, procedural_images
from freelib.models.pool import ModelPool
from freelib.settings import check_above_zero, check_at_least
from freelib.storage import Checkpoint


@dataclass(frozen=True)
class PoolOpinionsConfig(PoolFeaturesConfig):
    """temperature, whitening, embedding: of the joint opinion, its axes fitted on `procedural` images."""

    temperature: float = 4.0
    whitening: float = 0.25
    embedding: int = 128
    procedural: int = 4000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, embedding=1, procedural=2)  # one image has no axes
        check_above_zero(self, "temperature")


class PoolOpinions(Method):
    """All models' probabilities, partly whitened; nearest class mean by cosine.

    What pool distillation teaches its student, before the student: every model answers at test time.
    """

    name = "pool_opinions"
    title = "Pool opinions"
    citation = "freelib; nearest class mean after Snell et al., Prototypical Networks, 2017"
    needs = "calls"
    uses_shots = False
    models_at_test = None
    cost = "some procedural images through every model; all models at test time"
    Config = PoolOpinionsConfig

    def meta_train(
        self,
        pool: ModelPool,
        config: PoolOpinionsConfig,
        *,
        seed: int,
        monitor: Monitor | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> MetaLearner:
        """See `Method.meta_train`; random are the procedural images alone.

        Raises ValueError for a pool of gray models.
        """
        check_colour(pool.channels, ", and Pool opinions knows no other images: take pool_features")
        rng = torch.Generator().manual_seed(stream_seed(seed, "images"))
        images = procedural_images(config.procedural, pool.image_size, rng, mean=pool.mean, std=pool.std)
        models = [model.to(config.device) for model in pool]
        opinion = JointOpinion(models, temperature=config.temperature, precision=config.precision)
        opinion.fit(opinion.answers(images), whitening=config.whitening, most=config.embedding)
        # Each model normalises for itself, so the learner leaves images as they are.
        return MetaLearner(
            opinion,
            mean=(0.0,) * pool.channels,
            std=(1.0,) * pool.channels,
            image_size=pool.image_size,
            head=config.head,
            centre=config.centre,
            precision=config.precision,
        )

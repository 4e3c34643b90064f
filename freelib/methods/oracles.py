"""The oracles: meta-learning on the real meta-training images, which no data-free method sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from freelib import fast
from freelib.datasets import FewShotDataset
from freelib.datasets.episodes import EpisodeSampler
from freelib.meta_learner import MetaLearner
from freelib.methods.base import Method, MethodConfig, Monitor, build_student
from freelib.methods.training import TrainingRun
from freelib.models.pool import ModelPool
from freelib.settings import check_at_least
from freelib.storage import Checkpoint


@dataclass(frozen=True)
class OracleConfig(MethodConfig):
    """rounds of round_batches outer steps each, over meta_batch episodes of real images a step.

    lr: Adam's, of the outer step; second_order: MAML's outer gradient goes through the inner steps
    """

    rounds: int = 200
    round_batches: int = 10
    meta_batch: int = 4
    lr: float = 1e-3
    second_order: bool = True
    monitor_every: int = 10
    checkpoint_every: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, rounds=0, round_batches=1, meta_batch=1, lr=0)


class OracleMaml(Method):
    """Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, on the real meta-training images.

    Chelsea Finn, Pieter Abbeel, Sergey Levine. ICML 2017. arXiv 1703.03400.

    Of the pool, only image size and normalisation are used. Images are not augmented, as in the paper.
    """

    name = "oracle_maml"
    title = "MAML"
    citation = "Finn et al., Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, ICML 2017"
    needs = "data (oracle)"
    cost = "rounds × batches × episodes of second-order MAML"
    oracle = True
    Config: ClassVar[type[MethodConfig]] = OracleConfig

    def meta_train(
        self,
        pool: ModelPool,
        config: Any,
        *,
        seed: int,
        monitor: Monitor | None = None,
        checkpoint: Checkpoint | None = None,
        dataset: FewShotDataset | None = None,
    ) -> MetaLearner:
        """See `Method.meta_train`; `dataset` is the meta-training split. The log has each round's last batch.

        Raises ValueError without a data set, where it is too small for the episodes, and for another
        precision than float32 where there are inner steps.
        """
        if config.head != "prototypes" and config.precision != "float32":
            raise ValueError(f"{self.name} trains in float32, got precision={config.precision!r}.")
        if dataset is None:
            raise ValueError(f"{self.name} learns from real images: give dataset=, the meta-training split.")
        sampler = EpisodeSampler(
            dataset, n_way=config.n_way, n_shot=config.n_shot, n_query=config.n_query, seed=seed
        )
        rng = torch.Generator()  # a checkpoint has one; episodes depend on the seed and their number alone
        learner = build_student(pool, config, seed=seed)
        optimizer = torch.optim.Adam(learner.backbone.parameters(), lr=config.lr, fused=True)
        parts = {"optimizer": optimizer}
        run = TrainingRun(learner, parts, rng, config, monitor=monitor, checkpoint=checkpoint)
        log = run.log

        for round_number in run.rounds(config.rounds):
            with log.phase("training"):
                for batch in range(
                    (round_number - 1) * config.round_batches, round_number * config.round_batches
                ):
                    episodes = sampler.take(config.meta_batch, start=batch * config.meta_batch)
                    loss, accuracy = fast.maml_step(
                        learner,
                        [episode.to(config.device) for episode in episodes],
                        optimizer,
                        steps=config.inner_steps,
                        second_order=config.second_order,
                    )
            log.append(round=round_number, loss=loss, accuracy=accuracy)
        return run.finish()


@dataclass(frozen=True)
class OracleProtonetConfig(OracleConfig):
    """As `OracleConfig`; there are no inner steps."""

    head: str = "prototypes"


class OracleProtonet(OracleMaml):
    """Prototypical Networks for Few-shot Learning, on the real meta-training images.

    Jake Snell, Kevin Swersky, Richard Zemel. NeurIPS 2017. arXiv 1703.05175.

    The paper takes squared Euclidean distances. Ours are the library's cosines, scaled by 10: one rule serves
    every prototype head.
    """

    name = "oracle_protonet"
    title = "ProtoNet"
    citation = "Snell et al., Prototypical Networks for Few-shot Learning, NeurIPS 2017"
    cost = "rounds × batches × episodes, forward and backward"
    revision = 2  # trained as it is tested: support and queries apart, at the same precision
    Config = OracleProtonetConfig

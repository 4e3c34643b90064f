"""The oracles: meta-learning on the real meta-training images, which no data-free method sees."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from freelib import fast
from freelib.alignment import make_optimizer
from freelib.datasets import FewShotDataset
from freelib.datasets.episodes import Episode, EpisodeSampler
from freelib.meta_learner import MetaLearner
from freelib.methods.base import Method, MethodConfig
from freelib.methods.training import Monitor, TrainingRun
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


def maml_rounds(run: TrainingRun, draw: Callable[[int], Iterable[Episode]]) -> MetaLearner:
    """The rounds of a run with an `OracleConfig`: MAML's outer steps, step i on the episodes `draw(i)`, i from 0 on."""
    learner, config = run.learner, run.config
    optimizer = make_optimizer("adam", list(learner.params.values()), config.lr)
    rule: Any = {"steps": config.inner_steps, "second_order": config.second_order}
    n_steps = config.round_batches
    for round_number in run.rounds(config.rounds, optimizer=optimizer):
        with run.log.phase("training"):
            for step in range((round_number - 1) * n_steps, round_number * n_steps):
                episodes = [episode.to(config.device) for episode in draw(step)]
                loss, accuracy = fast.maml_step(learner, episodes, optimizer, **rule)
        run.log.append(round=round_number, loss=loss, accuracy=accuracy)
    return run.finish()


class OracleMaml(Method):
    """Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, on the real meta-training images.

    Chelsea Finn, Pieter Abbeel, Sergey Levine. ICML 2017. arXiv 1703.03400.

    A real-data upper bound: it needs the data; of the pool, image size and normalisation. Algorithm 2:
    θ'_i ← θ'_i − α ∇CE(θ'_i; support_i), from θ'_i = θ; then θ ← θ − Adam(∇_θ mean_i CE(θ'_i; query_i)).
    Decided here: 5 inner steps, 10 at test, as for every student; no augmentation, as in the paper.
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
        images: Tensor | None = None,
        dataset: FewShotDataset | None = None,
    ) -> MetaLearner:
        """See `Method.meta_train`; `dataset` is the meta-training split. The log has each round's last batch.

        Raises ValueError without a data set, where it is too small for the episodes, and for another
        precision than float32 where there are inner steps.
        """
        self.check_images(images, pool)
        if config.head != "prototypes" and config.precision != "float32":
            raise ValueError(f"{self.name} trains in float32, got precision={config.precision!r}.")
        if dataset is None:
            raise ValueError(f"{self.name} learns from real images: give dataset=, the meta-training split.")
        sampler = EpisodeSampler(dataset, n_way=config.n_way, n_shot=config.n_shot, n_query=config.n_query, seed=seed)
        learner = self.build(pool, config, seed=seed)
        rng = torch.Generator()  # a checkpoint has one; episodes depend on the seed and their number alone
        run = TrainingRun(learner, pool, config, rng, seed, monitor, checkpoint)
        return maml_rounds(run, lambda step: sampler.take(config.meta_batch, start=step * config.meta_batch))


@dataclass(frozen=True)
class OracleProtonetConfig(OracleConfig):
    """As `OracleConfig`; there are no inner steps."""

    head: str = "prototypes"


class OracleProtonet(OracleMaml):
    """Prototypical Networks for Few-shot Learning, on the real meta-training images.

    Jake Snell, Kevin Swersky, Richard Zemel. NeurIPS 2017. arXiv 1703.05175.

    A real-data upper bound: it needs the data. p_c = the mean of class c's support features (equation 1);
    p(y = c | x) = softmax_c of −distance(f(x), p_c) (equation 2).
    Decided here: −distance is a cosine, scaled by 10, where the paper takes squared Euclidean distances: one
    rule serves every prototype head. Episodes have as many classes in training as at test, the paper's more.
    """

    name = "oracle_protonet"
    title = "ProtoNet"
    citation = "Snell et al., Prototypical Networks for Few-shot Learning, NeurIPS 2017"
    cost = "rounds × batches × episodes, forward and backward"
    revision = 2  # trained as it is tested: support and queries apart, at the same precision
    Config = OracleProtonetConfig

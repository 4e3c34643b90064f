"""BiDf-MKD: a generator from scratch for every model, and distillation in two levels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from freelib.alignment import DistillationBatch, distillation_batch, make_optimizer
from freelib.distillation import kl_divergence
from freelib.generator import ScratchGenerator, SynthesisedTask
from freelib.inversion import InversionConfig, Student
from freelib.memory import TaskMemory
from freelib.meta_learner import MetaLearner
from freelib.methods.base import Method, MethodConfig, Monitor, build_student, stream_seed
from freelib.methods.black_box import BlackBox, black_box_model
from freelib.methods.training import TrainingRun, check_pool, replay_and_log
from freelib.models.pool import ModelPool, PretrainedModel
from freelib.replay import ReplayConfig
from freelib.storage import Checkpoint


@dataclass(frozen=True)
class BidfMkdConfig(MethodConfig, InversionConfig, ReplayConfig):
    """BiDf-MKD's settings; the defaults are the public release's where we know it.

    adapt_steps: passes of each generator; there is one for the support and one for the query set
    distill_steps, distill_lr: inner steps of distillation on the support set; outer_lr: of Adam
    adversarial_from: after so many batches, of distillation and of replay, queries seek the boundary
    rounds: of distillation on one drawn model, each followed by replay
    black_box, directions, mu: models are only called, see `ZeroOrder`

    meta_lr and memory_tasks have no part here.
    """

    adapt_steps: int = 200
    images_per_class: int = 30
    distill_steps: int = 10
    distill_lr: float = 0.01
    outer_lr: float = 1e-3
    adversarial_from: int = 4000
    replay_episodes: int = 4
    replay_patience: int = 200
    replay_batches: int = 1000
    rounds: int = 1000
    black_box: bool = False
    directions: int = 100
    mu: float = 0.005
    monitor_every: int = 10
    checkpoint_every: int = 10

    def __post_init__(self) -> None:
        for part in (MethodConfig, InversionConfig, ReplayConfig):
            part.__post_init__(self)
        if self.black_box and (self.lambda_bn or self.precision != "float32"):
            raise ValueError(
                "A black box shows no BatchNorm statistics, and forward differences need float32: set "
                f"lambda_bn=0 and precision='float32', got {self.lambda_bn} and {self.precision!r}."
            )


def boxed(
    model: PretrainedModel, pool: ModelPool, config: BidfMkdConfig, rng: torch.Generator
) -> PretrainedModel:
    """The model as one that can only be called; its names stay known."""
    return black_box_model(
        model.__call__,
        class_names=model.class_names,
        image_size=pool.image_size,
        channels=pool.channels,
        rng=rng,
        directions=config.directions,
        mu=config.mu,
        name=model.name,
        domain=model.domain,
    )


def shown(task: SynthesisedTask, config: BidfMkdConfig, rng: torch.Generator) -> DistillationBatch:
    """A recovered set as the student sees it."""
    return distillation_batch(task, rng, padding=config.augment_padding, flip=config.augment_flip)


def distillation_loss(learner: MetaLearner, params: dict[str, Tensor], batch: DistillationBatch) -> Tensor:
    """L_KD of the student under some weights: the mean over images of KL(teacher ‖ student); a scalar."""
    logits = learner.forward(params, learner.transform(batch.images))
    return kl_divergence(batch.teacher_logits, logits).mean()


def distilled_params(
    learner: MetaLearner, batch: DistillationBatch, config: BidfMkdConfig
) -> dict[str, Tensor]:
    """θ' = θ after `distill_steps` steps of gradient descent on L_KD, by name; differentiable in θ.

    second_order=False takes the steps' gradients as constants: dθ'/dθ is then the identity.
    """
    params = learner.params
    for _ in range(config.distill_steps):
        loss = distillation_loss(learner, params, batch)
        gradients = torch.autograd.grad(loss, list(params.values()), create_graph=config.second_order)
        params = {
            name: p - config.distill_lr * gradient
            for (name, p), gradient in zip(params.items(), gradients, strict=True)
        }
    return params


def frozen_student(learner: MetaLearner, params: dict[str, Tensor]) -> Student:
    """Logits of images in [0, 1] under some weights, differentiable with respect to the images alone."""
    fixed = {name: p.detach() for name, p in params.items()}
    return lambda images: learner.forward(fixed, learner.transform(images))


class BidfMkd(Method):
    """BiDf-MKD: Learning to Learn from APIs: Black-Box Data-Free Meta-Learning.

    Zixuan Hu, Li Shen, Zhenyi Wang, Baoyuan Wu, Chun Yuan, Dacheng Tao. ICML 2023. arXiv 2305.18413.

    A round: draw a model; train a generator from scratch for a support set; the student takes inner steps
    of distillation on it; a second generator makes the query set, near the decision boundary; the outer step
    follows the adapted student's distillation loss on the query set; both sets go into the memory; replay
    until it stalls.

    Our decisions, where we know no setting: support and query set have a generator each, of as many steps
    and images; the adversarial term holds the model against the *adapted* student, since before adaptation
    the two agree on a class by chance only; images are cropped and flipped as in FREE; a batch of replay is
    4 episodes, a replay at most 1,000 batches. The gradients of the models are used unless black_box is set:
    our tables give it more than the paper's setting of APIs does.
    """

    name = "bidf_mkd"
    title = "BiDf-MKD"
    citation = "Hu et al., Learning to Learn from APIs: Black-Box Data-Free Meta-Learning, ICML 2023"
    needs = "gradients"  # or calls alone, with black_box=True
    cost = "rounds × 2 generators × adapt_steps generate-forward-backward passes, and replay"
    revision = 1
    Config = BidfMkdConfig

    def meta_train(
        self,
        pool: ModelPool,
        config: BidfMkdConfig,
        *,
        seed: int,
        monitor: Monitor | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> MetaLearner:
        """See `Method.meta_train`. The log holds losses, teacher agreement, seconds by phase and passes.

        Raises ValueError where a model tells apart another number of classes than the student, and for what
        `check_pool` finds.
        """
        n_ways = {len(description["class_names"]) for description in pool.descriptions}
        if n_ways != {config.n_way}:
            raise ValueError(
                f"A {config.n_way}-way student can't be distilled from {sorted(n_ways)}-way models."
            )
        check_pool(pool, config)
        rng = torch.Generator().manual_seed(stream_seed(seed, "draws"))
        pool = pool.to(config.device)
        learner = build_student(pool, config, seed=seed)
        parameters = list(learner.params.values())
        optimizer = make_optimizer("adam", parameters, config.outer_lr)
        generators = ScratchGenerator(
            config,
            steps=config.adapt_steps,
            image_size=pool.image_size,
            device=config.device,
            precision=config.precision,
        )
        replay_optimizer = make_optimizer("adam", parameters, config.replay_lr)
        memory = TaskMemory(
            image_size=pool.image_size, batches_per_class=config.memory_batches, device=config.device
        )
        parts = {
            "optimizer": optimizer,
            "replay_optimizer": replay_optimizer,
            "memory": memory,
        }
        run = TrainingRun(learner, parts, rng, config, pool=pool, monitor=monitor, checkpoint=checkpoint)
        log = run.log

        for round_number in run.rounds(config.rounds):
            batches_done = round_number - 1 + sum(log.history.get("replay_batches", []))
            (model,) = pool.sample(1, rng)
            if config.black_box:
                model = boxed(model, pool, config, rng)
            with log.phase("recovery"):
                support = generators.adapt(model, None, rng)
            with log.phase("distillation"):
                adapted = distilled_params(learner, shown(support, config, rng), config)
            boundary = batches_done >= config.adversarial_from
            with log.phase("recovery"):
                student = frozen_student(learner, adapted) if boundary else None
                query = generators.adapt(model, student, rng)
            with log.phase("distillation"):
                loss = distillation_loss(learner, adapted, shown(query, config, rng))
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            log.iterations += 2 * config.adapt_steps
            log.append(
                round=round_number,
                inversion_loss=(support.losses[-1] + query.losses[-1]) / 2,
                teacher_agreement=(support.teacher_accuracy + query.teacher_accuracy) / 2,
                distillation_loss=loss.detach(),
            )
            if isinstance(model.module, BlackBox):
                log.append(images_asked=model.module.images_asked)
            memory.add([support, query])
            if round_number % config.replay_every == 0:
                replay_and_log(log, learner, memory, config, replay_optimizer, rng, config)
        return run.finish()

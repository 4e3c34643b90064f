"""FREE: the meta-generator and the aligned meta-learner together (algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from freelib import fast
from freelib.alignment import (
    AlignmentConfig,
    DistillationHeads,
    align,
    distillation_batch,
    gradient_agreement,
    make_optimizer,
    outer_optimizer,
)
from freelib.generator import MetaGenerator, ScratchGenerator, synthesise_round
from freelib.inversion import InversionConfig
from freelib.memory import TaskMemory
from freelib.meta_learner import MetaLearner
from freelib.methods.base import Method, MethodConfig, Monitor, build_student, stream_seed
from freelib.methods.training import TrainingRun, check_pool, replay_and_log
from freelib.models.pool import ModelPool
from freelib.replay import ReplayConfig
from freelib.settings import check_at_least, check_one_of
from freelib.storage import Checkpoint


@dataclass(frozen=True)
class FreeConfig(MethodConfig, InversionConfig, AlignmentConfig, ReplayConfig):
    """FREE's settings; the defaults are the public release's (brief, "[R]").

    warmup_rounds: the generator alone; rounds: the whole loop; meta_batch: models drawn a round
    monitor_every: rounds between looks at the validation classes (0: after the last round only)
    checkpoint_every, measure_every: rounds between saved states, between measurements of the gradients'
      agreement (0: never; nor where a round has one model, whose gradient has no other to agree with)
    recovery: "meta" is FIve; "scratch" a new generator for every model, trained for scratch_steps (ablation)
    """

    warmup_rounds: int = 20
    rounds: int = 1000
    meta_batch: int = 4
    monitor_every: int = 20
    checkpoint_every: int = 50
    measure_every: int = 0
    recovery: str = "meta"
    scratch_steps: int = 5

    def __post_init__(self) -> None:
        check_one_of(self, recovery=("meta", "scratch"))
        check_at_least(self, meta_batch=1, rounds=0, warmup_rounds=0, scratch_steps=1)
        for part in (MethodConfig, InversionConfig, AlignmentConfig, ReplayConfig):
            part.__post_init__(self)


def build_meta_generator(pool: ModelPool, config: FreeConfig, *, seed: int) -> MetaGenerator:
    """FIve's generator for a pool."""
    size, device, precision = pool.image_size, config.device, config.precision
    return MetaGenerator(
        config, image_size=size, channels=pool.channels, seed=seed, device=device, precision=precision
    )


def build_generator(pool: ModelPool, config: FreeConfig, *, seed: int) -> MetaGenerator | ScratchGenerator:
    """FIve's generator for a pool, or what stands in for it."""
    if config.recovery == "meta":
        return build_meta_generator(pool, config, seed=seed)
    size, device, precision = pool.image_size, config.device, config.precision
    steps = config.scratch_steps
    return ScratchGenerator(config, steps=steps, image_size=size, device=device, precision=precision)


class Free(Method):
    """FREE: Faster and Better Data-Free Meta-Learning.

    Yongxian Wei, Zixuan Hu, Zhenyi Wang, Li Shen, Chun Yuan, Dacheng Tao. CVPR 2024. arXiv 2405.00984.

    Algorithm 1: draw models; FIve recovers a task from each in five steps; first-order meta-step of the
    generator; BelL's aligned step of the student over the tasks; the images go into the memory; cross-task
    replay.
    """

    name = "free"
    title = "FREE"
    citation = "Wei et al., FREE: Faster and Better Data-Free Meta-Learning, CVPR 2024"
    needs = "gradients"
    cost = "rounds × models × 5 generate-forward-backward passes, and replay"
    revision = 2
    Config = FreeConfig

    def meta_train(
        self,
        pool: ModelPool,
        config: FreeConfig,
        *,
        seed: int,
        monitor: Monitor | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> MetaLearner:
        """See `Method.meta_train`. The log holds losses, teacher agreement, seconds by phase and passes.

        Raises ValueError for what `check_pool` finds.
        """
        check_pool(pool, config)
        rng = torch.Generator().manual_seed(stream_seed(seed, "draws"))
        pool = pool.to(config.device)
        learner = build_student(pool, config, seed=seed)
        heads = DistillationHeads.for_pool(learner, pool, config.kd_heads, seed=stream_seed(seed, "heads"))
        parameters = list(learner.params.values())
        distilled = [*parameters, *heads.params.values()]
        kd_optimizer = outer_optimizer(config, distilled)
        replay_optimizer = make_optimizer("adam", parameters, config.replay_lr)
        meta_generator = build_generator(pool, config, seed=stream_seed(seed, "generator"))
        memory = TaskMemory(
            image_size=pool.image_size, batches_per_class=config.memory_batches, device=config.device
        )
        parts = {
            "heads": heads,
            "kd_optimizer": kd_optimizer,
            "replay_optimizer": replay_optimizer,
            "generator": meta_generator,
            "memory": memory,
        }
        run = TrainingRun(learner, parts, rng, config, pool=pool, monitor=monitor, checkpoint=checkpoint)
        log, padding, flip = run.log, config.augment_padding, config.augment_flip

        for round_number in run.rounds(config.warmup_rounds + config.rounds, warmup=config.warmup_rounds):
            warm = round_number > config.warmup_rounds
            models = pool.sample(config.meta_batch, rng)
            with log.phase("recovery"):
                students = [fast.student_for(heads, model) if warm else None for model in models]
                tasks = synthesise_round(meta_generator, models, rng, students, adapt_each=fast.adapt_each)
            log.append(
                round=round_number,
                inversion_loss=torch.stack([task.losses[-1] for task in tasks]).mean(),
                teacher_agreement=torch.stack([task.teacher_accuracy for task in tasks]).mean(),
            )
            if warm:
                memory.add(tasks if config.memory_tasks == "all" else tasks[-1:])
                with log.phase("alignment"):
                    for sweep in range(config.align_sweeps):
                        if sweep:  # further sweeps look at what is remembered of any of the pool's models
                            remembered = (memory.recall(m, rng) for m in pool.sample(config.meta_batch, rng))
                            tasks = [task for task in remembered if task is not None] or tasks
                        batches = [
                            distillation_batch(task, rng, padding=padding, flip=flip) for task in tasks
                        ]
                        due = config.measure_every and round_number % config.measure_every == 0
                        if due and sweep == 0 and len(batches) > 1:
                            product, cosine = gradient_agreement(heads, batches, config.distillation)
                            log.append(measured_round=round_number, inner_product=product, cosine=cosine)
                        loss = align(heads, batches, config, kd_optimizer, rng)
                    log.append(distillation_loss=loss)
                if round_number % config.replay_every == 0:
                    replay_and_log(log, learner, memory, config, replay_optimizer, rng, config)
            log.iterations = meta_generator.iterations
        return run.finish()

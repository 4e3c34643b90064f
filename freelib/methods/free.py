"""FREE: the meta-generator and the aligned meta-learner together (algorithm 1)."""

from dataclasses import dataclass
from typing import Any

import torch

from freelib import fast
from freelib.alignment import (
    OPTIMIZERS,
    AlignmentConfig,
    DistillationHeads,
    align,
    distillation_batch,
    gradient_agreement,
    outer_optimizer,
)
from freelib.generator import MetaGenerator, ScratchGenerator, synthesise_round
from freelib.inversion import InversionConfig
from freelib.meta_learner import MetaLearner
from freelib.methods.base import Method, MethodConfig, stream_seed
from freelib.methods.training import CrossTaskReplay, TrainingRun
from freelib.models.pool import ModelPool
from freelib.replay import ReplayConfig
from freelib.settings import check_at_least, check_one_of, later


@dataclass(frozen=True)
class FreeConfig(MethodConfig, InversionConfig, AlignmentConfig, ReplayConfig):
    """FREE's settings; the defaults are the public release's, but for where it departs from the paper: see table 4.

    warmup_rounds: the generator alone; rounds: the whole loop; meta_batch: models drawn a round
    monitor_every: rounds between validation checks (0: after the last round only)
    checkpoint_every, measure_every: rounds between saved states, between measurements of the gradients'
      agreement (0: never; nor where a round has one model, whose gradient has no other to agree with)
    shared_adam: one Adam for the aligned outer step and for replay; replacement: a model can be drawn twice in a
      round (the public release has both)
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
    shared_adam: bool = later(False)
    replacement: bool = later(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shared_adam and (self.replay_lr != self.align_lr or OPTIMIZERS[self.align_optimizer][1] != "adam"):
            raise ValueError("shared_adam is one Adam: it takes replay_lr=align_lr, and no align_optimizer=sgd.")
        check_one_of(self, recovery=("meta", "scratch"))
        check_at_least(self, meta_batch=1, rounds=0, warmup_rounds=0, scratch_steps=1)


def build_meta_generator(pool: ModelPool, config: Any, *, seed: int) -> MetaGenerator:
    """FIve's generator for a pool; config: with the fields of `MethodConfig` and `InversionConfig`."""
    size, device, precision = pool.image_size, config.device, config.precision
    return MetaGenerator(config, image_size=size, channels=pool.channels, seed=seed, device=device, precision=precision)


def build_scratch_generator(pool: ModelPool, config: Any, *, steps: int) -> ScratchGenerator:
    """A generator of its own for every model of a pool; config: as for FIve's."""
    size, device, precision = pool.image_size, config.device, config.precision
    return ScratchGenerator(config, steps=steps, image_size=size, device=device, precision=precision)


def build_generator(pool: ModelPool, config: FreeConfig, *, seed: int) -> MetaGenerator | ScratchGenerator:
    """FIve's generator for a pool, or what stands in for it."""
    if config.recovery == "meta":
        return build_meta_generator(pool, config, seed=seed)
    return build_scratch_generator(pool, config, steps=config.scratch_steps)


class Free(Method):
    """FREE: Faster and Better Data-Free Meta-Learning.

    Yongxian Wei, Zixuan Hu, Zhenyi Wang, Li Shen, Chun Yuan, Dacheng Tao. CVPR 2024. arXiv 2405.00984.

    It needs the models' gradients with respect to images, and their BatchNorm statistics where λ_bn > 0.
    A round of algorithm 1 draws models M_i, of any architectures.
    FIve: k = 5 steps on L_G from θ_G synthesise a task of each; θ_G ← θ_G − Adam(Σ_i ∇L_G at the last step).
    BelL: θ̃ ← θ̃ − α ∇L_KD(θ̃; task_i), i in random order; then θ ← θ − β (θ − θ̃).
    Cross-task replay: MAML on episodes from the memory of synthesised images.

    Decided here: validation checks on the meta-validation classes; at most `replay_batches` of replay a
    round. The public release selects on the meta-test classes. Its student has one Adam for BelL and replay,
    which is fed 67 (θ − θ̃), and a batch of replay sums its losses. Its Adam of θ_G is new every round, β₁ =
    0.5. Its L_adv has a detached student, KL(student ‖ teacher), and probabilities for their logarithms, as
    has its L_KD (`distillation="release"`). It remembers a round's last task only (`memory_tasks="last"`).
    Its Conv4 starts from N(0, 2 / (9 · channels out)).
    """

    name = "free"
    title = "FREE"
    citation = "Wei et al., FREE: Faster and Better Data-Free Meta-Learning, CVPR 2024"
    needs = "gradients"
    cost = "rounds × models × 5 generator iterations, and replay"
    revision = 2
    Config = FreeConfig

    def train(self, run: TrainingRun) -> MetaLearner:
        """See `Method.train`. The log holds losses, teacher accuracy on synthesised images, seconds by phase.

        Raises ValueError where the models have another number of classes than one shared head, and what
        `CrossTaskReplay` does.
        """
        pool, config, learner, rng, log = run.pool, run.config, run.learner, run.rng, run.log
        heads = DistillationHeads.for_pool(learner, pool, config.kd_heads, seed=stream_seed(run.seed, "heads"))
        kd_optimizer = outer_optimizer(config, [*learner.params.values(), *heads.params.values()])
        replay = CrossTaskReplay(run, kd_optimizer if config.shared_adam else None)
        generator = build_generator(pool, config, seed=stream_seed(run.seed, "generator"))
        parts = {"heads": heads, "kd_optimizer": kd_optimizer, "generator": generator, **replay.parts}
        n_rounds, warmup = config.warmup_rounds + config.rounds, config.warmup_rounds

        for round_number in run.rounds(n_rounds, warmup=warmup, **parts):
            warm = round_number > warmup
            models = pool.sample(config.meta_batch, rng, replacement=config.replacement)
            with log.phase("recovery"):
                students = [fast.student_for(heads, model) if warm else None for model in models]
                tasks = synthesise_round(generator, models, rng, students, adapt_each=fast.adapt_each)
            log.append(
                round=round_number,
                inversion_loss=torch.stack([task.losses[-1] for task in tasks]).mean(),
                teacher_agreement=torch.stack([task.teacher_accuracy for task in tasks]).mean(),
            )
            if warm:
                replay.memory.add(tasks if config.memory_tasks == "all" else tasks[-1:])
                due = config.measure_every and round_number % config.measure_every == 0
                with log.phase("alignment"):
                    for sweep in range(config.align_sweeps):
                        if sweep:  # further steps: on tasks of any of the pool's models that are remembered
                            recalled = [replay.memory.recall(m, rng) for m in pool.sample(config.meta_batch, rng)]
                            tasks = [task for task in recalled if task is not None] or tasks
                        batches = [distillation_batch(task, rng, **config.crops) for task in tasks]
                        if sweep == 0 and due and len(batches) > 1:
                            product, cosine = gradient_agreement(heads, batches, config.distillation)
                            log.append(measured_round=round_number, inner_product=product, cosine=cosine)
                        loss = align(heads, batches, config, kd_optimizer, rng)
                    log.append(distillation_loss=loss)
                replay.step(round_number)
            log.iterations = generator.iterations
        return run.finish()

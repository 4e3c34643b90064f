"""BiDf-MKD: a generator from scratch for every model, and distillation in two levels."""

from dataclasses import dataclass
from functools import partial

from freelib.alignment import (
    DistillationBatch,
    DistillationHeads,
    distillation_batch,
    distillation_loss,
    make_optimizer,
)
from freelib.inversion import InversionConfig, Student
from freelib.meta_learner import MetaLearner, Params
from freelib.methods.base import Method, MethodConfig
from freelib.methods.black_box import BlackBox, black_box_model
from freelib.methods.free import build_scratch_generator
from freelib.methods.training import CrossTaskReplay, TrainingRun
from freelib.models.pool import PretrainedModel
from freelib.replay import ReplayConfig


@dataclass(frozen=True)
class BidfMkdConfig(MethodConfig, InversionConfig, ReplayConfig):
    """BiDf-MKD's settings; the defaults are the public release's where we know it, but for `rounds`.

    adapt_steps: iterations of each generator; there is one for the support and one for the query set
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
        super().__post_init__()
        if self.black_box and (self.lambda_bn or self.precision != "float32"):
            raise ValueError(
                "A black box shows no BatchNorm statistics, and forward differences need float32: set "
                f"lambda_bn=0 and precision='float32', got {self.lambda_bn} and {self.precision!r}."
            )


def distilled_params(learner: MetaLearner, batch: DistillationBatch, config: BidfMkdConfig) -> Params:
    """θ' = θ after `distill_steps` steps of gradient descent on L_KD, by name; differentiable in θ.

    second_order=False takes the steps' gradients as constants: dθ'/dθ is then the identity.
    """
    params, loss = learner.params, partial(distillation_loss, DistillationHeads(learner), batch=batch)
    for _ in range(config.distill_steps):
        gradient = learner.gradient(loss, params, config.second_order)
        params = {name: p - config.distill_lr * gradient[name] for name, p in params.items()}
    return params


def frozen_student(learner: MetaLearner, params: Params) -> Student:
    """Logits of images in [0, 1] under some weights, differentiable with respect to the images alone."""
    fixed = {name: p.detach() for name, p in params.items()}
    return lambda images: learner.forward(fixed, learner.transform(images))


def boxed(model: PretrainedModel, run: TrainingRun) -> PretrainedModel:
    """The model as one that can only be called; its names stay known."""
    about = {name: getattr(model, name) for name in ("class_names", "name", "domain")}
    shape = {"channels": run.pool.channels, "image_size": run.pool.image_size}
    directions, mu = run.config.directions, run.config.mu
    return black_box_model(model.__call__, rng=run.rng, directions=directions, mu=mu, **shape, **about)


class BidfMkd(Method):
    """BiDf-MKD: Learning to Learn from APIs: Black-Box Data-Free Meta-Learning.

    Zixuan Hu, Li Shen, Zhenyi Wang, Baoyuan Wu, Chun Yuan, Dacheng Tao. ICML 2023. arXiv 2305.18413.

    It needs the models' gradients with respect to images, or with `black_box` their answers alone.
    A round draws a model, of any architecture. A randomly initialised generator makes a support set.
    Inner loop, from θ' = θ: θ' ← θ' − distill_lr · ∇L_KD(θ'; support). Another generator makes a query set,
    near the decision boundary by L_adv. Outer step: θ ← θ − Adam(∇_θ L_KD(θ'; query)).
    Both sets are remembered; replay follows until it stalls.

    Decided here: two generators of as many steps and images; L_adv is against the *adapted* student, since
    before adaptation it agrees with the model by chance only; images are cropped and flipped as in FREE;
    replay takes 4 episodes a batch, and at most 1,000 batches. Our tables use gradients: that is more than
    the paper's setting of APIs gives. The public release trains for 60,000 batches, with L_adv after 4,000 of
    them. It keeps the images of lowest loss, starts generators from N(0, 0.02), and has a much smaller inner
    step.
    """

    name = "bidf_mkd"
    title = "BiDf-MKD"
    citation = "Hu et al., Learning to Learn from APIs: Black-Box Data-Free Meta-Learning, ICML 2023"
    needs = "gradients"  # or calls alone, with black_box=True
    cost = "rounds × 2 generators × adapt_steps generator iterations, and replay"
    revision = 1
    Config = BidfMkdConfig

    def needs_of_models(self, config: BidfMkdConfig) -> str:
        """Calls alone of black boxes."""
        return "calls" if config.black_box else self.needs

    def train(self, run: TrainingRun) -> MetaLearner:
        """See `Method.train`. The log holds losses, teacher accuracy on synthesised images, seconds by phase.

        Raises ValueError where a model has another number of classes than the student, and what
        `CrossTaskReplay` does.
        """
        pool, config, learner, rng, log = run.pool, run.config, run.learner, run.rng, run.log
        n_ways = {len(description["class_names"]) for description in pool.descriptions}
        if n_ways != {config.n_way}:
            raise ValueError(f"A {config.n_way}-way student can't be distilled from {sorted(n_ways)}-way models.")
        replay = CrossTaskReplay(run)
        optimizer = make_optimizer("adam", list(learner.params.values()), config.outer_lr)
        generators = build_scratch_generator(pool, config, steps=config.adapt_steps)

        for round_number in run.rounds(config.rounds, optimizer=optimizer, **replay.parts):
            batches_done = round_number - 1 + sum(log.history.get("replay_batches", []))
            (model,) = pool.sample(1, rng)
            if config.black_box:
                model = boxed(model, run)
            with log.phase("recovery"):
                support = generators.adapt(model, None, rng)
            with log.phase("distillation"):
                adapted = distilled_params(learner, distillation_batch(support, rng, **config.crops), config)
            boundary = batches_done >= config.adversarial_from
            with log.phase("recovery"):
                query = generators.adapt(model, frozen_student(learner, adapted) if boundary else None, rng)
            with log.phase("distillation"):
                shown = distillation_batch(query, rng, **config.crops)
                loss = distillation_loss(DistillationHeads(learner), adapted, shown)
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
            replay.memory.add([support, query])
            replay.step(round_number)
        return run.finish()

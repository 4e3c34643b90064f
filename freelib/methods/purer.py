"""PURER: a data set of learnable pixels, episodes that become harder, and calibration at test time."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from freelib import fast
from freelib.alignment import make_optimizer
from freelib.datasets.episodes import Episode
from freelib.generator import some_classes
from freelib.inversion import InversionConfig, inversion_loss
from freelib.memory import ClassKey
from freelib.meta_learner import MetaLearner
from freelib.methods.base import Method, MethodConfig
from freelib.methods.calibration import CalibratedLearner, CalibrationConfig
from freelib.methods.training import Kept, TrainingRun
from freelib.models.pool import ModelPool, PretrainedModel, check_batchnorm
from freelib.models.transform import channel_constants
from freelib.settings import check_at_least


@dataclass(frozen=True)
class PurerConfig(MethodConfig, CalibrationConfig):
    """PURER's settings; the defaults are the public release's where we know it, but for `rounds`.

    lambda_ce, lambda_bn, lambda_tv, lambda_l2: of the inversion loss; pixel_lr: of Adam, in units of the
      images' standard deviation; jitter: pixels by which images are shifted, at most
    rounds: of one pixel step and one batch of MAML; meta_batch: models drawn a round
    episodes, outer_lr, second_order: of a batch of MAML
    eci_start, eci_patience, eci_weight: after eci_start rounds, when training accuracy has not risen for
      eci_patience rounds, one pixel step also takes −eci_weight × the outer loss
    icfil: whether to calibrate at test time
    """

    lambda_ce: float = 1.0
    lambda_bn: float = 0.01
    lambda_tv: float = 1e-4
    lambda_l2: float = 1e-5
    pixel_lr: float = 0.01
    jitter: int = 2
    rounds: int = 10_000
    meta_batch: int = 13
    episodes: int = 4
    outer_lr: float = 1e-3
    second_order: bool = True
    eci_start: int = 4000
    eci_patience: int = 6
    eci_weight: float = 10.0
    icfil: bool = True
    monitor_every: int = 100
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, pixel_lr=0, jitter=0, rounds=0, meta_batch=1, episodes=1, outer_lr=0)
        check_at_least(self, eci_start=0, eci_patience=1)

    @property
    def inversion(self) -> InversionConfig:
        """The inversion loss's weights."""
        weights = {name: getattr(self, name) for name in ("lambda_ce", "lambda_bn", "lambda_tv", "lambda_l2")}
        return InversionConfig(**weights, lambda_adv=0.0)


def jittered(images: Tensor, pixels: int, rng: torch.Generator) -> Tensor:
    """Images `(n, C, H, W)`, all rolled by the same shift of up to `pixels` pixels in each direction."""
    down, right = torch.randint(-pixels, pixels + 1, (2,), generator=rng).tolist()
    return images.roll((down, right), (2, 3))


class DynamicDataset:
    """Learnable images of every class that a pool knows, shared by all models that know the class.

    What is learned are normalised pixels, from standard normal noise on; as images they are cut to [0, 1].
    Every class is a parameter of its own to Adam, so that a step moves the classes whose models were drawn
    and leaves the others, their moments and their step counts as they were.

    Raises ValueError where the pool knows fewer classes than an episode has.
    """

    def __init__(self, pool: ModelPool, config: PurerConfig, rng: torch.Generator) -> None:
        if len(pool.classes) < config.n_way:
            raise ValueError(f"The pool knows {len(pool.classes)} classes, too few for n_way={config.n_way}.")
        self.image_size = pool.image_size
        shape = (config.n_shot + config.n_query, pool.channels, pool.image_size, pool.image_size)
        self.mean = channel_constants(pool.mean, torch.empty(0, device=config.device))
        self.std = channel_constants(pool.std, self.mean)
        self.pixels: dict[ClassKey, Tensor] = {
            key: self._cut(torch.randn(shape, generator=rng).to(config.device)).requires_grad_() for key in pool.classes
        }
        self.optimizer = make_optimizer("adam", list(self.pixels.values()), config.pixel_lr)

    def _cut(self, pixels: Tensor) -> Tensor:
        """Normalised pixels within what images in [0, 1] can be, in place."""
        return torch.clamp(pixels, -self.mean / self.std, (1 - self.mean) / self.std, out=pixels)

    def images(self, keys: tuple[ClassKey, ...]) -> Tensor:
        """The images of some classes, class-major, `(len(keys) * per_class, C, H, W)` in [0, 1]."""
        return torch.cat([self.pixels[key] for key in keys]) * self.std + self.mean

    def invert(self, model: PretrainedModel, config: PurerConfig, rng: torch.Generator) -> Tensor:
        """Adds a model's gradient to its classes' pixels, of `most_classes` at once; gives (loss, accuracy), `(2,)`."""
        n = config.n_shot + config.n_query
        chosen = some_classes(torch.arange(model.n_way), n, self.image_size, rng)
        labels = chosen.repeat_interleave(n).to(self.mean.device)
        images = jittered(self.images(tuple(model.classes[label] for label in chosen)), config.jitter, rng)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            loss, logits = inversion_loss(model, images, labels, config.inversion)
        loss.backward()
        return torch.stack([loss.detach(), (logits.detach().argmax(1) == labels).float().mean()])

    def step(self) -> None:
        """One Adam step of the classes that have a gradient; the images stay in [0, 1]."""
        moved = [pixels for pixels in self.pixels.values() if pixels.grad is not None]
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for pixels in moved:
                self._cut(pixels)

    def episode(self, config: PurerConfig, rng: torch.Generator) -> Episode:
        """An episode of classes of any models, with all their images; differentiable in the pixels."""
        keys, images = list(self.pixels), []
        for i in torch.randperm(len(keys), generator=rng)[: config.n_way].tolist():
            pixels = self.pixels[keys[i]]
            images.append(pixels[torch.randperm(len(pixels), generator=rng).to(pixels.device)])
        return Episode.of_classes(torch.stack(images) * self.std + self.mean, config.n_shot)

    def challenge(self, learner: MetaLearner, config: PurerConfig, rng: torch.Generator) -> None:
        """Adds the gradient of −eci_weight × the outer loss to the pixels', not to the student's."""
        for _ in range(config.episodes):
            loss, _ = learner.query_loss(self.episode(config, rng), steps=config.inner_steps)
            (loss * (-config.eci_weight / config.episodes)).backward(inputs=list(self.pixels.values()))

    def state_dict(self) -> dict[str, Any]:
        pixels = [pixels.detach() for pixels in self.pixels.values()]
        return {"pixels": pixels, "optimizer": self.optimizer.state_dict()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for pixels, saved in zip(self.pixels.values(), state["pixels"], strict=True):
            pixels.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])


class Curriculum(Kept):
    """Says when training accuracy has stalled, so that the episodes are to become harder (ECI)."""

    kept: ClassVar = {"best": "best", "stalled": "stalled", "due": "due"}

    def __init__(self, patience: int) -> None:
        self.patience, self.best, self.stalled, self.due = patience, -1.0, 0, False

    def consider(self, accuracy: float) -> None:
        """`due` tells whether this accuracy is the patience-th in a row without a new best."""
        self.stalled = 0 if accuracy > self.best else self.stalled + 1
        self.best = max(self.best, accuracy)
        self.due = self.stalled >= self.patience
        if self.due:  # against harder episodes, accuracies of the easier ones are no measure
            self.best, self.stalled = -1.0, 0


class Purer(Method):
    """PURER: Architecture, Dataset and Model-Scale Agnostic Data-free Meta-Learning.

    Zixuan Hu, Li Shen, Zhenyi Wang, Tongliang Liu, Chun Yuan, Dacheng Tao. CVPR 2023. arXiv 2303.11183.

    It needs the models' gradients with respect to images, and their BatchNorm statistics where λ_bn > 0.
    A round draws models M_i, of any architectures. A step of Adam on the pixels of the dynamic data set
    descends Σ_i λ_ce CE + λ_bn BN + λ_tv TV + λ_l2 ‖x‖; then comes a step of MAML on episodes of any classes
    from them. Episode curriculum inversion (ECI): when training accuracy stalls, a step on the pixels also
    descends −eci_weight × the outer loss. At test time: inversion calibration following the inner loop
    (ICFIL).

    Decided here: one step of MAML for one on the pixels; one rolling jitter for all images of a model; pixels
    are normalised, and cut to what an image can be; the priors are over a model's whole batch; Adam's state
    (`DynamicDataset`); a curriculum that starts anew after a harder step (`Curriculum`), whose outer loss is
    a mean over episodes; ICFIL's loss and sizes (`CalibratedLearner`). The public release trains for 60,000
    batches, with ECI after 4,000 of them, and takes one inner step for CIFAR-FS at 1 shot. The 5 inner steps
    (10 at test) and 13 models here are PURER-Plus's, which sums losses cumulatively, so that its ECI weighs
    less.
    """

    name = "purer"
    title = "PURER"
    citation = "Hu et al., Architecture, Dataset and Model-Scale Agnostic Data-free Meta-Learning, CVPR 2023"
    needs = "gradients"  # and BatchNorm statistics, with lambda_bn above 0
    cost = "rounds × 13 forward-backward iterations of a model, and a batch of MAML"
    revision = 2  # calibrated as trained: pixels cut to [0, 1], real and inverted images apart
    Config = PurerConfig

    def ready(self, learner: MetaLearner, config: PurerConfig) -> MetaLearner:
        """See `Method.ready`: with ICFIL, where it is on."""
        return CalibratedLearner(learner, config.inversion, config) if config.icfil else learner

    def train(self, run: TrainingRun) -> MetaLearner:
        """See `Method.train`. The log holds losses, teacher accuracy on the pixels, seconds by phase.

        Raises ValueError where the pool knows too few classes, or a model lacks the statistics of λ_bn.
        """
        pool, config, learner, rng, log = run.pool, run.config, run.learner, run.rng, run.log
        if config.lambda_bn:
            check_batchnorm(pool)
        optimizer = make_optimizer("adam", list(learner.params.values()), config.outer_lr)
        dataset, curriculum = DynamicDataset(pool, config, rng), Curriculum(config.eci_patience)
        parts: Any = {"optimizer": optimizer, "dataset": dataset, "curriculum": curriculum}

        for round_number in run.rounds(config.rounds, **parts):
            models = pool.sample(config.meta_batch, rng)
            with log.phase("recovery"):
                results = [dataset.invert(model, config, rng) for model in models]
                if curriculum.due:
                    dataset.challenge(learner, config, rng)
                dataset.step()
            log.iterations += len(models)
            with log.phase("meta_training"):
                with torch.no_grad():
                    episodes = [dataset.episode(config, rng) for _ in range(config.episodes)]
                loss, accuracy = fast.maml_step(
                    learner, episodes, optimizer, steps=config.inner_steps, second_order=config.second_order
                )
            inversion_loss, teacher_accuracy = torch.stack(results).mean(0)
            log.append(
                round=round_number,
                inversion_loss=inversion_loss,
                teacher_agreement=teacher_accuracy,
                outer_loss=loss,
                training_accuracy=accuracy,
                harder=curriculum.due,
            )
            if round_number > config.eci_start:
                curriculum.consider(float(accuracy))
        return run.finish()

"""Pool distillation: one small student that places images as the pool as a whole would."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from freelib import fast
from freelib.datasets.episodes import images_to_float, images_to_uint8
from freelib.generator import MetaGenerator, synthesise_round
from freelib.inversion import InversionConfig
from freelib.meta_learner import CENTRES, MetaLearner
from freelib.methods.base import Method, MethodConfig, Monitor, build_student, stream_seed
from freelib.methods.joint_opinion import TEACH, JointOpinion, principal_axes
from freelib.methods.mixing import mixed_images
from freelib.methods.procedural import check_colour, procedural_images
from freelib.methods.training import Selection, TrainingLog, state_of_run
from freelib.models.backbones import Backbone
from freelib.models.pool import ModelPool, check_batchnorm
from freelib.models.transform import resized
from freelib.settings import check_above_zero, check_at_least, check_one_of
from freelib.storage import Checkpoint, digest_of


@dataclass(frozen=True)
class PoolDistillationConfig(MethodConfig, InversionConfig):
    """Settings of pool distillation; the inversion's are FIve's (`InversionConfig`), without a student.

    recovered, procedural, mixed: how many images of each kind; mixed ones are made of the other two
    warmup_rounds: rounds of recovery whose images are not kept; meta_batch: models a round
    temperature, teach, whitening: of the joint opinion (`JointOpinion`); embedding: its axes, and what the
      student gives out; student_whitening: of the student's own axes, after training
    epochs, batch_size, lr, weight_decay: of the student's AdamW, one cycle (Smith, 2018); lr is its peak
    relation_weight, place_weight: of the loss's two terms (`distillation_losses`); flip: mirrored images too
    centre: the mean taken off the features at test time, see `prototype_logits`
    """

    head: str = "prototypes"
    centre: str = "episode"
    lambda_bn: float = 0.05
    lambda_adv: float = 0.0
    ngf: int = 32
    recovered: int = 20_000
    procedural: int = 30_000
    mixed: int = 70_000
    warmup_rounds: int = 10
    meta_batch: int = 4
    temperature: float = 4.0
    teach: str = "probabilities"
    whitening: float = 0.25
    embedding: int = 128
    student_whitening: float = 0.4
    epochs: int = 10
    batch_size: int = 128
    lr: float = 5e-3
    weight_decay: float = 1e-2
    relation_weight: float = 10.0
    place_weight: float = 1.0
    flip: bool = True

    def __post_init__(self) -> None:
        for part in (MethodConfig, InversionConfig):
            part.__post_init__(self)
        check_one_of(self, head=("prototypes",), centre=CENTRES, teach=TEACH)  # what embeds has no inner loop
        check_at_least(self, recovered=0, procedural=0, mixed=0, warmup_rounds=0, meta_batch=1, embedding=1)
        check_at_least(self, epochs=1, batch_size=2, lr=0, weight_decay=0)
        check_above_zero(self, "temperature")
        if self.recovered + self.procedural < self.batch_size:
            raise ValueError(
                f"Distillation needs a batch of {self.batch_size} images, got {self.recovered} recovered "
                f"images and {self.procedural} procedural ones."
            )

    def backbone_fields(self) -> dict[str, Any]:
        """A student that gives out a place, not class scores, and embeds every image for itself."""
        return {"n_way": self.embedding, "embeds": True, "batch_stats": False}


def similarities(features: Tensor) -> Tensor:
    """Cosines `(n, n)` between features `(n, d)`, each without the batch's mean."""
    unit = F.normalize(features - features.mean(0), dim=1)
    return unit @ unit.T


def distillation_losses(hidden: Tensor, places: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """How far a student is from the pool's joint opinion of a batch: (relations, places), two scalars.

    hidden: what the student's last linear layer is given, `(n, d)`: its similarities against the targets',
      mean squared difference
    places: what that layer gives, `(n, r)`, against targets `(n, r)`: mean of 1 − cosine
    """
    relations = (similarities(hidden) - similarities(targets)).square().mean()
    return relations, (1 - F.cosine_similarity(places, targets, dim=1)).mean()


def one_cycle(step: int, steps: int, *, rise: float = 0.15) -> float:
    """Learning rate over its peak: a cosine from 1/25 up to 1, then down to 0 (Smith, 2018)."""
    top = rise * steps
    if step < top:
        return 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * step / top)) / 2
    return (1 + math.cos(math.pi * (step - top) / max(1.0, steps - top))) / 2


def recovered_images(
    pool: ModelPool, config: PoolDistillationConfig, *, seed: int, log: TrainingLog
) -> Tensor:
    """Images that FIve recovers from the pool's models, uint8 `(recovered, C, H, W)`."""
    if config.recovered == 0:
        return torch.empty(0, pool.channels, pool.image_size, pool.image_size, dtype=torch.uint8)
    rng = torch.Generator().manual_seed(stream_seed(seed, "recovery"))
    generator = MetaGenerator(
        config,
        image_size=pool.image_size,
        channels=pool.channels,
        seed=stream_seed(seed, "generator"),
        device=config.device,
        precision=config.precision,
    )
    found: list[Tensor] = []
    round_number = 0
    while sum(map(len, found)) < config.recovered:
        round_number += 1
        models = pool.sample(config.meta_batch, rng)
        tasks = synthesise_round(generator, models, rng, adapt_each=fast.adapt_each)
        accuracy = torch.stack([task.teacher_accuracy for task in tasks]).mean()
        log.append(round=round_number, teacher_agreement=accuracy)
        if round_number > config.warmup_rounds:
            found += [images_to_uint8(resized(task.images, pool.image_size)).cpu() for task in tasks]
    log.iterations = generator.iterations
    return torch.cat(found)[: config.recovered]


def all_images(pool: ModelPool, config: PoolDistillationConfig, recovered: Tensor, *, seed: int) -> Tensor:
    """The training images: recovered ones, procedural ones, and what is mixed from both; uint8."""
    rng = torch.Generator().manual_seed(stream_seed(seed, "images"))
    base = recovered
    if config.procedural:  # which a gray pool can do without
        drawn = procedural_images(config.procedural, pool.image_size, rng, mean=pool.mean, std=pool.std)
        base = torch.cat([recovered, drawn])
    return torch.cat([base, mixed_images(base, config.mixed, rng)])


def fit_opinion(opinion: JointOpinion, answers: Tensor, config: PoolDistillationConfig, *, seed: int) -> None:
    """Chooses the joint opinion's axes by some of the images' answers."""
    rng = torch.Generator().manual_seed(stream_seed(seed, "axes"))
    # Features are thousands of numbers wide: fewer rows keep the decomposition short.
    rows = torch.randperm(len(answers), generator=rng)[: 8000 if answers.shape[1] < 1000 else 2000]
    opinion.fit(answers[rows].float(), whitening=config.whitening, most=config.embedding)


class PoolDistillation(Method):
    """One student is taught where the pool as a whole would place an image; class means do the rest.

    Our own. FIve (Wei et al., CVPR 2024) recovers images; procedural images and mixtures of both add
    variety, which costs no gradients. Every image is shown once to all models: their probabilities, as
    Hellinger's distance sees them and partly whitened, say which images belong together, beyond any one
    model's five classes. The student learns these relations, and where each image is placed (relational
    distillation after Park et al., CVPR 2019). At test time: prototypes in the student's embedding.
    """

    name = "pool_distillation"
    title = "Pool distillation"
    citation = "freelib (this project); images by Wei et al., FREE, CVPR 2024"
    needs = "gradients"
    uses_shots = False
    cost = "recovery, every image through every model once, and distillation epochs"
    Config = PoolDistillationConfig

    def meta_train(
        self,
        pool: ModelPool,
        config: PoolDistillationConfig,
        *,
        seed: int,
        monitor: Monitor | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> MetaLearner:
        """See `Method.meta_train`. A killed run goes on after the last of: recovery, answers, an epoch."""
        if config.procedural:
            check_colour(pool.channels, ": set procedural=0")
        if config.recovered and config.lambda_bn:
            check_batchnorm(pool)
        pool = pool.to(config.device)
        learner, log = build_student(pool, config, seed=seed), TrainingLog()
        learner.centre = config.centre
        run = digest_of([config, seed, pool.digest])
        state = state_of_run(checkpoint, run) or {"run": run}
        if "log" in state:
            log.load_state_dict(state["log"])
        if "recovered" not in state:
            with log.phase("recovery"):
                state["recovered"] = recovered_images(pool, config, seed=seed, log=log)
            self._save(checkpoint, state, log)
        with log.phase("images"):
            images = all_images(pool, config, state["recovered"], seed=seed)
        if "targets" not in state:
            with log.phase("answers"):
                state["targets"] = self.targets(pool, config, images, seed=seed)
            self._save(checkpoint, state, log)
        optimizer = torch.optim.AdamW(
            learner.backbone.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
        if "student" in state:
            learner.backbone.load_state_dict(state["student"])
            optimizer.load_state_dict(state["optimizer"])
        targets = state["targets"].to(config.device)
        for epoch in range(state.get("epochs", 0), config.epochs):
            with log.phase("distillation"):
                relations, places = self.epoch(learner, optimizer, images, targets, config, epoch, seed=seed)
            log.append(epoch=epoch + 1, relations_loss=relations, places_loss=places)
            state |= {"student": learner.backbone.state_dict(), "optimizer": optimizer.state_dict()}
            self._save(checkpoint, state | {"epochs": epoch + 1}, log)
        learner.backbone.eval()
        whiten_embedding(learner, images[:: max(1, len(images) // 4000)], config.student_whitening)
        selection = Selection(learner, monitor, log, every=0)
        selection.consider(config.epochs, last=True)
        return selection.finish()

    def targets(
        self, pool: ModelPool, config: PoolDistillationConfig, images: Tensor, *, seed: int
    ) -> Tensor:
        """The joint opinion of every image, `(n, embedding)` float16; axes that are missing are 0."""
        opinion = JointOpinion(
            list(pool), temperature=config.temperature, teach=config.teach, precision=config.precision
        )
        answers = torch.cat([opinion.answers(part).half().cpu() for part in images.split(1024)])
        fit_opinion(opinion, answers, config, seed=seed)
        places = torch.cat([opinion.place_on_axes(part.float()) for part in answers.split(4096)])
        return F.pad(places, (0, config.embedding - places.shape[1])).half()

    def epoch(
        self,
        learner: MetaLearner,
        optimizer: torch.optim.Optimizer,
        images: Tensor,
        targets: Tensor,
        config: PoolDistillationConfig,
        epoch: int,
        *,
        seed: int,
    ) -> tuple[float, float]:
        """One epoch of distillation; means of the loss's two terms."""
        rng = torch.Generator().manual_seed(stream_seed(seed, f"epoch {epoch}"))
        network = learner.backbone.train()
        assert isinstance(network, Backbone)
        batches = list(_batches(len(images), config.batch_size, rng))
        totals = torch.zeros(2, device=config.device)
        for number, rows in enumerate(batches):
            progress = epoch * len(batches) + number, config.epochs * len(batches)
            for group in optimizer.param_groups:
                group["lr"] = config.lr * one_cycle(*progress)
            batch = images_to_float(images[rows].to(config.device))
            if config.flip:
                mirrored = torch.rand(len(batch), 1, 1, 1, generator=rng).to(config.device) < 0.5
                batch = torch.where(mirrored, batch.flip(3), batch)
            inputs = learner.transform(batch).contiguous(memory_format=torch.channels_last)
            with torch.autocast(config.device, torch.bfloat16, enabled=config.precision == "bfloat16"):
                hidden = network.encoder(inputs).flatten(1)
            hidden = hidden.float()
            wanted = targets[rows.to(config.device)].float()
            relations, places = distillation_losses(hidden, network.head(hidden), wanted)
            loss = config.relation_weight * relations + config.place_weight * places
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            totals += torch.stack([relations, places]).detach()
        means = (totals / len(batches)).tolist()
        return means[0], means[1]

    @staticmethod
    def _save(checkpoint: Checkpoint | None, state: dict[str, Any], log: TrainingLog) -> None:
        if checkpoint:
            checkpoint.save(state | {"log": log.state_dict()})


def _batches(n: int, size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Random rows in batches of one size; what is left over waits for the next epoch."""
    rows = torch.randperm(n, generator=rng)
    return iter(rows[: n // size * size].view(-1, size))


@torch.no_grad()
def whiten_embedding(learner: MetaLearner, images: Tensor, power: float) -> None:
    """Turns a student's embedding onto its own principal axes of some images, partly whitened, in place.

    The last layer is linear, and so is this: the network stays what it was, with other numbers.
    """
    places = torch.cat([learner.embed(part).cpu() for part in images.split(500)])
    mean, axes = principal_axes(places, whitening=power)
    head = learner.backbone.head
    assert isinstance(head, torch.nn.Linear)
    weight, bias = axes.T @ head.weight.cpu(), axes.T @ (head.bias.cpu() - mean)
    for parameter, value in ((head.weight, weight), (head.bias, bias)):
        parameter.zero_()
        parameter[: len(value)] = value.to(parameter.device)

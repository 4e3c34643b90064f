"""Pool distillation: one small student that embeds images as the pool's models together would."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from freelib import fast
from freelib.datasets.episodes import images_to_float, images_to_uint8
from freelib.generator import synthesise_round
from freelib.inversion import InversionConfig
from freelib.meta_learner import CENTRES, MetaLearner
from freelib.methods.base import Method, MethodConfig, stream_seed
from freelib.methods.ensemble import TEACH, ProbabilityEnsemble, principal_axes
from freelib.methods.free import build_meta_generator
from freelib.methods.mixing import mixed_images
from freelib.methods.procedural import check_colour, procedural_images
from freelib.methods.training import TrainingLog, TrainingRun, state_of_run
from freelib.models.backbones import Backbone
from freelib.models.pool import ModelPool, check_batchnorm
from freelib.models.transform import resized
from freelib.settings import check_above_zero, check_at_least, check_one_of, check_weights, later
from freelib.storage import digest_of, tensors_digest

MODELS_AT_ONCE = 16
"""Models that are in memory together while they answer."""


@dataclass(frozen=True)
class PoolDistillationConfig(MethodConfig, InversionConfig):
    """Settings of pool distillation; the inversion's are FIve's (`InversionConfig`), without a student.

    recovered, procedural, mixed: how many images are synthesised, procedural, and made of the other two
    unlabelled, n_unlabelled: a data set or folder, and how many of its images (0: all) a run gives as `images`
    warmup_rounds: rounds of inversion whose images are not kept; meta_batch: models a round
    temperature, teach, whitening: of the `ProbabilityEnsemble`; embedding: its axes, and the size of the
      student's embedding; student_whitening: of the student's own axes, after training
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
    unlabelled: str = later("")
    n_unlabelled: int = later(0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one_of(self, head=("prototypes",), centre=CENTRES, teach=TEACH)  # what embeds has no inner loop
        check_at_least(
            self, n_unlabelled=0, recovered=0, procedural=0, mixed=0, warmup_rounds=0, meta_batch=1, embedding=1
        )
        check_at_least(self, epochs=1, batch_size=2, lr=0, weight_decay=0)
        check_above_zero(self, "temperature")

    def backbone_fields(self) -> dict[str, Any]:
        """A student that gives out an embedding, not class scores, and embeds every image for itself."""
        return {"n_way": self.embedding, "embeds": True, "batch_stats": False}


def similarities(features: Tensor) -> Tensor:
    """Cosines `(n, n)` between features `(n, d)`, each without the batch's mean."""
    unit = F.normalize(features - features.mean(0), dim=1)
    return unit @ unit.T


def distillation_losses(hidden: Tensor, embeddings: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """How far a student is from the ensemble's embeddings of a batch: (relations, embeddings), two scalars.

    hidden: what the student's last linear layer is given, `(n, d)`: its `similarities` against the targets',
      mean squared difference
    embeddings: what that layer gives, `(n, r)`, against targets `(n, r)`: mean of 1 − cosine
    """
    relations = (similarities(hidden) - similarities(targets)).square().mean()
    return relations, (1 - F.cosine_similarity(embeddings, targets, dim=1)).mean()


def one_cycle(step: int, steps: int, *, rise: float = 0.15) -> float:
    """Learning rate over its peak: a cosine from 1/25 up to 1, then down to 0 (Smith, 2018)."""
    top = rise * steps
    if step < top:
        return 1 / 25 + (1 - 1 / 25) * (1 - math.cos(math.pi * step / top)) / 2
    return (1 + math.cos(math.pi * (step - top) / max(1.0, steps - top))) / 2


def synthesised_images(pool: ModelPool, config: PoolDistillationConfig, *, seed: int, log: TrainingLog) -> Tensor:
    """Images that FIve synthesises from the pool's models, uint8 `(config.recovered, C, H, W)`."""
    if config.recovered == 0:
        return torch.empty(0, pool.channels, pool.image_size, pool.image_size, dtype=torch.uint8)
    rng = torch.Generator().manual_seed(stream_seed(seed, "recovery"))
    generator = build_meta_generator(pool, config, seed=stream_seed(seed, "generator"))
    found: list[Tensor] = []
    round_number = 0
    while sum(map(len, found)) < config.recovered:
        round_number += 1
        models = pool.sample(config.meta_batch, rng)
        tasks = synthesise_round(generator, models, rng, adapt_each=fast.adapt_each)
        accuracy = torch.stack([task.teacher_accuracy for task in tasks]).mean()
        log.append(round=round_number, teacher_agreement=accuracy)
        check_weights(generator.generator.parameters(), config, f"round {round_number} of inversion")
        if round_number > config.warmup_rounds:
            found += [images_to_uint8(resized(task.images, pool.image_size)).cpu() for task in tasks]
    log.iterations = generator.iterations
    return torch.cat(found)[: config.recovered]


def all_images(pool: ModelPool, config: PoolDistillationConfig, given: Tensor, *, seed: int) -> Tensor:
    """The training images: synthesised and unlabelled ones, procedural ones, and what is mixed from all; uint8."""
    rng = torch.Generator().manual_seed(stream_seed(seed, "images"))
    base = given
    if config.procedural:  # which a gray pool can do without
        drawn = procedural_images(config.procedural, pool.image_size, rng, mean=pool.mean, std=pool.std)
        base = torch.cat([given, drawn])
    return torch.cat([base, mixed_images(base, config.mixed, rng)])


def ensemble_embeddings(pool: ModelPool, config: PoolDistillationConfig, images: Tensor, *, seed: int) -> Tensor:
    """What the student is taught: the ensemble's embedding of every image, `(n, embedding)` float16.

    Axes that the ensemble does not have are 0.
    """
    ensemble_of = partial(
        ProbabilityEnsemble, temperature=config.temperature, teach=config.teach, precision=config.precision
    )
    columns = []
    for start in range(0, len(pool), MODELS_AT_ONCE):  # so that a pool of any size fits into memory
        members = ensemble_of(pool[start : start + MODELS_AT_ONCE])
        columns.append(torch.cat([members.answers(part).half().cpu() for part in images.split(1024)]))
    answers, ensemble = torch.cat(columns, 1), ensemble_of([])
    rng = torch.Generator().manual_seed(stream_seed(seed, "axes"))
    # Features are thousands of numbers wide: fewer rows keep the decomposition short.
    rows = torch.randperm(len(answers), generator=rng)[: 8000 if answers.shape[1] < 1000 else 2000]
    ensemble.fit(answers[rows].float(), whitening=config.whitening, most=config.embedding)
    embeddings = torch.cat([ensemble.embed(part.float()) for part in answers.split(4096)])
    return F.pad(embeddings, (0, config.embedding - embeddings.shape[1])).half()


def distil_epoch(
    run: TrainingRun, optimizer: torch.optim.Optimizer, images: Tensor, targets: Tensor, epoch: int
) -> list[float]:
    """One epoch over images, uint8, and the ensemble's embeddings of them; means of the loss's two terms."""
    learner, config = run.learner, run.config
    rng = torch.Generator().manual_seed(stream_seed(run.seed, f"epoch {epoch}"))
    network = learner.backbone.train()
    assert isinstance(network, Backbone)
    n_batches = len(images) // config.batch_size  # what is left over waits for the next epoch
    rows = torch.randperm(len(images), generator=rng)[: n_batches * config.batch_size].to(config.device)
    mirrored = (torch.rand(len(rows), 1, 1, 1, generator=rng) < 0.5).to(config.device)
    totals = torch.zeros(2, device=config.device)
    for number, chosen in enumerate(rows.view(n_batches, -1)):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * one_cycle(epoch * n_batches + number, config.epochs * n_batches)
        batch = images_to_float(images[chosen])
        if config.flip:
            batch = torch.where(mirrored[number * len(batch) :][: len(batch)], batch.flip(3), batch)
        inputs = learner.transform(batch).contiguous(memory_format=torch.channels_last)
        with torch.autocast(config.device, torch.bfloat16, enabled=config.precision == "bfloat16"):
            hidden = network.encoder(inputs).flatten(1)
        hidden, wanted = hidden.float(), targets[chosen].float()
        relations, embeddings = distillation_losses(hidden, network.head(hidden), wanted)
        loss = config.relation_weight * relations + config.place_weight * embeddings
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        totals += torch.stack([relations, embeddings]).detach()
    return (totals / n_batches).tolist()


@torch.no_grad()
def whiten_embedding(learner: MetaLearner, images: Tensor, power: float) -> None:
    """Turns a student's embedding onto its own principal axes of some images, partly whitened, in place.

    The last layer is linear, and so is this: the network stays what it was, with other numbers.
    """
    embeddings = torch.cat([learner.embed(part).cpu() for part in images.split(500)])
    mean, axes = principal_axes(embeddings, whitening=power)
    head = learner.backbone.head
    assert isinstance(head, torch.nn.Linear)
    weight, bias = axes.T @ head.weight.cpu(), axes.T @ (head.bias.cpu() - mean)
    for parameter, value in ((head.weight, weight), (head.bias, bias)):
        parameter.zero_()
        parameter[: len(value)] = value.to(parameter.device)


class PoolDistillation(Method):
    """One student is taught how the pool's models together embed an image; class means do the rest.

    Our own. It needs the models' gradients with respect to images, and BatchNorm statistics where λ_bn > 0.
    FIve (Wei et al., CVPR 2024, arXiv 2405.00984) synthesises images; procedural images and mixtures of both
    add variety, which costs no gradients. Every image is shown once to all models: ψ, its embedding by their
    `ProbabilityEnsemble`, says which images belong together, beyond any one model's classes. The student's
    features f, and its last layer A, learn by (relational distillation after Park et al., CVPR 2019)
    relation_weight · mean_ij (cos(f_i, f_j) − cos(ψ_i, ψ_j))² + place_weight · mean_i (1 − cos(A f_i, ψ_i)).
    At test time: prototypes in the student's embedding.
    """

    name = "pool_distillation"
    title = "Pool distillation"
    citation = "freelib (this project); images by Wei et al., FREE, CVPR 2024"
    needs = "gradients"
    images = "optional"
    uses_shots = False
    cost = "model inversion, every image through every model once, and distillation epochs"
    Config = PoolDistillationConfig

    def needs_of_models(self, config: PoolDistillationConfig) -> str:
        """Gradients where images are synthesised, else what is taught."""
        return self.needs if config.recovered else "calls" if config.teach == "probabilities" else "weights"

    def train(self, run: TrainingRun) -> MetaLearner:
        """See `Method.train`. A killed run goes on after the last of: inversion, answers, an epoch."""
        pool, config, learner, log, seed = run.pool, run.config, run.learner, run.log, run.seed
        if config.procedural:
            check_colour(pool.channels, ": set procedural=0")
        if config.recovered and config.lambda_bn:
            check_batchnorm(pool)
        unlabelled = [] if run.images is None else [run.images]
        n_unlabelled = sum(map(len, unlabelled))
        if config.recovered + n_unlabelled + config.procedural < config.batch_size:
            raise ValueError(
                f"Distillation needs a batch of {config.batch_size} images, got {config.recovered} synthesised, "
                f"{n_unlabelled} unlabelled and {config.procedural} procedural ones."
            )
        learner.centre = config.centre
        weights = learner.backbone.parameters()
        optimizer = torch.optim.AdamW(weights, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        identity = digest_of([config, seed, pool.digest, *(tensors_digest({"images": x}) for x in unlabelled)])
        state = state_of_run(run.checkpoint, identity, config.epochs) or {"run": identity}
        if "log" in state:
            log.load_state_dict(state["log"])

        def save(**more: Any) -> None:
            state.update(more, log=log.state_dict())
            if run.checkpoint:
                run.checkpoint.save(state)

        if "recovered" not in state:
            with log.phase("recovery"):
                images = synthesised_images(pool, config, seed=seed, log=log)
            save(recovered=images)
        with log.phase("images"):
            images = all_images(pool, config, torch.cat([state["recovered"], *unlabelled]), seed=seed)
        if "targets" not in state:
            with log.phase("answers"):
                targets = ensemble_embeddings(pool, config, images, seed=seed)
            save(targets=targets)
        if "student" in state:
            learner.backbone.load_state_dict(state["student"])
            optimizer.load_state_dict(state["optimizer"])
        images, targets = images.to(config.device), state["targets"].to(config.device)
        for epoch in range(state.get("epochs", 0), config.epochs):
            with log.phase("distillation"):
                relations, embeddings = distil_epoch(run, optimizer, images, targets, epoch)
            run.check_weights(epoch + 1)
            log.append(epoch=epoch + 1, relations_loss=relations, places_loss=embeddings)
            save(student=learner.backbone.state_dict(), optimizer=optimizer.state_dict(), epochs=epoch + 1)
        learner.backbone.eval()
        whiten_embedding(learner, images[:: max(1, len(images) // 4000)], config.student_whitening)
        run.check(config.epochs)
        return run.finish()

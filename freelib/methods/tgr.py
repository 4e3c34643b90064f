"""TGR: distillation from groups of unlike models, whose gradients are kept from straying."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from sklearn.cluster import SpectralClustering
from torch import Tensor
from torch.func import functional_call, grad, vmap

from freelib.alignment import AlignmentConfig, DistillationHeads, align, distillation_batch, outer_optimizer
from freelib.inversion import InversionConfig
from freelib.meta_learner import MetaLearner
from freelib.methods.base import Method, MethodConfig, stream_seed
from freelib.methods.free import build_scratch_generator
from freelib.methods.training import CrossTaskReplay, Kept, TrainingRun
from freelib.models.pool import ModelPool
from freelib.models.pretrained import PretrainedModel
from freelib.replay import ReplayConfig
from freelib.settings import check_at_least, later

Fisher = list[Tensor]  # of each layer of the probe, one number a weight


@dataclass(frozen=True)
class TgrConfig(MethodConfig, InversionConfig, AlignmentConfig, ReplayConfig):
    """TGR's settings; the defaults are the public release's, but for `rounds`.

    groups: of unlike models; grouping_steps: generator iterations for the images that models are grouped by
    rounds: of meta_batch models of one group; invert_every: rounds between two inversions, of adapt_steps
      iterations from a new generator; in the others the models' tasks come from the memory, if it holds any
    monitor_every, checkpoint_every: rounds between validation checks, between saved states
    """

    lambda_bn: float = 1.0
    lambda_adv: float = 0.0
    adapt_steps: int = 200
    images_per_class: int = 30
    alignment: str = "variance"
    label_weight: float = later(1.0)
    replay_episodes: int = 16
    groups: int = 5
    grouping_steps: int = 200
    rounds: int = 1000
    meta_batch: int = 4
    invert_every: int = 4
    monitor_every: int = 20
    checkpoint_every: int = 10

    def __post_init__(self) -> None:
        if (self.align_sweeps, self.memory_tasks) != (1, "all"):
            raise ValueError(
                "tgr takes one outer step a round, and remembers all tasks: align_sweeps=1, memory_tasks=all."
            )
        check_at_least(self, groups=1, grouping_steps=1, rounds=0, meta_batch=1, invert_every=1)
        super().__post_init__()


def fisher_diagonals(probe: PretrainedModel, images: Tensor, rng: torch.Generator) -> Fisher:
    """The diagonal of a probe network's Fisher information on images `(n, C, H, W)` in [0, 1], layer by layer.

    mean over x of (∂ log p(y | x) / ∂w)², y drawn from the probe's own p(y | x); layers: what has weights of
    two dimensions or more, as in Achille et al., Task2Vec, ICCV 2019.
    """
    module, inputs = probe.module, probe.transform(images)
    weights = {name: p.detach() for name, p in module.named_parameters() if p.ndim > 1}
    with torch.no_grad():
        drawn = torch.multinomial(module(inputs).float().softmax(1).cpu(), 1, generator=rng)[:, 0].to(inputs.device)

    def loss(own: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(module, own, (x[None],)), y[None])

    each = vmap(grad(loss), (None, 0, 0))
    totals = [torch.zeros_like(w) for w in weights.values()]
    for x, y in zip(inputs.split(16), drawn.split(16), strict=True):
        for total, own in zip(totals, each(weights, x, y).values(), strict=True):
            total += own.square().sum(0)
    return [(total / len(images)).flatten() for total in totals]


def similarity(a: Fisher, b: Fisher) -> float:
    """How alike two models are: mean over layers of cos(F_a / (F_a + F_b), F_b / (F_a + F_b)), in [0, 1]."""
    sums = [(x + y).clamp_min(1e-30) for x, y in zip(a, b, strict=True)]
    cosines = [F.cosine_similarity(x / s, y / s, dim=0) for x, y, s in zip(a, b, sums, strict=True)]
    return float(torch.stack(cosines).mean())


def unlike_groups(fishers: Sequence[Fisher], n: int, seed: int) -> Tensor:
    """The group of each model, `(n_models,)`: spectral clustering by 1 − similarity puts unlike models together."""
    if n == 1 or len(fishers) <= n:
        return torch.arange(len(fishers)) % n
    alike = torch.tensor([[similarity(a, b) for b in fishers] for a in fishers])
    clusters = SpectralClustering(n, affinity="precomputed", random_state=seed)
    return torch.as_tensor(clusters.fit_predict((1 - alike).clamp_min(1e-6).numpy())).long()


class Groups(Kept):
    """The group of each model, once it is known."""

    of: Tensor | None = None
    kept: ClassVar = {"of": "of"}

    def draw(self, pool: ModelPool, n: int, rng: torch.Generator) -> list[PretrainedModel]:
        """Of one group n models, or all that it has; a group is drawn as often as it has members."""
        assert self.of is not None
        chosen = self.of[torch.randint(len(pool), (), generator=rng)]
        members = (self.of == chosen).nonzero().flatten()
        return [pool[i] for i in members[torch.randperm(len(members), generator=rng)[:n]].tolist()]


class Tgr(Method):
    """Task Groupings Regularization: Data-Free Meta-Learning with Heterogeneous Pre-trained Models.

    Yongxian Wei, Zixuan Hu, Li Shen, Zhenyi Wang, Yu Li, Chun Yuan, Dacheng Tao. ICML 2024. arXiv 2405.16560.

    It needs the models' gradients and, of the probe, weights. Images are inverted from every model; a common probe's
    Fisher information on them says how alike two models are, and spectral clustering groups *unlike* ones. A round
    draws models of one group and takes an outer step on mean_i g_i(θ + ε (g_i − ḡ)) (`variance_gradient`), g_i the
    gradient of L_KD and of the cross-entropy with the intended labels. Cross-task replay follows.

    Decided here: the probe is the pool's most accurate model; the public release takes a ResNet-34 trained on ImageNet,
    which is not data-free. Images for the grouping enter the memory.
    """

    name = "tgr"
    title = "TGR"
    citation = "Wei et al., Task Groupings Regularization, ICML 2024"
    needs = "gradients"
    cost = "models × grouping_steps, and rounds / invert_every × models × adapt_steps iterations, and replay"
    Config = TgrConfig

    def train(self, run: TrainingRun) -> MetaLearner:
        """See `Method.train`. The log holds losses, teacher accuracy on synthesised images, seconds by phase.

        Raises ValueError where the models have another number of classes than one shared head, where the probe has
        no weights, and what `CrossTaskReplay` does.
        """
        pool, config, learner, rng, log = run.pool, run.config, run.learner, run.rng, run.log
        replay, groups, probe = CrossTaskReplay(run), Groups(), pool.best()
        if not any(p.ndim > 1 for p in probe.module.parameters()):
            raise ValueError(f"TGR's probe, {probe.name}, has no weights: give it another accuracy, or leave it out.")
        heads = DistillationHeads.for_pool(learner, pool, config.kd_heads, seed=stream_seed(run.seed, "heads"))
        optimizer = outer_optimizer(config, [*learner.params.values(), *heads.params.values()])
        quick = build_scratch_generator(pool, config, steps=config.grouping_steps)
        generator = build_scratch_generator(pool, config, steps=config.adapt_steps)
        parts: dict[str, Any] = {"heads": heads, "optimizer": optimizer, "generator": generator}
        parts |= {"quick": quick, "groups": groups, **replay.parts}

        for round_number in run.rounds(config.rounds, **parts):
            if groups.of is None:
                with log.phase("grouping"):
                    fishers = []
                    for i in range(len(pool)):
                        task = quick.adapt(pool[i], None, rng)
                        replay.memory.add([task])
                        fishers.append(fisher_diagonals(probe, task.images, rng))
                    groups.of = unlike_groups(fishers, config.groups, run.seed)
            models = groups.draw(pool, config.meta_batch, rng)
            with log.phase("recovery"):
                due = (round_number - 1) % config.invert_every == 0
                tasks = [t for m in models if not due and (t := replay.memory.recall(m, rng)) is not None]
                if not tasks:  # also where the memory has forgotten all of them
                    tasks = [generator.adapt(model, None, rng) for model in models]
                    replay.memory.add(tasks)
                    agreed = torch.stack([task.teacher_accuracy for task in tasks]).mean()
                    log.append(inversion_round=round_number, teacher_agreement=agreed)
            with log.phase("alignment"):
                batches = [distillation_batch(task, rng, **config.crops) for task in tasks]
                loss = align(heads, batches, config, optimizer, rng)
            log.append(round=round_number, distillation_loss=loss)
            replay.step(round_number)
            log.iterations = generator.iterations + quick.iterations
        return run.finish()

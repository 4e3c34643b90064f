"""DRO: a hypernetwork from model embeddings to weights, trained at the worst embeddings near the pool's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from freelib.alignment import make_optimizer
from freelib.meta_learner import MetaLearner
from freelib.methods.base import Method, MethodConfig
from freelib.methods.training import TrainingRun
from freelib.settings import check_at_least


@dataclass(frozen=True)
class DroConfig(MethodConfig):
    """rounds of round_steps training steps each, over meta_batch models drawn at random a step.

    embedding_dim, hidden, rank: sizes of an embedding, of the hypernetwork's hidden layer and of its basis
    lr: Adam's, for the hypernetwork and the embeddings
    gamma: γ, the price of moving an embedding; inf: plain fusion, without diversification
    ascent_steps, ascent_lr: of the search for the worst embedding; how far it moved is logged as `shift`
    draws: 0: the student starts at the mean embedding; n: at the mean of n networks drawn around it
    """

    rounds: int = 50
    round_steps: int = 40
    meta_batch: int = 8
    embedding_dim: int = 16
    hidden: int = 64
    rank: int = 32
    lr: float = 3e-3
    gamma: float = field(default=0.01, metadata={"allowed": math.inf})
    ascent_steps: int = 5
    ascent_lr: float = 10.0
    draws: int = 0
    monitor_every: int = 10
    checkpoint_every: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gamma <= 0:
            raise ValueError(f"gamma must be above 0 (inf: no diversification), got {self.gamma}.")
        check_at_least(self, rounds=0, round_steps=1, meta_batch=1, embedding_dim=1, hidden=1, rank=1)
        check_at_least(self, lr=0, ascent_steps=0, ascent_lr=0, draws=0)


class WeightSpace:
    """The pool's networks as points: all tensors flat in a row, each in units of its own size over the pool.

    shapes: of the tensors, by name; scale: `(d,)`, each tensor's root mean square over the pool
    error_weight: `(d,)`, sums to 1: a mean within each tensor, then over tensors, so that BatchNorm's few
      numbers are not drowned by the convolutions' many
    points: `(n, d)`, the pool
    """

    def __init__(self, networks: Sequence[dict[str, Tensor]]) -> None:
        tensors = {name: torch.stack([network[name] for network in networks]) for name in networks[0]}
        self.shapes = {name: value.shape[1:] for name, value in tensors.items()}
        sizes = torch.tensor([shape.numel() for shape in self.shapes.values()])
        scales = torch.stack([value.square().mean().sqrt().cpu() for value in tensors.values()])
        self.scale = torch.where(scales > 0, scales, 1.0).repeat_interleave(sizes)
        self.error_weight = (1 / (len(sizes) * sizes)).repeat_interleave(sizes)
        self.points = torch.cat([value.flatten(1).cpu() for value in tensors.values()], 1) / self.scale

    def network(self, point: Tensor) -> dict[str, Tensor]:
        """The tensors by name of a point `(d,)`."""
        parts = (point * self.scale).split([shape.numel() for shape in self.shapes.values()])
        return {name: part.view(shape) for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)}


class Hypernetwork(nn.Module):
    """h_φ: embeddings `(n, embedding_dim)` -> points of the weight space `(n, d)`; holds the pool's e_i too.

    A network is a centre plus a mixture of `rank` basis networks, the mixture made by an MLP.
    """

    def __init__(self, n_models: int, dim: int, config: DroConfig, rng: torch.Generator) -> None:
        super().__init__()

        def normal(*shape: int, std: float) -> nn.Parameter:
            return nn.Parameter(std * torch.randn(shape, generator=rng))

        self.embeddings = normal(n_models, config.embedding_dim, std=1.0)
        self.hidden = normal(config.embedding_dim, config.hidden, std=config.embedding_dim**-0.5)
        self.mixing = normal(config.hidden, config.rank, std=config.hidden**-0.5)
        self.basis = normal(config.rank, dim, std=0.1)
        self.centre = nn.Parameter(torch.zeros(dim))

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.centre + (embeddings @ self.hidden).tanh() @ self.mixing @ self.basis

    @torch.no_grad()
    def initialisation(self, draws: int, rng: torch.Generator) -> Tensor:
        """Where the student starts, `(d,)`: see `DroConfig.draws`."""
        mean, std = self.embeddings.mean(0), self.embeddings.std(0, correction=0)
        if draws == 0:
            return self(mean)
        noise = torch.randn(draws, len(mean), generator=rng).to(mean.device)
        return self(mean + std * noise).mean(0)


def fusion_error(points: Tensor, targets: Tensor, error_weight: Tensor) -> Tensor:
    """How far networks are from those that they stand for, `(n,)`: 1 is as far as the zero network."""
    return (points - targets).square() @ error_weight


def worst_embeddings(
    hypernetwork: Hypernetwork, start: Tensor, targets: Tensor, error_weight: Tensor, config: DroConfig
) -> Tensor:
    """Ascends fusion_error(h_φ(e')) − γ‖e' − e‖² in e' from e = `start` `(n, embedding_dim)`; gives e'.

    The penalty's part of a step is implicit (proximal): any γ is stable, and γ = inf leaves e where it is.
    """
    start = start.detach()
    shift = torch.zeros_like(start)
    for _ in range(config.ascent_steps):
        moved = (start + shift).requires_grad_()
        error = fusion_error(hypernetwork(moved), targets, error_weight).sum()
        (gradient,) = torch.autograd.grad(error, moved)
        shift = (shift + config.ascent_lr * gradient) / (1 + 2 * config.ascent_lr * config.gamma)
    return start + shift


class Dro(Method):
    """Meta-Learning without Data via Wasserstein Distributionally-Robust Model Fusion.

    Zhenyi Wang, Xiaoyang Wang, Li Shen, Qiuling Suo, Kaiqiang Song, Dong Yu, Yan Shen, Mingchen Gao.
    UAI 2022.

    It needs the models' weights w_i, of one architecture. A hypernetwork h_φ maps embeddings to weights.
    Training fuses the pool into it: min over φ, e of mean_i max over e' of ‖h_φ(e') − w_i‖² − γ ‖e' − e_i‖²,
    the dual of the worst case over a Wasserstein ball around the embeddings.

    Only the abstract and that duality are known to us, and no public release. Decided here: the distance is
    relative, layer by layer (`WeightSpace`); h_φ mixes a low-rank basis of networks (`Hypernetwork`); e_i
    learns through e' with e' − e_i held constant, which at the maximum is the exact gradient; BatchNorm's
    scale and shift are weights like others; the head, whose classes differ by model, is zero; the student
    starts at the mean embedding or, with `draws`, at the mean of some drawn networks.
    """

    name = "dro"
    title = "DRO"
    citation = "Wang et al., Meta-Learning without Data via Wasserstein Distributionally-Robust Model Fusion, UAI 2022"
    needs = "weights"
    uses_shots = False
    same_architecture = True
    cost = "rounds × steps of a hypernetwork; no image is seen"
    Config = DroConfig

    def train(self, run: TrainingRun) -> MetaLearner:
        """See `Method.train`. The log holds each round's last error at e' and mean shift ‖e' − e_i‖."""
        pool, config, learner, rng, log = run.pool, run.config, run.learner, run.rng, run.log
        names = [name for name in learner.params if not name.startswith("head.")]
        space = WeightSpace([{n: model.module.get_parameter(n).detach() for n in names} for model in pool])
        points, error_weight = space.points.to(config.device), space.error_weight.to(config.device)
        hypernetwork = Hypernetwork(len(pool), points.shape[1], config, rng).to(config.device)
        optimizer = make_optimizer("adam", list(hypernetwork.parameters()), config.lr)

        for round_number in run.rounds(config.rounds, hypernetwork=hypernetwork, optimizer=optimizer):
            with log.phase("fusion"):
                for _ in range(config.round_steps):
                    chosen = torch.randperm(len(pool), generator=rng)[: config.meta_batch]
                    embeddings, targets = hypernetwork.embeddings[chosen], points[chosen]
                    shift = worst_embeddings(hypernetwork, embeddings, targets, error_weight, config)
                    shift = shift - embeddings.detach()
                    error = fusion_error(hypernetwork(embeddings + shift), targets, error_weight).mean()
                    optimizer.zero_grad()
                    error.backward()
                    optimizer.step()
            log.append(round=round_number, fusion_error=error.detach(), shift=shift.norm(dim=1).mean())
            start = space.network(hypernetwork.initialisation(config.draws, rng).cpu())
            learner.load_params({n: start.get(n, torch.zeros_like(p)) for n, p in learner.params.items()})
        return run.finish()

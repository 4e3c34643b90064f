"""OTA: the pool's weights, averaged after optimal transport has put like neurons in like places."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from freelib.meta_learner import MetaLearner
from freelib.methods.base import Method, MethodConfig, build_student
from freelib.models.pool import ModelPool
from freelib.settings import check_above_zero, check_one_of

TRANSPORTS = ("exact", "sinkhorn")
CHANNEL_FIELDS = ("conv.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
State = Mapping[str, Tensor]


@dataclass(frozen=True)
class OtaConfig(MethodConfig):
    """transport: "exact" (a permutation, for equal widths) or "sinkhorn" (soft).

    regularisation: Sinkhorn's entropy term, as a share of the layer's largest cost
    """

    transport: str = "exact"
    regularisation: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one_of(self, transport=TRANSPORTS)
        check_above_zero(self, "regularisation")


def transport_plan(cost: Tensor, kind: str = "exact", regularisation: float = 0.05) -> Tensor:
    """The plan `(m, k)` that moves uniform mass over m neurons to uniform mass over k at the least cost.

    cost: `(m, k)`; kind, regularisation: see `OtaConfig`; the plan is float64 and sums to 1
    """
    import ot  # POT takes seconds to import

    costs = cost.double().cpu().numpy()
    masses = [torch.full((size,), 1 / size, dtype=torch.float64).numpy() for size in costs.shape]
    if kind == "exact" or not costs.any():
        return torch.from_numpy(ot.emd(*masses, costs))
    plan = ot.sinkhorn(*masses, costs / costs.max(), regularisation, method="sinkhorn_log", stopThr=1e-6)
    return torch.from_numpy(plan)


def align_channels(other: State, anchor: State, transport: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """A Conv4's encoder with its channels moved to where the anchor's like ones are, layer by layer.

    other, anchor: state dictionaries of two Conv4; transport: cost `(m, k)` -> plan `(m, k)`
    """
    aligned: dict[str, Tensor] = {}
    moved: Tensor | None = None  # (m, k): the share of channel m in the anchor's channel k; columns sum to 1
    for block in range(4):
        prefix = f"encoder.{block}."
        weight = other[f"{prefix}conv.weight"].double()  # (out, in, 3, 3)
        if moved is not None:
            weight = torch.einsum("oihw,ij->ojhw", weight, moved)
        target = anchor[f"{prefix}conv.weight"].double()
        plan = transport(torch.cdist(weight.flatten(1), target.flatten(1)).square()).to(weight.device)
        moved = plan / plan.sum(0)
        aligned[f"{prefix}conv.weight"] = torch.einsum("oihw,oj->jihw", weight, moved)
        for name in CHANNEL_FIELDS:
            if f"{prefix}{name}" in other:
                aligned[f"{prefix}{name}"] = moved.T @ other[f"{prefix}{name}"].double()
    return aligned


def fuse_states(states: Sequence[State], anchor: int, transport: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """The mean of Conv4 encoders, each aligned to number `anchor` first, BatchNorm's statistics too."""
    names = [n for n in states[anchor] if n.startswith("encoder.") and not n.endswith("num_batches_tracked")]
    total = {name: states[anchor][name].double() for name in names}
    for i, state in enumerate(states):
        if i != anchor:
            for name, value in align_channels(state, states[anchor], transport).items():
                total[name] = total[name] + value
    return {name: (value / len(states)).float() for name, value in total.items()}


class Ota(Method):
    """Model Fusion via Optimal Transport.

    Sidak Pal Singh, Martin Jaggi. NeurIPS 2020. arXiv 1910.05653.

    It needs the models' weights, of one architecture. Layer by layer from the input, Ŵ_l = W_l T_{l−1} moves
    the inputs as the layer before was moved; T_l is the optimal transport, with uniform masses, from the rows
    of Ŵ_l to those of the anchor's W_l, at the cost of their squared distances; W̃_l = T_lᵀ Ŵ_l. A channel's
    bias and BatchNorm move with it. θ is the mean of the anchor's weights and all W̃.

    Decided here: the anchor is the model with the highest held-out accuracy; the head, whose classes differ
    by model, is zero; only Conv4, since a ResNet's shortcuts tie the channels of a whole stage to one
    another. The public release's examples take distances that are not squared.
    """

    name = "ota"
    title = "OTA"
    citation = "Singh and Jaggi, Model Fusion via Optimal Transport, NeurIPS 2020"
    needs = "weights"
    uses_shots = False
    uses_seed = False
    same_architecture = True
    cost = "one optimal transport a layer and model"
    Config = OtaConfig

    def build(self, pool: ModelPool, config: OtaConfig, *, seed: int) -> MetaLearner:
        """The student with the fused weights, see `Method.build`. Raises ValueError where it is no Conv4."""
        if config.arch != "conv4":
            raise ValueError(f"OTA aligns conv4 only, and the pool is of {config.arch}: take average or dro for it.")
        learner = build_student(pool, config, seed=seed)
        anchor = [d["name"] for d in pool.descriptions].index(pool.best().name)
        transport = partial(transport_plan, kind=config.transport, regularisation=config.regularisation)
        fused = fuse_states([model.module.state_dict() for model in pool], anchor, transport)
        learner.load_params({name: fused.get(name, torch.zeros_like(p)) for name, p in learner.params.items()})
        return learner

"""Average: the mean of the pool's weights, with a new head."""

from __future__ import annotations

import torch

from freelib.meta_learner import MetaLearner
from freelib.methods.base import Method, MethodConfig, build_student
from freelib.models.backbones import DEFAULT_WIDTH, SMALL_IMAGES
from freelib.models.pool import ModelPool


def require_same_architecture(pool: ModelPool, config: MethodConfig, method: str) -> None:
    """Raises ValueError where weights can't be fused: of own networks, a mixed pool, into another student."""
    own = [d["name"] for d in pool.descriptions if d.get("own")]
    if own:
        raise ValueError(f"{method} fuses the weights of freelib's networks only, and {own[0]} is another.")
    kinds = {(d["arch"], d["width"]) for d in pool.descriptions}
    if len(kinds) > 1:
        raise ValueError(
            f"{method} fuses weights, so all models must be of one architecture and width; "
            f"the pool has {sorted(kinds, key=str)}."
        )
    arch, width = next(iter(kinds))
    student = (config.arch, config.width or DEFAULT_WIDTH.get(config.arch))
    if student != (arch, width):
        raise ValueError(
            f"{method} gives a network like the pool's, {arch} of width {width}; "
            f"the student is set to {student[0]} of width {student[1]}."
        )
    # A convolution's weights know no image size; the head's do, and it is not fused.
    sizes = sorted({d["image_size"] for d in pool.descriptions})
    if arch != "conv4" and sizes[0] <= SMALL_IMAGES < sizes[-1]:
        raise ValueError(
            f"{method} fuses weights, and above {SMALL_IMAGES} pixels a {arch} has another first layer; "
            f"the pool has models for {sizes} pixels."
        )


class Average(Method):
    """The mean of all models' weights, θ = 1/n Σ_i w_i: the field's baseline of weight fusion.

    It needs the models' weights, all of one architecture and width, the student's. The head, whose classes
    differ by model, starts at zero. The student's BatchNorm is on batch statistics, so that the models'
    running statistics play no part.
    """

    name = "average"
    title = "Average"
    citation = "the field's usual baseline of weight fusion"
    needs = "weights"
    uses_shots = False
    uses_seed = False
    same_architecture = True
    cost = "one pass over the weights"

    def build(self, pool: ModelPool, config: MethodConfig, *, seed: int) -> MetaLearner:
        """See `Method.build`. Raises ValueError where the pool is not all like the student."""
        require_same_architecture(pool, config, self.title)
        learner = build_student(pool, config, seed=seed)
        total = {name: torch.zeros_like(p) for name, p in learner.params.items()}
        for model in pool:
            weights = dict(model.module.named_parameters())
            for name in total:
                if not name.startswith("head."):
                    total[name] += weights[name]
        learner.load_params({name: value / len(pool) for name, value in total.items()})
        return learner

"""Average: the mean of the pool's weights, with a new head."""

import torch

from freelib.meta_learner import MetaLearner
from freelib.methods.base import Method, MethodConfig, build_student
from freelib.models.pool import ModelPool


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
        """The student with the mean weights, see `Method.build`."""
        learner = build_student(pool, config, seed=seed)
        total = {name: torch.zeros_like(p) for name, p in learner.params.items()}
        for model in pool:
            weights = dict(model.module.named_parameters())
            for name in total:
                if not name.startswith("head."):
                    total[name] += weights[name]
        learner.load_params({name: value / len(pool) for name, value in total.items()})
        return learner

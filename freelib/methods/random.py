"""Random: an untrained student, adapted on the support set."""

from typing import Any

from freelib.meta_learner import MetaLearner
from freelib.methods.base import Method, build_student
from freelib.models.pool import ModelPool


class Random(Method):
    """An untrained network that learns each support set by the same inner loop: the field's lower bound.

    It needs nothing of the models but their image size and normalisation.
    """

    name = "random"
    title = "Random"
    citation = "the field's usual lower bound"
    needs = "nothing"
    uses_shots = False
    cost = "none"

    def build(self, pool: ModelPool, config: Any, *, seed: int) -> MetaLearner:
        """The untrained student, see `Method.build`; there is nothing to train."""
        return build_student(pool, config, seed=seed)

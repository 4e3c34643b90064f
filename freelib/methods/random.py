"""Random: an untrained student, adapted on the support set."""

from __future__ import annotations

from freelib.meta_learner import MetaLearner
from freelib.methods.base import Method, MethodConfig, Monitor, build_student
from freelib.models.pool import ModelPool
from freelib.storage import Checkpoint


class Random(Method):
    """A fresh network that learns each support set by the same inner loop: what meta-training has to beat."""

    name = "random"
    title = "Random"
    citation = "the field's usual lower bound"
    needs = "nothing"
    uses_shots = False
    cost = "none"

    def meta_train(
        self,
        pool: ModelPool,
        config: MethodConfig,
        *,
        seed: int,
        monitor: Monitor | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> MetaLearner:
        """See `Method.meta_train`; there is nothing to train."""
        return build_student(pool, config, seed=seed)

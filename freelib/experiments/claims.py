"""The claims, each held against the records: the paper's in its order, then those that we ask of it."""

from __future__ import annotations

from collections.abc import Callable

from freelib.experiments.claims_accuracy import (
    beats_best_teacher,
    beats_on_mixed_architectures,
    beats_on_mixed_domains,
    beats_pool_features,
    beats_published,
    distilled_beats_best_teacher,
    distilled_beats_oracle,
    distilled_beats_pool,
    reaches_the_papers_accuracy,
)
from freelib.experiments.claims_parts import (
    alignment_helps,
    alignment_raises_agreement,
    five_helps,
    lemma_holds,
    replay_helps,
    theorem_is_seen,
)
from freelib.experiments.claims_recovery import (
    pool_is_heterogeneous,
    reaches_speed_targets,
    recovered_tasks_teach,
    recovers_faster,
)
from freelib.experiments.evidence import Evidence
from freelib.experiments.verdicts import Verdict

CLAIMS: tuple[Callable[[Evidence], Verdict], ...] = (
    recovers_faster,
    beats_published,
    reaches_the_papers_accuracy,
    beats_on_mixed_domains,
    beats_on_mixed_architectures,
    five_helps,
    alignment_helps,
    replay_helps,
    recovered_tasks_teach,
    alignment_raises_agreement,
    lemma_holds,
    theorem_is_seen,
    pool_is_heterogeneous,
    beats_best_teacher,
    beats_pool_features,
    distilled_beats_best_teacher,
    distilled_beats_pool,
    distilled_beats_oracle,
    reaches_speed_targets,
)

QUESTIONS: dict[str, tuple[str, ...]] = {
    "Do five steps reach the agreement of a generator from scratch, and how much sooner?": (
        "recovers_faster",
    ),
    "Does alignment raise the gradients' inner product, and does that raise accuracy?": (
        "alignment_raises_agreement",
        "alignment_helps",
    ),
    "Does a data-free meta-learner beat the features of the pool that it learns from?": (
        "beats_pool_features",
        "distilled_beats_pool",
    ),
}
"""What a reader wants to know first, and the claims that answer it."""


def all_verdicts(evidence: Evidence) -> dict[str, Verdict]:
    """Every claim by the name of its function, as the records of a profile have it."""
    return {claim.__name__: claim(evidence) for claim in CLAIMS}

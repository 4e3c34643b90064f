"""The claims, each held against the records: the paper's in its order, then those that we ask of it."""

from __future__ import annotations

from collections.abc import Callable

from freelib.experiments.claims_accuracy import (
    beats_best_teacher,
    beats_on_mixed_architectures,
    beats_on_mixed_domains,
    beats_pool_features,
    beats_published,
    reaches_the_papers_accuracy,
)
from freelib.experiments.claims_distillation import (
    distilled_beats_best_teacher,
    distilled_beats_mixed_pools,
    distilled_beats_oracle,
    distilled_beats_pool,
)
from freelib.experiments.claims_parts import (
    alignment_helps,
    alignment_raises_agreement,
    five_helps,
    lemma_holds,
    mixing_helps,
    replay_helps,
    theorem_is_seen,
)
from freelib.experiments.claims_recovery import (
    pool_is_heterogeneous,
    reaches_agreement_sooner,
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
    mixing_helps,
    recovered_tasks_teach,
    alignment_raises_agreement,
    lemma_holds,
    theorem_is_seen,
    pool_is_heterogeneous,
    reaches_agreement_sooner,
    beats_best_teacher,
    beats_pool_features,
    distilled_beats_best_teacher,
    distilled_beats_pool,
    distilled_beats_mixed_pools,
    distilled_beats_oracle,
    reaches_speed_targets,
)

READING = "*our reading*"
SOURCES: dict[str, str] = {
    "recovers_faster": f"abstract, caption of figure 1; than which methods, of how many passes: {READING}",
    "beats_published": f"abstract; which methods: {READING}",
    "reaches_the_papers_accuracy": f"a public leaderboard; its mixed pool as a mean of three: {READING}",
    "beats_on_mixed_domains": f"public summary; ahead on each: {READING}",
    "beats_on_mixed_architectures": f"public summary; ahead of all others: {READING}",
    "five_helps": READING,
    "alignment_helps": "abstract, caption of figure 2",
    "replay_helps": f"{READING} of the public summary",
    "mixing_helps": f"public summary; against replay of each task: {READING}",
    "recovered_tasks_teach": READING,
    "alignment_raises_agreement": "captions of figures 2 and 5",
    "lemma_holds": "list of parts; its formula is derived by us",
    "theorem_is_seen": f"{READING}: of it only the name is known",
    "pool_is_heterogeneous": "caption of figure 2",
}
"""Where each claim of the paper is from, for a reader who has the paper and wants to know what we had."""

KNOWN_TEXT = (
    "Of the paper's text we know the abstract, a public summary, the captions of figures 1 to 5, the "
    "condition of Lemma 1, and the count of its parts. The claims are as we read them there; where that text "
    f"does not say it in these words, the last column has {READING}."
)

QUESTIONS: dict[str, tuple[str, ...]] = {
    "Does FREE reach what the paper reports, at the paper's size?": ("reaches_the_papers_accuracy",),
    "Is FREE ahead of the methods that it is compared with, and which of its parts bring that?": (
        "beats_published",
        "five_helps",
        "alignment_helps",
        "replay_helps",
    ),
    "Do five steps reach the agreement of a generator from scratch, and how much sooner?": (
        "recovers_faster",
        "reaches_agreement_sooner",
    ),
    "Does alignment raise the gradients' inner product? (Whether that raises accuracy is above.)": (
        "alignment_raises_agreement",
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

"""What TGR groups a pool's models by: the likeness of their synthesised images to a probe, twice (notebook 12)."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.metrics import adjusted_rand_score

from freelib.methods.free import build_scratch_generator
from freelib.methods.tgr import TgrConfig, fisher_diagonals, similarity, unlike_groups
from freelib.models.pool import ModelPool


def likeness(pool: ModelPool, config: TgrConfig, *, seed: int) -> dict[str, Any]:
    """Values of the record "likeness": the models' similarities, and the groups that TGR makes of them.

    Images are synthesised twice from each model, from other initial weights and noise. "similarity" `(n, n)` has the
    first sets as rows and the second ones as columns: its diagonal is each model against itself. "groups" are
    those of the first sets and of the second; "agreement" is their adjusted Rand index: 1 if they are the same, 0 by
    chance.
    """
    rng, probe = torch.Generator().manual_seed(seed), pool.best()
    generator = build_scratch_generator(pool, config, steps=config.grouping_steps)
    twice = [
        [fisher_diagonals(probe, generator.adapt(pool[i], None, rng).images, rng) for i in range(len(pool))]
        for _ in range(2)
    ]
    groups = [unlike_groups(fishers, config.groups, seed).tolist() for fishers in twice]
    return {
        "probe": probe.name,
        "similarity": [[round(similarity(a, b), 5) for b in twice[1]] for a in twice[0]],
        "common_classes": [[len(set(a.classes) & set(b.classes)) for b in pool] for a in pool],
        "groups": groups,
        "agreement": round(float(adjusted_rand_score(*groups)), 5),
        "passes": generator.iterations,
    }

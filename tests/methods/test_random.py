"""Random: nothing is learned from the pool."""

from __future__ import annotations

import torch
from tiny_models import flat, tiny_pool

from freelib.methods import MethodConfig, get_method
from freelib.models.backbones import build_backbone

CONFIG = MethodConfig(width=4, inner_lr=0.2, inner_steps=3, test_steps=7, n_way=3)


def test_the_student_is_fresh_and_of_the_pools_kind():
    pool = tiny_pool(2)
    learner = get_method("random").meta_train(pool, CONFIG, seed=4)
    fresh = build_backbone("conv4", n_way=3, width=4, image_size=16, batch_stats=True, seed=4)
    assert torch.equal(flat(learner.params.values()), flat(fresh.parameters()))
    assert (learner.transform.mean, learner.transform.std, learner.transform.image_size) == (
        pool.mean,
        pool.std,
        16,
    )
    assert (learner.inner_lr, learner.inner_steps, learner.head) == (0.2, 7, "maml")  # steps at test time
    other = get_method("random").meta_train(pool, CONFIG, seed=5)
    assert not torch.equal(flat(learner.params.values()), flat(other.params.values()))


def test_golden():
    """Where this fails, results have changed: raise the method's `revision`, then write the value here."""
    learner = get_method("random").meta_train(tiny_pool(2), MethodConfig(width=4), seed=0)
    assert get_method("random").revision == 1
    x = torch.linspace(0, 1, 5 * 3 * 256).view(5, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(learner(x).mean(0), torch.tensor(GOLDEN), atol=1e-4, rtol=0)


GOLDEN = [-0.0778, -0.8667, 0.2703, 1.6446, -0.0745]

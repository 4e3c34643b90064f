"""Pool features and the best teacher: what needs no training."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny_models import rng, tiny_model, tiny_pool, trained_pool

from freelib.datasets.episodes import EpisodeSampler
from freelib.meta_learner import prototype_logits
from freelib.methods import get_method
from freelib.methods.pool_features import PoolFeaturesConfig
from freelib.models.pool import ModelPool
from freelib.run.evaluation import evaluate

SUPPORT, QUERY = (torch.rand(n, 3, 16, 16, generator=rng(n)) for n in (10, 6))
LABELS = torch.arange(5).repeat(2)


def train(name: str, pool, centre: str = "episode"):
    return get_method(name).meta_train(pool, PoolFeaturesConfig(centre=centre), seed=0)


def test_features_of_all_models_are_normalised_and_joined():
    pool = tiny_pool(3)
    expected = torch.cat([F.normalize(model.features(SUPPORT), dim=1) for model in pool], dim=1)
    found = train("pool_features", pool).embed(SUPPORT)
    torch.testing.assert_close(found, expected)
    assert found.shape == (10, 12)
    torch.testing.assert_close(found.norm(dim=1), torch.full((10,), 3**0.5))


@pytest.mark.parametrize("centre", ["none", "support", "episode"])
@pytest.mark.parametrize("name", ["pool_features", "best_teacher"])
def test_the_nearest_class_mean_answers(name, centre):
    pool = tiny_pool(3)
    learner = train(name, pool, centre)
    logits = prototype_logits(learner.embed(SUPPORT), LABELS, learner.embed(QUERY), centre=centre)
    torch.testing.assert_close(learner.adapt(SUPPORT, LABELS).logits(QUERY), logits)


def test_the_best_teacher_is_the_most_accurate():
    pool = tiny_pool(3)  # the last is
    features = train("best_teacher", pool).embed(SUPPORT)
    torch.testing.assert_close(features, F.normalize(pool[2].features(SUPPORT), dim=1))


def test_models_of_several_kinds_work_together():
    pool = ModelPool.from_models(
        [tiny_model(0), tiny_model(1, arch="resnet10"), tiny_model(2, image_size=32)]
    )
    assert train("pool_features", pool).embed(SUPPORT).shape == (10, 4 + 32 + 16)


def test_trained_features_are_above_chance(tiny_dataset):
    learner = train("pool_features", trained_pool(tiny_dataset))
    score = evaluate(learner, EpisodeSampler(tiny_dataset, n_query=5), 10)
    assert score.mean - score.ci95 > 30


def test_golden():
    """Where this fails, results have changed: raise the method's `revision`, then write the value here."""
    pool = tiny_pool(3)
    for name, golden in GOLDEN.items():
        assert get_method(name).revision == 1
        logits = train(name, pool).adapt(SUPPORT, LABELS).logits(QUERY)
        torch.testing.assert_close(logits[0], torch.tensor(golden), atol=1e-4, rtol=0)


GOLDEN = {
    "pool_features": [-4.3863, 4.6386, 1.5681, 4.262, -2.7492],
    "best_teacher": [-8.7541, 8.7199, 8.489, 5.389, -4.67],
}

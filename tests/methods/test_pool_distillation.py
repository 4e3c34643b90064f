import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from small_methods import small, trainer
from tiny_models import own, rng, tiny_model, tiny_pool
from torch import nn

import freelib.datasets
from freelib.datasets.episodes import images_to_uint8
from freelib.methods import pool_distillation as module
from freelib.methods.base import build_student, stream_seed
from freelib.methods.ensemble import ProbabilityEnsemble
from freelib.methods.pool_distillation import (
    PoolDistillation,
    distillation_losses,
    ensemble_embeddings,
    one_cycle,
    similarities,
    whiten_embedding,
)
from freelib.methods.procedural import procedural_images
from freelib.models.pool import ModelPool

IMAGES = torch.rand(8, 3, 16, 16, generator=rng())
TINY = small("pool_distillation", adapt_steps=1, generator_lr=1e-3, augment_padding=4)


def train(pool=None, **settings):
    return PoolDistillation().meta_train(pool or tiny_pool(3), TINY, seed=1, **settings)


@pytest.fixture(scope="module")
def learner():
    return train()


def test_losses_vanish_where_the_student_agrees():
    x = torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 3.0]])  # mean (2, 1)
    found = similarities(x)
    assert float(found[0, 1]) == pytest.approx(0.0)  # (-1, -1) and (1, -1)
    assert float(found[0, 2]) == pytest.approx(-1 / math.sqrt(2))
    torch.testing.assert_close(found.diagonal(), torch.ones(3))
    targets = torch.randn(10, 4, generator=rng())
    turn = torch.linalg.qr(torch.randn(4, 4, generator=rng(1)))[0]
    relations, embeddings = distillation_losses(5 * targets @ turn, 3 * targets, targets)
    assert float(relations) == pytest.approx(0, abs=1e-10)
    assert float(embeddings) == pytest.approx(0, abs=1e-6)
    relations, embeddings = distillation_losses(targets, -targets, targets.flip(0))
    wanted = 1 + F.cosine_similarity(targets, targets.flip(0)).mean()
    assert float(embeddings) == pytest.approx(float(wanted))
    expected = (similarities(targets) - similarities(targets.flip(0))).square().mean()
    assert float(relations) == pytest.approx(float(expected))


def test_whitening_moves_no_image_against_another():
    learner, pixels = build_student(tiny_pool(1), TINY, seed=0), torch.rand(60, 3, 16, 16, generator=rng(3))
    before = learner.embed(pixels)
    whiten_embedding(learner, pixels, 0.0)
    after = learner.embed(pixels)
    torch.testing.assert_close(torch.cdist(after, after), torch.cdist(before, before), atol=1e-3, rtol=0.02)
    torch.testing.assert_close(after.mean(0), torch.zeros(12), atol=1e-4, rtol=0)
    whiten_embedding(learner, pixels, 1.0)
    deviations = learner.embed(pixels).std(0, correction=0)
    torch.testing.assert_close(deviations[deviations > 1e-3], torch.ones(int((deviations > 1e-3).sum())))


def test_targets_are_the_ensembles_embeddings():
    pool = tiny_pool(3)
    images = procedural_images(50, 16, rng(), mean=pool.mean, std=pool.std)
    targets = ensemble_embeddings(pool, TINY, images, seed=1)
    assert targets.shape == (50, 12)
    ensemble = ProbabilityEnsemble(pool, temperature=4.0)
    ensemble.fit(ensemble.answers(images), whitening=0.25, most=12)
    expected = similarities(ensemble.features(images))
    torch.testing.assert_close(similarities(targets.float()), expected, atol=0.02, rtol=0)
    values = [one_cycle(step, 100) for step in range(101)]
    assert [values[0], values[15], values[100]] == pytest.approx([0.04, 1, 0])
    assert values[:16] == sorted(values[:16])
    assert values[15:] == sorted(values[15:], reverse=True)


def test_it_gets_the_pool_and_no_image_from_outside(monkeypatch):
    """No argument but the unlabelled images carries data, and no data set can be opened while it runs."""
    arguments = set(inspect.signature(PoolDistillation.meta_train).parameters)
    assert arguments == {"self", "pool", "config", "seed", "monitor", "checkpoint", "images"}
    assert not PoolDistillation.oracle
    for name in ("load_dataset", "load_cached", "find_source"):
        monkeypatch.setattr(freelib.datasets, name, lambda *_, **__: pytest.fail("a data set was opened"))
    shown, real = [], module.all_images
    monkeypatch.setattr(module, "all_images", lambda *a, **k: shown.append(real(*a, **k)) or shown[0])
    train()
    assert len(shown[0]) == TINY.recovered + TINY.procedural + TINY.mixed
    pool, draw = tiny_pool(3), rng(stream_seed(1, "images"))
    drawn = procedural_images(40, 16, draw, mean=pool.mean, std=pool.std)
    assert torch.equal(shown[0][30:70], drawn)  # the others come from the models and from these


def test_the_student_embeds_images_one_by_one_and_the_monitor_sees_its_last_state(learner):
    assert learner.embeds_images_one_by_one
    together, alone = learner.embed(IMAGES), learner.embed(IMAGES[:1])
    torch.testing.assert_close(together[:1], alone, atol=1e-4, rtol=1e-4)
    assert together.shape == (8, 12)
    seen = []
    found = train(monitor=lambda n, student: seen.append((n, student.embed(IMAGES))) or 40.0)
    assert [n for n, _ in seen] == [3]
    assert torch.equal(seen[0][1], found.embed(IMAGES))
    assert found.log.history["monitor_score"] == [40.0]


def test_models_of_several_kinds_teach_together_and_gray_ones_without_procedural_images():
    models = [tiny_model(0), tiny_model(1, arch="resnet10", width=8, domain="b"), tiny_model(2, image_size=32)]
    assert train(ModelPool.from_models(models)).embed(torch.rand(2, 3, 32, 32)).shape == (2, 12)
    gray = own(nn.Sequential(nn.Flatten(), nn.Linear(256, 3)), mean=(0.5,), std=(0.2,), image_size=16)
    settings = {"lambda_bn": 0.0, "recovered": 60, "procedural": 0, "mixed": 0, "warmup_rounds": 0}
    learner = trainer("pool_distillation", ModelPool.from_models([gray]), **settings)()
    assert learner.embed(torch.rand(2, 1, 16, 16)).shape == (2, 12)


def test_golden(learner):
    """Where this fails, results have changed: raise the method's `revision`, then write the values here."""
    assert PoolDistillation.revision == 1
    history = learner.log.history
    assert history["epoch"] == [1, 2, 3]
    assert history["relations_loss"] == pytest.approx([0.3368, 0.2822, 0.2881], abs=2e-3)
    assert history["places_loss"] == pytest.approx([0.9644, 0.9647, 0.9583], abs=5e-4)
    assert set(learner.log.seconds) == {"recovery", "images", "answers", "distillation"}
    assert learner.log.iterations == 2 * 2  # a round to warm up, one to keep


def test_a_pool_answers_in_parts_as_it_would_at_once(monkeypatch):
    found = []
    for at_once in (16, 2):
        monkeypatch.setattr(module, "MODELS_AT_ONCE", at_once)
        found.append(module.ensemble_embeddings(tiny_pool(5), TINY, images_to_uint8(IMAGES), seed=0))
    assert torch.equal(*found)

import pytest
import torch
import torch.nn.functional as F
from small_methods import boxed
from tiny_models import own, rng, tiny_model, tiny_pool
from torch import nn

from freelib.fast import episode_threads
from freelib.methods.ensemble import ProbabilityEnsemble, for_inference, principal_axes

IMAGES = torch.rand(30, 3, 16, 16, generator=rng())
FEATURES = torch.randn(200, 6, generator=rng()) @ torch.randn(6, 6, generator=rng(1)) + 3


@pytest.mark.parametrize(("whitening", "power"), [(1.0, 0.0), (0.5, 0.5), (0.25, 0.75), (0.0, 1.0)])
def test_whitening_takes_a_power_of_the_deviation(whitening, power):
    mean, axes = principal_axes(FEATURES, whitening=whitening)
    found = torch.cov(((FEATURES - mean) @ axes).T, correction=0)
    variances = torch.linalg.eigvalsh(torch.cov(FEATURES.T, correction=0)).flip(0)
    torch.testing.assert_close(found, torch.diag(variances**power), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("arch", ["conv4", "resnet10"])
def test_a_copy_for_inference_gives_the_same_answers(arch):
    model = tiny_model(2, arch=arch, width=8)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    copy = for_inference(model, torch.float32)
    torch.testing.assert_close(copy(IMAGES), model(IMAGES), atol=1e-4, rtol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())


def test_answers_are_square_roots_of_probabilities_or_features():
    pool, pixels = tiny_pool(3), IMAGES.mul(255).to(torch.uint8)
    answers = ProbabilityEnsemble(pool, temperature=2.0).answers(pixels)
    expected = (pool[1](pixels.float() / 255) / 2).softmax(1)
    torch.testing.assert_close(answers[:, 5:10].square(), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(answers.square().sum(1), torch.full((30,), 3.0))
    torch.testing.assert_close(ProbabilityEnsemble(boxed(pool)[0], temperature=2.0).answers(pixels), answers)
    pool = tiny_pool(3)
    expected = torch.cat([F.normalize(model.features(IMAGES), dim=1) for model in pool], dim=1)
    found = ProbabilityEnsemble(pool, teach="features").answers(IMAGES)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_embeddings_need_axes_and_weak_ones_are_left_out():
    ensemble = ProbabilityEnsemble(tiny_pool(2))
    with pytest.raises(RuntimeError, match="fit"):
        ensemble.features(IMAGES)
    answers = ensemble.answers(IMAGES)
    ensemble.fit(answers, whitening=0.25, most=4)
    torch.testing.assert_close(ensemble.features(IMAGES), (answers - answers.mean(0)) @ ensemble.axes)
    assert ensemble.features(IMAGES).shape == (30, 4)
    flat = FEATURES * torch.tensor([1.0, 1, 1, 1e-4, 1e-4, 1e-4])
    assert principal_axes(flat, whitening=0.5)[1].shape == (6, 3)
    assert principal_axes(FEATURES, whitening=0.5, most=2)[1].shape == (6, 2)


def test_models_of_several_kinds_and_sizes_answer_together_and_where_they_are():
    models = [tiny_model(0), tiny_model(1, arch="resnet10", width=8), tiny_model(2, image_size=32, n_way=3)]
    assert ProbabilityEnsemble(models, precision="bfloat16").answers(IMAGES).shape == (30, 13)
    assert ProbabilityEnsemble([tiny_model(0).to("meta")]).answers(IMAGES).device.type == "meta"


@pytest.mark.parametrize("teach", ["probabilities", "features"])
def test_threads_give_the_same_bits(teach):
    models = [*tiny_pool(3), own(nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), image_size=16)]
    for members in (models, [*models, models[-1]]):  # two that share layers, too
        alone = ProbabilityEnsemble(members, teach=teach).answers(IMAGES)
        with episode_threads(3):
            assert torch.equal(ProbabilityEnsemble(members, teach=teach).answers(IMAGES), alone)

"""ICFIL: the contrastive loss by hand, and what the calibration does to an adapted model."""

import math
from functools import partial

import pytest
import torch
from tiny_models import conv_learner
from torch import Tensor

from freelib import EpisodeSampler, MetaLearner
from freelib.inversion import InversionConfig
from freelib.methods.calibration import CalibratedLearner, CalibrationConfig, contrastive_loss

plain_learner = partial(conv_learner, width=8, seed=0, mean=(0.4,) * 3, std=(0.2,) * 3, inner_lr=0.05)


def calibrated(learner: MetaLearner, **settings: float) -> CalibratedLearner:
    return CalibratedLearner(learner, InversionConfig(lambda_tv=1e-4), CalibrationConfig(**settings))


@pytest.fixture
def support(tiny_dataset) -> tuple[Tensor, Tensor, Tensor]:
    """Support images, their labels, query images."""
    episode = EpisodeSampler(tiny_dataset, n_shot=1, n_query=5).episode(0)
    return episode.support, episode.support_labels, episode.query


E = math.e
LOSSES = [
    # each image sees one of its class at cosine 1 and two others at cosine 0
    ([[2, 0], [5, 0], [0, 1], [0, 3]], [0, 0, 1, 1], 0.5, math.log((E**2 + 2) / E**2)),
    # the first two see their class at cosines 1 and 0, the third at 0 twice, the last two at 1
    (
        [[1, 0], [1, 0], [0, 1], [-1, 0], [-1, 0]],
        [0, 0, 0, 1, 1],
        1.0,
        (2 * (math.log(E + 1 + 2 / E) - 1 / 2) + math.log(4) + 2 * (math.log(E + 1 + 2 / E) - 1)) / 5,
    ),
    # of equal features, the logarithm of the number of others
    ([[1, 1, 1]] * 6, [0, 1] * 3, 0.1, math.log(5)),
]


@pytest.mark.parametrize(("features", "labels", "temperature", "expected"), LOSSES)
def test_the_contrastive_loss_by_hand(features, labels, temperature, expected):
    loss = contrastive_loss(torch.tensor(features).float(), torch.tensor(labels), temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("head", "settings"), [("maml", {"icfil_steps": 0}), ("prototypes", {})])
def test_without_a_step_or_an_adapted_model_to_invert_the_answers_stay(support, head, settings):
    images, labels, query = support
    learner = plain_learner(head)
    without = learner.adapt(images, labels).logits(query)
    assert torch.equal(calibrated(learner, **settings).adapt(images, labels).logits(query), without)


def test_images_inverted_from_the_adapted_model_are_of_its_classes(support):
    images, labels, _ = support
    learner = calibrated(plain_learner(), icfil_inversion_steps=30, icfil_images=4)
    adapted = MetaLearner.adapt(learner, images, labels)
    inverted, classes = learner._invert(adapted.params, 5, learner.prepare(images))
    assert inverted.shape == (20, 3, 16, 16)
    assert classes.tolist() == [c for c in range(5) for _ in range(4)]
    hits = learner.forward(adapted.params, inverted).argmax(1) == classes
    assert hits.float().mean() > 0.9
    pixels = inverted * 0.2 + 0.4
    assert -1e-6 < pixels.min() < pixels.max() < 1 + 1e-6
    learner, (images, labels, query) = calibrated(plain_learner()), support
    expected = learner.adapt(images, labels).logits(query)
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            assert torch.equal(learner.adapt(images * 1, labels * 1).logits(query), expected)


def test_the_calibration_draws_real_and_inverted_images_of_a_class_together(support):
    images, labels, query = support
    plain = plain_learner()
    learner = calibrated(plain, icfil_steps=5, icfil_step=0.05)
    assert learner.params["head.bias"] is plain.params["head.bias"]  # the same θ, not a copy
    before = {name: p.detach().clone() for name, p in learner.params.items()}
    first, second = learner.adapt(images, labels), learner.adapt(images, labels)
    assert torch.equal(first.logits(query), second.logits(query))  # nothing random is left
    assert all(torch.equal(p, before[name]) for name, p in learner.params.items())

    adapted = MetaLearner.adapt(learner, images, labels)
    inverted, classes = learner._invert(adapted.params, 5, learner.prepare(images))
    targets = torch.cat([labels, classes])

    def loss(params: dict[str, Tensor]) -> float:
        backbone = plain_learner().backbone
        backbone.load_state_dict(params)
        features = [backbone.features(x).detach() for x in (learner.prepare(images), inverted)]
        return contrastive_loss(torch.cat(features), targets, 0.5).item()

    assert loss(first.params) < loss(adapted.params) - 1e-3
    assert torch.equal(first.params["head.weight"], adapted.params["head.weight"])

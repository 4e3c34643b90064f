"""ICFIL: the contrastive loss by hand, and what the calibration does to an adapted model."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from freelib.datasets import FewShotDataset
from freelib.datasets.episodes import EpisodeSampler
from freelib.inversion import InversionConfig
from freelib.meta_learner import GradientClassifier, MetaLearner
from freelib.methods.calibration import CalibratedLearner, CalibrationConfig, contrastive_loss
from freelib.models.backbones import build_backbone


def plain_learner(head: str = "maml") -> MetaLearner:
    backbone = build_backbone("conv4", width=8, image_size=16, batch_stats=True)
    return MetaLearner(backbone, mean=(0.4,) * 3, std=(0.2,) * 3, image_size=16, head=head, inner_lr=0.05)


def calibrated(learner: MetaLearner, **settings: float) -> CalibratedLearner:
    return CalibratedLearner(learner, InversionConfig(lambda_tv=1e-4), CalibrationConfig(**settings))


@pytest.fixture
def support(tiny_dataset: FewShotDataset) -> tuple[Tensor, Tensor, Tensor]:
    """Support images, their labels, query images."""
    episode = EpisodeSampler(tiny_dataset, n_shot=1, n_query=5).episode(0)
    return episode.support, episode.support_labels, episode.query


def test_contrastive_loss_of_two_tight_classes_at_a_right_angle() -> None:
    features = torch.tensor([[2.0, 0.0], [5.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    # each image sees one of its class at cosine 1 and two others at cosine 0
    expected = math.log((math.e**2 + 2) / math.e**2)
    loss = contrastive_loss(features, torch.tensor([0, 0, 1, 1]), temperature=0.5)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_contrastive_loss_averages_over_the_other_images_of_a_class() -> None:
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [-1.0, 0.0]])
    labels = torch.tensor([0, 0, 0, 1, 1])
    e = math.e
    first = math.log(e + 1 + 2 / e) - (1 + 0) / 2  # cosines to its class: 1 and 0
    third = math.log(4) - 0
    fourth = math.log(e + 1 + 2 / e) - 1
    loss = contrastive_loss(features, labels, temperature=1.0)
    assert loss.item() == pytest.approx((2 * first + third + 2 * fourth) / 5, rel=1e-5)


def test_equal_features_give_the_logarithm_of_the_number_of_others() -> None:
    loss = contrastive_loss(torch.ones(6, 3), torch.arange(6) % 2, temperature=0.1)
    assert loss.item() == pytest.approx(math.log(5), rel=1e-5)


def test_no_contrastive_step_leaves_the_inner_loops_result(support: tuple[Tensor, Tensor, Tensor]) -> None:
    images, labels, query = support
    learner = plain_learner()
    without = learner.adapt(images, labels).logits(query)
    assert torch.equal(calibrated(learner, icfil_steps=0).adapt(images, labels).logits(query), without)


def test_it_calibrates_where_gradients_are_off(support: tuple[Tensor, Tensor, Tensor]) -> None:
    learner, (images, labels, query) = calibrated(plain_learner()), support
    expected = learner.adapt(images, labels).logits(query)
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            assert torch.equal(learner.adapt(images * 1, labels * 1).logits(query), expected)


def test_images_inverted_from_the_adapted_model_are_of_its_classes(
    support: tuple[Tensor, Tensor, Tensor],
) -> None:
    images, labels, _ = support
    learner = calibrated(plain_learner(), icfil_inversion_steps=30, icfil_images=4)
    adapted = MetaLearner.adapt(learner, images, labels)
    assert isinstance(adapted, GradientClassifier)
    inverted, classes = learner._invert(adapted.params, 5, learner.prepare(images))
    assert inverted.shape == (20, 3, 16, 16)
    assert classes.tolist() == [c for c in range(5) for _ in range(4)]
    hits = learner.forward(adapted.params, inverted).argmax(1) == classes
    assert hits.float().mean() > 0.9
    pixels = inverted * 0.2 + 0.4
    assert pixels.min() > -1e-6
    assert pixels.max() < 1 + 1e-6


def test_the_calibration_draws_real_and_inverted_images_of_a_class_together(
    support: tuple[Tensor, Tensor, Tensor],
) -> None:
    images, labels, query = support
    learner = calibrated(plain_learner(), icfil_steps=5, icfil_step=0.05)
    before = {name: p.detach().clone() for name, p in learner.params.items()}
    first, second = learner.adapt(images, labels), learner.adapt(images, labels)
    assert isinstance(first, GradientClassifier)
    assert torch.equal(first.logits(query), second.logits(query))  # nothing random is left
    assert all(torch.equal(p, before[name]) for name, p in learner.params.items())

    adapted = MetaLearner.adapt(learner, images, labels)
    assert isinstance(adapted, GradientClassifier)
    inverted, classes = learner._invert(adapted.params, 5, learner.prepare(images))
    targets = torch.cat([labels, classes])

    def loss(params: dict[str, Tensor]) -> float:
        backbone = build_backbone("conv4", width=8, image_size=16, batch_stats=True)
        backbone.load_state_dict(params)
        features = [backbone.features(x).detach() for x in (learner.prepare(images), inverted)]
        return contrastive_loss(torch.cat(features), targets, 0.5).item()

    assert loss(first.params) < loss(adapted.params) - 1e-3
    assert torch.equal(first.params["head.weight"], adapted.params["head.weight"])


def test_a_head_of_class_means_has_no_adapted_model_to_invert(support: tuple[Tensor, Tensor, Tensor]) -> None:
    images, labels, query = support
    learner = plain_learner("prototypes")
    expected = learner.adapt(images, labels).logits(query)
    assert torch.equal(calibrated(learner).adapt(images, labels).logits(query), expected)


def test_the_same_theta_is_shared_with_the_learner_that_it_was_made_from() -> None:
    learner = plain_learner()
    assert calibrated(learner).params["head.bias"] is learner.params["head.bias"]

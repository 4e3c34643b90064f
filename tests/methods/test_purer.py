"""PURER by hand, and ICFIL, its calibration of an adapted model."""

import math
from functools import partial

import pytest
import torch
from small_methods import small, trainer
from tiny_models import PlainAdam, conv_learner, rng, tiny_pool, trained_pool, weights
from torch import Tensor

from freelib import EpisodeSampler, MetaLearner
from freelib.datasets.episodes import class_major_labels
from freelib.inversion import InversionConfig, inversion_loss
from freelib.methods.base import build_student
from freelib.methods.calibration import CalibratedLearner, CalibrationConfig, contrastive_loss
from freelib.methods.purer import Curriculum, DynamicDataset, jittered

TINY = small("purer", n_query=4, inner_steps=2, jitter=0)  # 5 images a class


def test_all_images_are_rolled_by_one_shift_of_at_most_two_pixels():
    images = torch.zeros(3, 1, 9, 9)
    images[:, 0, 4, 4] = 1
    draw, places = rng(0), set()
    for _ in range(300):
        where = jittered(images, 2, draw)[:, 0].nonzero()[:, 1:]
        assert (where == where[0]).all()
        places.add(tuple(where[0].tolist()))
    assert places == {(row, column) for row in range(2, 7) for column in range(2, 7)}


def test_pixels_start_as_cut_noise_for_every_class_and_an_episode_takes_all_images_of_its_classes():
    pool = tiny_pool(4)
    dataset = DynamicDataset(pool, TINY, rng(0))
    assert tuple(dataset.pixels) == pool.classes
    images = dataset.images(pool.classes)
    assert images.shape == (8 * 5, 3, 16, 16)
    assert -1e-6 < images.min() < images.max() < 1 + 1e-6
    assert torch.stack(list(dataset.pixels.values()))[:, :, 0].mean().abs() < 0.1  # around the mean colour
    dataset = DynamicDataset(tiny_pool(4), TINY, rng(0))
    episode = dataset.episode(TINY, rng(1))
    assert episode.support_labels.tolist() == [0, 1, 2, 3, 4]
    assert episode.query_labels.tolist() == [c for c in range(5) for _ in range(4)]
    everything = dataset.images(tuple(dataset.pixels)).flatten(1)
    drawn = torch.cat([episode.support[:, None], episode.query.unflatten(0, (5, 4))], 1).flatten(2)
    rows = torch.cdist(drawn, everything).argmin(2)  # (class, image): its number in the data set
    assert rows.flatten().unique().numel() == 25
    assert (rows // 5 == rows[:, :1] // 5).all()
    assert not torch.equal(dataset.episode(TINY, rng(2)).support, episode.support)


def test_a_class_that_two_models_know_gets_the_sum_of_their_gradients():
    pool = tiny_pool(2)
    dataset = DynamicDataset(pool, TINY, rng(0))
    expected = {key: torch.zeros_like(p) for key, p in dataset.pixels.items()}
    for model in pool:
        pixels = torch.cat([dataset.pixels[key] for key in model.classes]).detach().requires_grad_()
        images = pixels * dataset.std + dataset.mean
        loss, _ = inversion_loss(model, images, class_major_labels(5, 5), TINY.inversion)
        for key, part in zip(model.classes, torch.autograd.grad(loss, pixels)[0].split(5), strict=True):
            expected[key] += part
    results = [dataset.invert(model, TINY, rng(0)) for model in pool]
    for key, pixels in dataset.pixels.items():
        assert torch.allclose(pixels.grad, expected[key], rtol=1e-4, atol=1e-7), key
    assert results[1][0].item() == pytest.approx(loss.item(), rel=1e-5)


def test_a_step_moves_the_drawn_models_classes_and_leaves_the_others_and_their_moments():
    pool, config = tiny_pool(4), small("purer", jitter=0, pixel_lr=1e-3)
    dataset = DynamicDataset(pool, config, rng(0))
    low, high = -dataset.mean / dataset.std, (1 - dataset.mean) / dataset.std
    adams = {key: PlainAdam(1e-3) for key in dataset.pixels}
    for model in (pool[0], pool[3], pool[0]):  # classes 0 to 4, 3 to 7, and 0 to 4 again
        before = {key: p.detach().clone() for key, p in dataset.pixels.items()}
        dataset.invert(model, config, rng(0))
        gradients = {key: p.grad.clone() for key, p in dataset.pixels.items() if p.grad is not None}
        assert set(gradients) == set(model.classes)
        dataset.step()
        for key, pixels in dataset.pixels.items():
            assert pixels.grad is None
            if key not in gradients:
                assert torch.equal(pixels, before[key])
                continue
            (moved,) = adams[key].step([before[key]], [gradients[key]])
            assert torch.allclose(pixels, moved.clamp(low, high), atol=2e-6)


def test_the_challenge_is_the_reversed_outer_loss_for_the_pixels_alone():
    pool = tiny_pool(4)
    dataset, learner, draw = DynamicDataset(pool, TINY, rng(0)), build_student(pool, TINY, seed=0), rng(5)
    losses = [learner.query_loss(dataset.episode(TINY, draw), steps=2)[0] for _ in range(TINY.episodes)]
    pixels = list(dataset.pixels.values())
    expected = torch.autograd.grad(-10 * sum(losses) / TINY.episodes, pixels, allow_unused=True)
    dataset.challenge(learner, TINY, rng(5))
    for own, gradient in zip(pixels, expected, strict=True):
        assert (own.grad is None) == (gradient is None)
        if gradient is not None:
            assert torch.allclose(own.grad, gradient, rtol=1e-4, atol=1e-8)
    assert all(p.grad is None for p in learner.params.values())


def test_the_curriculum_asks_for_a_harder_step_when_accuracy_has_not_risen_for_as_long_as_it_waits():
    curriculum, due = Curriculum(patience=3), []
    for accuracy in (0.5, 0.6, 0.6, 0.55, 0.6, 0.4, 0.5, 0.5, 0.45, 0.5):
        curriculum.consider(accuracy)
        due.append(curriculum.due)
    assert due == [False] * 4 + [True] + [False] * 4 + [True]  # it forgets 0.6 after the harder step


def test_on_a_tiny_pool_the_pixels_are_learned_and_become_harder(tiny_dataset):
    settings = {"width": 8, "meta_batch": 3, "rounds": 14, "pixel_lr": 0.1, "eci_start": 4, "eci_patience": 2}
    log = trainer("purer", trained_pool(tiny_dataset), seed=1, **settings)().log
    assert log.history["inversion_loss"][-1] < 0.7 * log.history["inversion_loss"][0]
    assert log.history["teacher_agreement"][-1] > log.history["teacher_agreement"][0] + 0.2
    assert log.iterations == 14 * 3
    assert set(log.seconds) == {"recovery", "meta_training"}
    assert sum(log.history["harder"][:5]) == 0
    assert sum(log.history["harder"][5:]) >= 1
    learner, other = (trainer("purer", icfil=icfil)() for icfil in (True, False))
    assert (type(learner), type(other)) == (CalibratedLearner, MetaLearner)
    assert torch.equal(weights(learner), weights(other))


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

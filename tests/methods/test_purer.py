"""PURER: the pixels' gradient and steps, the episodes, the curriculum, and the whole on a tiny pool."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import HandAdam, Killed, flat, kill_at, rng, tiny_pool, trained_pool, weights

from freelib.datasets import FewShotDataset
from freelib.datasets.episodes import class_major_labels
from freelib.inversion import inversion_loss
from freelib.meta_learner import MetaLearner
from freelib.methods.base import build_student
from freelib.methods.calibration import CalibratedLearner
from freelib.methods.purer import Curriculum, DynamicDataset, Purer, PurerConfig, jittered
from freelib.storage import Checkpoint

TINY = PurerConfig(width=8, n_query=4, meta_batch=3, episodes=2, inner_steps=2, test_steps=2)


def tiny_config(**settings: object) -> PurerConfig:
    return PurerConfig(**{**vars(TINY), **settings})


def test_the_defaults_are_the_published_settings() -> None:
    config = PurerConfig()
    assert (config.lambda_ce, config.lambda_bn, config.lambda_tv, config.lambda_l2) == (1, 0.01, 1e-4, 1e-5)
    assert (config.pixel_lr, config.jitter, config.meta_batch, config.episodes) == (0.01, 2, 13, 4)
    assert (config.outer_lr, config.inner_lr, config.inner_steps, config.test_steps) == (1e-3, 0.01, 5, 10)
    assert (config.eci_start, config.eci_patience, config.eci_weight) == (4000, 6, 10)


def test_all_images_are_rolled_by_one_shift_of_at_most_two_pixels() -> None:
    images = torch.zeros(3, 1, 9, 9)
    images[:, 0, 4, 4] = 1
    draw, places = rng(0), set()
    for _ in range(300):
        rolled = jittered(images, 2, draw)
        rows, columns = rolled[:, 0].nonzero()[:, 1:].unbind(1)
        assert len(set(rows.tolist())) == len(set(columns.tolist())) == 1
        places.add((int(rows[0]), int(columns[0])))
    assert places == {(row, column) for row in range(2, 7) for column in range(2, 7)}


def test_pixels_start_as_cut_noise_for_every_class_of_the_pool() -> None:
    pool = tiny_pool(4)
    dataset = DynamicDataset(pool, TINY, rng(0))
    assert tuple(dataset.pixels) == pool.classes
    assert len(pool.classes) == 8
    images = dataset.images(pool.classes)
    assert images.shape == (8 * 5, 3, 16, 16)
    assert images.min() > -1e-6
    assert images.max() < 1 + 1e-6
    inside = torch.stack(list(dataset.pixels.values()))[:, :, 0]
    assert inside.mean().abs() < 0.1  # noise of the pool's own mean colour


def test_a_class_that_two_models_know_gets_the_sum_of_their_gradients() -> None:
    pool, config = tiny_pool(2), tiny_config(jitter=0)
    dataset = DynamicDataset(pool, config, rng(0))
    labels = class_major_labels(5, 5)
    expected = {key: torch.zeros_like(p) for key, p in dataset.pixels.items()}
    for model in pool:
        pixels = torch.cat([dataset.pixels[key] for key in model.classes]).detach().requires_grad_()
        images = pixels * dataset.std + dataset.mean
        loss, _ = inversion_loss(model, images, labels, config.inversion)
        for key, part in zip(model.classes, torch.autograd.grad(loss, pixels)[0].split(5), strict=True):
            expected[key] += part
    results = [dataset.invert(model, config, rng(0)) for model in pool]
    for key, pixels in dataset.pixels.items():
        assert pixels.grad is not None
        assert torch.allclose(pixels.grad, expected[key], rtol=1e-4, atol=1e-7), key
    assert results[1][0].item() == pytest.approx(loss.item(), rel=1e-5)


def test_a_step_moves_the_drawn_models_classes_and_leaves_the_others_and_their_moments() -> None:
    pool = tiny_pool(4)
    config = tiny_config(jitter=0, pixel_lr=1e-3)
    dataset = DynamicDataset(pool, config, rng(0))
    low, high = -dataset.mean / dataset.std, (1 - dataset.mean) / dataset.std
    adams = {key: HandAdam(1e-3) for key in dataset.pixels}
    for model in (pool[0], pool[3], pool[0]):  # classes 0 to 4, 3 to 7, and 0 to 4 again
        before = {key: p.detach().clone() for key, p in dataset.pixels.items()}
        dataset.invert(model, config, rng(0))
        gradients = {key: p.grad.clone() for key, p in dataset.pixels.items() if p.grad is not None}
        assert set(gradients) == set(model.classes)
        dataset.step()
        for key, pixels in dataset.pixels.items():
            if key not in gradients:
                assert torch.equal(pixels, before[key])
                continue
            (moved,) = adams[key].step([before[key]], [gradients[key]])
            assert torch.allclose(pixels, moved.clamp(low, high), atol=2e-6)
            assert pixels.grad is None


def test_an_episode_takes_all_images_of_its_classes_each_once() -> None:
    dataset = DynamicDataset(tiny_pool(4), TINY, rng(0))
    episode = dataset.episode(TINY, rng(1))
    assert episode.support_labels.tolist() == [0, 1, 2, 3, 4]
    assert episode.query_labels.tolist() == [c for c in range(5) for _ in range(4)]
    everything = dataset.images(tuple(dataset.pixels)).flatten(1)
    classes = []
    for label in range(5):
        own = torch.cat([episode.support[label : label + 1], episode.query[4 * label : 4 * label + 4]])
        rows = [int((everything - image).abs().sum(1).argmin()) for image in own.flatten(1)]
        assert len(set(rows)) == 5
        (number,) = {row // 5 for row in rows}
        classes.append(number)
    assert len(set(classes)) == 5
    assert not torch.equal(dataset.episode(TINY, rng(2)).support, episode.support)


def test_the_challenge_is_the_reversed_outer_loss_for_the_pixels_alone() -> None:
    pool = tiny_pool(4)
    dataset, learner = DynamicDataset(pool, TINY, rng(0)), build_student(pool, TINY, seed=0)
    draw, total = rng(5), torch.zeros(())
    for _ in range(TINY.episodes):
        total = total + learner.query_loss(dataset.episode(TINY, draw), steps=TINY.inner_steps)[0]
    pixels = list(dataset.pixels.values())
    expected = torch.autograd.grad(-10 * total / TINY.episodes, pixels, allow_unused=True)
    dataset.challenge(learner, TINY, rng(5))
    for own, gradient in zip(pixels, expected, strict=True):
        assert (own.grad is None) == (gradient is None)
        if own.grad is not None and gradient is not None:
            assert torch.allclose(own.grad, gradient, rtol=1e-4, atol=1e-8)
    assert all(p.grad is None for p in learner.params.values())


def test_the_curriculum_asks_for_a_harder_step_when_accuracy_has_not_risen_for_as_long_as_it_waits() -> None:
    curriculum = Curriculum(patience=3)
    due = []
    for accuracy in (0.5, 0.6, 0.6, 0.55, 0.6, 0.4, 0.5, 0.5, 0.45, 0.5):
        curriculum.consider(accuracy)
        due.append(curriculum.due)
    assert due == [False] * 4 + [True] + [False] * 4 + [True]  # it forgets 0.6 after the harder step
    again = Curriculum(patience=3)
    again.load_state_dict(curriculum.state_dict())
    assert again.state_dict() == curriculum.state_dict()


def test_on_a_tiny_pool_it_learns_and_a_killed_run_goes_on_with_the_same_bits(
    tiny_dataset: FewShotDataset, tmp_path: Path
) -> None:
    pool = trained_pool(tiny_dataset)
    config = tiny_config(
        rounds=14, pixel_lr=0.1, eci_start=4, eci_patience=2, checkpoint_every=3, monitor_every=4
    )
    learner = Purer().meta_train(pool, config, seed=1, monitor=kill_at(-1))
    history, log = learner.log.history, learner.log
    assert history["inversion_loss"][-1] < 0.7 * history["inversion_loss"][0]
    assert history["teacher_agreement"][-1] > history["teacher_agreement"][0] + 0.2
    assert log.iterations == 14 * 3
    assert set(log.seconds) == {"recovery", "meta_training", "monitor", "monitor_cpu"}
    assert sum(history["harder"][:5]) == 0
    assert sum(history["harder"][5:]) >= 1
    assert learner.selected_round == 4
    assert learner.last_params is not None

    checkpoint = Checkpoint(tmp_path / "run.pt")
    with pytest.raises(Killed):
        Purer().meta_train(pool, config, seed=1, monitor=kill_at(8), checkpoint=checkpoint)
    again = Purer().meta_train(pool, config, seed=1, monitor=kill_at(-1), checkpoint=checkpoint)
    assert torch.equal(weights(again), weights(learner))
    assert again.last_params is not None
    assert torch.equal(flat(list(again.last_params.values())), flat(list(learner.last_params.values())))
    assert again.log.history == history


@pytest.mark.parametrize(("icfil", "kind"), [(True, CalibratedLearner), (False, MetaLearner)])
def test_calibration_is_a_switch_that_training_does_not_see(
    tiny_dataset: FewShotDataset, icfil: bool, kind: type[MetaLearner]
) -> None:
    learner = Purer().meta_train(trained_pool(tiny_dataset), tiny_config(rounds=2, icfil=icfil), seed=0)
    assert type(learner) is kind
    other = Purer().meta_train(trained_pool(tiny_dataset), tiny_config(rounds=2, icfil=not icfil), seed=0)
    assert torch.equal(weights(learner), weights(other))


def test_too_few_classes_for_an_episode_are_refused() -> None:
    with pytest.raises(ValueError, match="4 classes, too few for n_way=5"):
        Purer().meta_train(tiny_pool(1, n_way=4), TINY, seed=0)

"""Recovery from scratch: the same steps as FIve's, from a generator of its own."""

from __future__ import annotations

import torch
from tiny_models import rng, tiny_model, trained_pool

from freelib.datasets import FewShotDataset
from freelib.generator import MetaGenerator, synthesise_from_scratch
from freelib.inversion import InversionConfig

CONFIG = InversionConfig(images_per_class=4, z_dim=16, ngf=8, generator_lr=0.01, z_lr=0.01, augment_padding=1)


def test_it_is_adaptation_from_weights_drawn_from_the_same_random_numbers() -> None:
    model, draw = tiny_model(), rng(3)
    task = synthesise_from_scratch(model, CONFIG, rng(3), steps=3)
    seed = int(torch.randint(2**31 - 1, (), generator=draw))
    by_hand = MetaGenerator(CONFIG, image_size=16, seed=seed).adapt(model, None, draw, steps=3)
    assert torch.equal(task.images, by_hand.images)
    assert torch.equal(task.losses, by_hand.losses)


def test_it_finds_images_of_the_wanted_classes_and_tells_of_every_step(tiny_dataset: FewShotDataset) -> None:
    task = synthesise_from_scratch(trained_pool(tiny_dataset)[0], CONFIG, rng(0), steps=60)
    assert task.losses.shape == task.agreements.shape == (60,)
    assert task.losses[-1] < 0.5 * task.losses[0]
    assert task.agreements[0] < 0.5
    assert task.agreements[-1] == task.agreement > 0.9
    assert task.labels.tolist() == [c for c in range(5) for _ in range(4)]


def test_two_models_get_two_generators_and_the_size_that_is_asked_for() -> None:
    draw = rng(0)
    first, second = (
        synthesise_from_scratch(tiny_model(), CONFIG, draw, steps=1, image_size=8) for _ in range(2)
    )
    assert first.images.shape == second.images.shape == (20, 3, 8, 8)
    assert (first.images - second.images).abs().mean() > 0.01

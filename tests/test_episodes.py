"""Episodes: the same for every method, in any order; and the images and labels that come into freelib."""

from dataclasses import fields
from inspect import unwrap

import numpy as np
import pytest
import torch

from freelib.datasets.episodes import (
    EpisodeSampler,
    check_labels,
    checked_images,
    class_major_labels,
    images_to_float,
    images_to_uint8,
)


def equal(a, b) -> bool:
    return all(torch.equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))


def test_an_episode_holds_what_its_indices_say(tiny_dataset):
    sampler = EpisodeSampler(tiny_dataset, n_way=3, n_shot=2, n_query=4, seed=5)
    episode, rows = sampler.episode(7), sampler.indices(7)
    assert episode.support.shape == (6, 3, 16, 16)
    assert torch.equal(episode.support, tiny_dataset.images[rows[:, :2].flatten()].float() / 255)
    assert torch.equal(episode.query, tiny_dataset.images[rows[:, 2:].flatten()].float() / 255)
    assert episode.support_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert episode.query_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert {getattr(episode.to("meta"), f.name).device.type for f in fields(episode)} == {"meta"}


def test_rows_are_distinct_images_of_distinct_classes_and_every_one_comes_up(tiny_dataset):
    sampler = EpisodeSampler(tiny_dataset, n_way=5, n_shot=2, n_query=22, seed=0)
    for i in range(20):
        rows = sampler.indices(i)
        classes = rows // 24
        assert (classes == classes[:, :1]).all()
        assert len(classes[:, 0].unique()) == 5
        assert len(rows.unique()) == rows.numel()  # support and query never share an image
    sampler = EpisodeSampler(tiny_dataset, n_way=5, n_shot=1, n_query=3)
    seen = torch.cat([sampler.indices(i).flatten() for i in range(300)])
    assert len(seen.unique()) == len(tiny_dataset.images)
    counts = torch.bincount(seen // 24, minlength=10) / len(seen)
    assert (counts - 0.1).abs().max() < 0.03


@pytest.mark.parametrize(
    ("seed", "i", "rows"),
    [
        (0, 0, [[120, 138, 123], [159, 154, 163]]),
        (0, 1, [[68, 64, 51], [222, 238, 220]]),
        (7, 3, [[130, 127, 138], [220, 233, 239]]),
    ],
)
def test_episodes_are_those_that_were_always_drawn(tiny_dataset, seed, i, rows):
    assert EpisodeSampler(tiny_dataset, n_way=2, n_shot=1, n_query=2, seed=seed).indices(i).tolist() == rows


def test_the_same_seed_gives_the_same_episodes_in_any_order(tiny_dataset):
    def make(seed):
        return EpisodeSampler(tiny_dataset, n_way=2, n_query=3, seed=seed)

    walked = list(make(1).take(6))
    assert all(equal(make(1).episode(i), walked[i]) for i in (5, 0, 3))
    assert all(equal(a, b) for a, b in zip(make(1).take(2, start=4), walked[4:], strict=True))
    assert not equal(make(2).episode(0), walked[0])
    everything = {tuple(make(seed).indices(i).flatten().tolist()) for seed in range(10) for i in range(50)}
    assert len(everything) == 500
    batch = make(1).batch(4, start=1)
    assert batch.support.shape == (4, 2, 3, 16, 16)
    assert torch.equal(batch.query[2], walked[3].query)
    assert torch.equal(batch.query_labels[0], class_major_labels(2, 3))
    one, five = (EpisodeSampler(tiny_dataset, n_shot=shots, n_query=5) for shots in (1, 5))
    assert torch.equal(one.indices(3)[:, 0], five.indices(3)[:, 0])


def test_images_become_float_and_back():
    bytes_ = torch.tensor([[0, 51, 255]], dtype=torch.uint8)
    assert images_to_float(bytes_).tolist() == [[0.0, pytest.approx(0.2), 1.0]]
    assert bytes_.tolist() == [[0, 51, 255]]
    assert torch.equal(images_to_float(torch.tensor([0.25], dtype=torch.float64)), torch.tensor([0.25]))
    images = torch.tensor([-0.1, 0.0, 0.2, 0.4999, 1.0, 1.1])
    kept = images.clone()
    assert images_to_uint8(images).tolist() == [0, 0, 51, 127, 255, 255]
    assert torch.equal(images, kept)
    bytes_ = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(images_to_uint8(images_to_float(bytes_)), bytes_)


X = torch.zeros(2, 3, 4, 4)


@pytest.mark.parametrize(
    ("use", "error", "words"),
    [
        (lambda d: EpisodeSampler(d, n_way=11), ValueError, "10 classes, too few for n_way=11"),
        (lambda d: EpisodeSampler(d, n_shot=10), ValueError, "24 images, too few for .* = 25"),
        (lambda d: EpisodeSampler(d, n_shot=0), ValueError, "at least 1, got 5, 0 and 15"),
        (lambda d: EpisodeSampler(d, n_query=1).episode(-1), ValueError, "there is no episode -1"),
        (lambda d: EpisodeSampler(d, n_query=1).take(-1), ValueError, "at least 0, got -1 and 0"),
        (lambda d: images_to_float(torch.tensor([255])), TypeError, "uint8 in 0…255 or float"),
        # without the tests' own check of types:
        (lambda d: unwrap(check_labels)(X, [0, 1]), ValueError, r"Labels are a tensor .* got a list"),
        (lambda d: unwrap(check_labels)(X, np.arange(2)), ValueError, r"Labels are a tensor .* a ndarray"),
        (lambda d: unwrap(checked_images)(X.numpy(), 3), ValueError, "are a tensor.* got a ndarray float32"),
    ],
)
def test_what_cannot_be_is_an_error(tiny_dataset, use, error, words):
    with pytest.raises(error, match=words):
        use(tiny_dataset)

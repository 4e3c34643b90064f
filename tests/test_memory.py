import io

import pytest
import torch
import torch.nn.functional as F
from tiny_models import rng, task_of, tiny_model

from freelib.memory import TaskMemory


def task(model_number: int, level: int, *, per_class: int = 4, first_class: int = 0, size: int = 16, **model):
    """A task whose image j of class c is all (level + 10 c + j) / 255: an image tells where it came from."""
    labels = torch.arange(5).repeat_interleave(per_class)
    values = (level + 10 * labels + torch.arange(per_class).repeat(5)) / 255
    images = values[:, None, None, None].expand(-1, 3, size, size).clone()
    source = tiny_model(model_number, first_class=first_class, image_size=max(size, 16), **model)
    return task_of(source, images, labels)


def values(images: torch.Tensor) -> list[int]:
    """The level of each image."""
    return (images[:, 0, 0, 0] * 255).round().int().tolist()


def memory(**settings) -> TaskMemory:
    return TaskMemory(image_size=16, **settings)


def test_images_are_kept_by_class_across_models():
    kept = memory()
    kept.add([task(0, 0), task(1, 100, first_class=3)])
    assert len(kept) == 40
    assert kept.classes == [("tiny", f"class {i}") for i in range(8)]
    # class 3 is class 3 of the first model and class 0 of the second: both serve
    episode = kept.episode(8, 1, 3, rng())
    by_row = sorted(values(episode.query[i * 3 : i * 3 + 3]) + values(episode.support[i : i + 1]) for i in range(8))
    assert {level // 10 for row in by_row for level in row} <= {0, 1, 2, 3, 4, 10, 11, 12, 13, 14}
    rows = [{v // 10 for v in row} for row in by_row]
    assert all(len(row) == 1 or row in ({3, 10}, {4, 11}) for row in rows)
    kept = memory()
    kept.add([task(0, 0), task(1, 100, domain="other")])
    assert len(kept.classes) == 10
    kept = memory()
    kept.add([task(0, 0), task(1, 100, first_class=5)])
    a, b, c = (kept.episode(5, 1, 3, rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(a.query, b.query)
    assert not torch.equal(a.query, c.query)


def test_the_oldest_batch_of_a_class_goes():
    kept = memory(batches_per_class=2)
    kept.add([task(i, level) for i, level in enumerate((0, 60, 120))])
    assert len(kept) == 2 * 20
    seen = {v for i in range(20) for v in values(kept.episode(5, 1, 3, rng(i)).query)}
    assert min(seen) >= 60
    assert seen & set(range(60, 104))
    assert seen & set(range(120, 164))


def test_an_episode_is_distinct_images_class_by_class():
    kept = memory()
    kept.add([task(0, 0), task(1, 100)])
    for seed in range(20):
        episode = kept.episode(3, 2, 5, rng(seed))
        assert episode.support_labels.tolist() == [0, 0, 1, 1, 2, 2]
        assert episode.query_labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
        assert episode.support.dtype == torch.float32
        drawn = values(episode.support) + values(episode.query)
        assert len(set(drawn)) == len(drawn)
        classes = [level % 100 // 10 for level in drawn]
        assert classes[:6] == [classes[0]] * 2 + [classes[2]] * 2 + [classes[4]] * 2
        assert classes[6:] == [classes[0]] * 5 + [classes[2]] * 5 + [classes[4]] * 5


@pytest.mark.parametrize("first_class", [5, 0])
def test_cross_mixes_models_and_within_does_not_even_where_they_share_classes(first_class):
    kept = memory()
    kept.add([task(0, 0), task(1, 100, first_class=first_class)])
    models = {"cross": set(), "within": set()}
    for scope, found in models.items():
        for seed in range(20):
            episode = kept.episode(5, 1, 3, rng(seed), scope=scope)
            found.add(frozenset(level // 100 for level in values(episode.support) + values(episode.query)))
    assert frozenset({0, 1}) in models["cross"]
    assert models["within"] == {frozenset({0}), frozenset({1})}


@pytest.mark.parametrize(
    ("size", "scope", "expected"),
    [
        ((5, 1, 3), "cross", True),
        ((8, 1, 3), "cross", True),
        ((9, 1, 3), "cross", False),
        ((2, 1, 7), "cross", True),  # classes 3 and 4 have eight images
        ((3, 1, 7), "cross", False),
        ((5, 1, 3), "within", True),
        ((6, 1, 3), "within", False),
        ((2, 1, 7), "within", False),
    ],
)
def test_ready_says_whether_an_episode_can_be_drawn(size, scope, expected):
    kept = memory()
    assert not kept.ready(*size, scope=scope)
    kept.add([task(0, 0), task(1, 100, first_class=3)])
    assert kept.ready(*size, scope=scope) is expected
    if expected:
        assert len(kept.episode(*size, rng(), scope=scope).query) == size[0] * size[2]
    else:
        with pytest.raises(ValueError, match=r"holds no .* classes with .* images each"):
            kept.episode(*size, rng(), scope=scope)


def test_images_of_another_size_are_resized():
    kept = memory()
    big = task(0, 0, size=32)
    big.images.copy_(torch.rand(big.images.shape, generator=rng()))
    kept.add([big])
    expected = F.interpolate(big.images, (16, 16), mode="bilinear", antialias=True)
    episode = kept.episode(5, 1, 3, rng())
    assert episode.query.shape == (15, 3, 16, 16)
    for image in episode.query:
        assert (expected - image).abs().amax((1, 2, 3)).min() <= 0.5 / 255 + 1e-6


def test_a_saved_state_comes_back():
    kept, other = memory(batches_per_class=2), memory(batches_per_class=2)
    kept.add([task(i, 40 * i, first_class=i) for i in range(3)])
    buffer = io.BytesIO()
    torch.save(kept.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert other.classes == kept.classes
    for scope in ("cross", "within"):
        a, b = (one.episode(5, 1, 2, rng(3), scope=scope) for one in (kept, other))
        assert torch.equal(a.support, b.support)
    for one in (kept, other):
        one.add([task(7, 200)])
    assert torch.equal(kept.episode(5, 1, 2, rng(4)).query, other.episode(5, 1, 2, rng(4)).query)


def test_a_memory_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1 batch a class, got 0"):
        memory(batches_per_class=0)

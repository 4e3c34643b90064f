"""The memory of synthesised tasks, and replay from it."""

import io

import pytest
import torch
import torch.nn.functional as F
from tiny_models import PlainAdam, conv_learner, flat, random_episode, rng, smooth_learner, task_of, tiny_model

from freelib import MetaLearner
from freelib.memory import TaskMemory
from freelib.methods.free import FreeConfig
from freelib.models.backbones import build_backbone
from freelib.replay import ReplayConfig, maml_step, replay


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


def test_an_episode_is_distinct_images_class_by_class_the_oldest_batch_gone():
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
    kept = memory(batches_per_class=2)
    kept.add([task(i, level) for i, level in enumerate((0, 60, 120))])
    assert len(kept) == 2 * 20
    seen = {v for i in range(20) for v in values(kept.episode(5, 1, 3, rng(i)).query)}
    assert min(seen) >= 60
    assert seen & set(range(60, 104))
    assert seen & set(range(120, 164))


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


def test_a_saved_state_comes_back_and_images_of_another_size_are_resized():
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
    kept = memory()
    big = task(0, 0, size=32)
    big.images.copy_(torch.rand(big.images.shape, generator=rng()))
    kept.add([big])
    expected = F.interpolate(big.images, (16, 16), mode="bilinear", antialias=True)
    episode = kept.episode(5, 1, 3, rng())
    assert episode.query.shape == (15, 3, 16, 16)
    for image in episode.query:
        assert (expected - image).abs().amax((1, 2, 3)).min() <= 0.5 / 255 + 1e-6


class Scripted(MetaLearner):
    """A learner whose accuracy goes by a script."""

    script: tuple[float, ...] = ()
    asked = 0

    def query_loss(self, episode, *, steps, second_order=True):
        accuracy = self.script[min(self.asked, len(self.script) - 1)]
        self.asked += 1
        return sum(p.sum() for p in self.params.values()) * 0 + 2.0, torch.tensor(accuracy)


def toy_memory(dataset) -> TaskMemory:
    """Real images of the tiny data set, as if they had been recovered."""
    memory = TaskMemory(image_size=16)
    for first in (0, 5):
        images = torch.cat([dataset.class_images(first + c) for c in range(5)]).float() / 255
        memory.add([task_of(tiny_model(first, first_class=first), images, torch.arange(5).repeat_interleave(24))])
    return memory


def run(dataset, learner, config, **shape):
    optimizer = torch.optim.Adam(learner.backbone.parameters(), lr=config.replay_lr)
    wanted = FreeConfig(**vars(config) | {"n_query": 4, "inner_steps": 1} | shape)
    return replay(learner, toy_memory(dataset), wanted, optimizer, rng())


@pytest.mark.parametrize(
    ("script", "patience", "cap", "batches"),
    [
        ((0.5, 0.6, 0.6, 0.5, 0.9), 2, 100, 4),  # equal is not better
        ((0.5, 0.4, 0.6, 0.3, 0.7, 0.1), 2, 100, 7),
        ((0.5,), 3, 100, 4),
        ((0.1, 0.2, 0.3, 0.4, 0.5, 0.6), 2, 5, 5),
        ((0.5,), 0, 12, 12),
    ],
)
def test_replay_stops_by_patience_or_at_its_cap(tiny_dataset, script, patience, cap, batches):
    learner = Scripted(build_backbone("conv4", width=4, image_size=16), mean=(0.0,), std=(1.0,), image_size=16)
    learner.script = script
    config = ReplayConfig(replay_patience=patience, replay_batches=cap, replay_episodes=1)
    history = run(tiny_dataset, learner, config)
    assert len(history) == learner.asked == batches
    assert history[0] == (2.0, pytest.approx(script[0]))


def test_replay_raises_accuracy_unless_it_is_switched_off_or_the_memory_too_small(tiny_dataset):
    learner = conv_learner(width=8, seed=0, inner_lr=0.05, mean=(0.4,) * 3, std=(0.2,) * 3)
    config = ReplayConfig(replay_lr=0.005, replay_batches=25, replay_episodes=4, replay_patience=0)
    accuracy = [a for _, a in run(tiny_dataset, learner, config)]
    assert sum(accuracy[-5:]) / 5 > sum(accuracy[:5]) / 5 + 0.1
    assert sum(accuracy[-5:]) / 5 > 0.6
    assert all(p.grad is None for p in learner.params.values())
    learner = conv_learner(width=8)
    before = flat(learner.params.values())
    assert run(tiny_dataset, learner, ReplayConfig(replay_scope="none")) == []
    assert run(tiny_dataset, learner, ReplayConfig(), n_query=24) == []
    assert run(tiny_dataset, learner, ReplayConfig(replay_scope="within"), n_way=6) == []
    assert torch.equal(flat(learner.params.values()), before)
    ends = []
    for second_order in (True, False):
        learner = conv_learner(width=8, inner_lr=0.1)
        config = ReplayConfig(replay_batches=2, replay_episodes=2, second_order=second_order)
        run(tiny_dataset, learner, config, inner_steps=2)
        ends.append(flat(learner.params.values()))
    assert not torch.equal(*ends)


def test_an_outer_step_is_adam_on_the_mean_gradient():
    episodes = [random_episode(1, 2, n_way=3, seed=i, shape=(1, 2, 2), dtype=torch.float64) for i in range(4)]
    learner = smooth_learner(inner_lr=0.5)
    start = [p.detach().clone() for p in learner.params.values()]
    results = [learner.query_loss(e, steps=2) for e in episodes]
    mean = sum(loss for loss, _ in results) / 4
    gradients = torch.autograd.grad(mean, list(learner.params.values()))
    optimizer = torch.optim.Adam(learner.backbone.parameters(), lr=0.01)
    loss, accuracy = maml_step(learner, episodes, optimizer, steps=2)
    torch.testing.assert_close([p.detach() for p in learner.params.values()], PlainAdam(0.01).step(start, gradients))
    assert loss == pytest.approx(float(mean.detach()), rel=1e-6)
    assert accuracy == pytest.approx(sum(float(a) for _, a in results) / 4)

import pytest
import torch
from tiny_models import HandAdam, conv_learner, flat, random_episode, rng, smooth_learner, task_of, tiny_model

from freelib import MetaLearner, MethodConfig
from freelib.memory import TaskMemory
from freelib.models.backbones import build_backbone
from freelib.replay import ReplayConfig, maml_step, replay


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
    wanted = MethodConfig(**{"n_query": 4, "inner_steps": 1} | shape)
    return replay(learner, toy_memory(dataset), config, optimizer, rng(), wanted)


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


def test_replay_raises_accuracy(tiny_dataset):
    learner = conv_learner(width=8, seed=0, inner_lr=0.05, mean=(0.4,) * 3, std=(0.2,) * 3)
    config = ReplayConfig(replay_lr=0.005, replay_batches=25, replay_episodes=4, replay_patience=0)
    accuracy = [a for _, a in run(tiny_dataset, learner, config)]
    assert sum(accuracy[-5:]) / 5 > sum(accuracy[:5]) / 5 + 0.1
    assert sum(accuracy[-5:]) / 5 > 0.6
    assert all(p.grad is None for p in learner.params.values())


def test_an_outer_step_is_adam_on_the_mean_gradient():
    episodes = [random_episode(1, 2, n_way=3, seed=i, shape=(1, 2, 2), dtype=torch.float64) for i in range(4)]
    learner = smooth_learner(inner_lr=0.5)
    start = [p.detach().clone() for p in learner.params.values()]
    results = [learner.query_loss(e, steps=2) for e in episodes]
    mean = sum(loss for loss, _ in results) / 4
    gradients = torch.autograd.grad(mean, list(learner.params.values()))
    optimizer = torch.optim.Adam(learner.backbone.parameters(), lr=0.01)
    loss, accuracy = maml_step(learner, episodes, optimizer, steps=2)
    torch.testing.assert_close([p.detach() for p in learner.params.values()], HandAdam(0.01).step(start, gradients))
    assert loss == pytest.approx(float(mean.detach()), rel=1e-6)
    assert accuracy == pytest.approx(sum(float(a) for _, a in results) / 4)


def test_there_is_no_replay_where_it_is_switched_off_or_the_memory_too_small(tiny_dataset):
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

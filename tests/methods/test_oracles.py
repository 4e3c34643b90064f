"""The real-data upper bounds: they learn from real images, and a batch is an outer step."""

import pytest
import torch
import torch.nn.functional as F
from small_methods import small, trainer
from tiny_models import tiny_pool

from freelib import EpisodeSampler, evaluate, get_method
from freelib.methods.base import build_student

ORACLES = ["oracle_maml", "oracle_protonet"]


def test_one_step_of_maml_by_hand(tiny_dataset):
    """The first batch's gradient, through two inner steps written out, is the sign of Adam's first step."""
    settings = {"rounds": 1, "round_batches": 1, "inner_steps": 2, "inner_lr": 0.1}
    learner = build_student(tiny_pool(1), small("oracle_maml", **settings), seed=0)
    total = torch.zeros(())
    for episode in EpisodeSampler(tiny_dataset, n_way=5, n_shot=1, n_query=3, seed=0).take(2):
        weights = learner.params
        for _ in range(2):
            logits = learner.forward(weights, learner.transform(episode.support))
            loss = F.cross_entropy(logits, episode.support_labels)
            gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            weights = {n: w - 0.1 * g for (n, w), g in zip(weights.items(), gradients, strict=True)}
        logits = learner.forward(weights, learner.transform(episode.query))
        total = total + F.cross_entropy(logits, episode.query_labels) / 2
    gradients = torch.autograd.grad(total, list(learner.params.values()))
    trained = trainer("oracle_maml", tiny_pool(1), dataset=tiny_dataset, **settings)()
    assert trained.log.history["loss"] == pytest.approx([total.item()], rel=1e-5)
    for (name, start), gradient in zip(learner.params.items(), gradients, strict=True):
        clear = gradient.abs() > 1e-4  # where Adam's epsilon is nothing
        moved = (trained.params[name] - start).detach()
        torch.testing.assert_close(moved[clear], -1e-3 * gradient.sign()[clear], atol=2e-6, rtol=0)
    assert all(get_method(name).oracle for name in ORACLES)
    lower = trainer("oracle_protonet", tiny_pool(1), dataset=tiny_dataset, precision="bfloat16")()
    assert torch.isfinite(torch.tensor(lower.log.history["loss"])).all()


@pytest.mark.parametrize("name", ORACLES)
def test_training_helps_on_new_classes(tiny_dataset, name):
    train, held_out = tiny_dataset.subset(range(5)), tiny_dataset.subset(range(5, 10))
    settings = {"width": 8, "n_query": 5, "rounds": 5, "round_batches": 5, "lr": 1e-2, "inner_lr": 0.1}
    settings |= {"inner_steps": 5, "test_steps": 10}
    sampler = EpisodeSampler(held_out, n_way=5, n_shot=1, n_query=15, seed=1)
    before = evaluate(build_student(tiny_pool(1), small(name, **settings), seed=0), sampler, 10)
    learner = trainer(name, tiny_pool(1), dataset=train, **settings)()
    assert evaluate(learner, sampler, 10).mean - before.mean > 5
    assert learner.log.history["loss"][-1] < learner.log.history["loss"][0]

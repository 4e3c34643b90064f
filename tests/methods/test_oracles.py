"""The oracles: they learn from real images, and a batch is the outer step that it should be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny_models import Killed, kill_at, tiny_pool

from freelib.datasets.episodes import EpisodeSampler
from freelib.methods.base import build_student
from freelib.methods.oracles import OracleConfig, OracleMaml, OracleProtonet, OracleProtonetConfig
from freelib.run.evaluation import evaluate
from freelib.storage import Checkpoint

SMALL = {"width": 4, "n_query": 5, "rounds": 3, "round_batches": 2, "meta_batch": 2}
MAML, PROTONET = OracleConfig(**SMALL), OracleProtonetConfig(**SMALL)


def test_one_step_of_maml_by_hand(tiny_dataset):
    """The first batch's gradient, through two inner steps written out, is the sign of Adam's first step."""
    config = replace(MAML, rounds=1, round_batches=1, inner_steps=2, inner_lr=0.1)
    pool = tiny_pool(1)
    learner = build_student(pool, config, seed=0)
    start = {name: p.detach().clone() for name, p in learner.params.items()}
    total = 0.0
    sampler = EpisodeSampler(tiny_dataset, n_way=5, n_shot=1, n_query=5, seed=0)
    for episode in sampler.take(2):
        weights = learner.params
        for _ in range(2):
            logits = learner.forward(weights, learner.transform(episode.support))
            gradients = torch.autograd.grad(
                F.cross_entropy(logits, episode.support_labels), list(weights.values()), create_graph=True
            )
            weights = {n: w - 0.1 * g for (n, w), g in zip(weights.items(), gradients, strict=True)}
        logits = learner.forward(weights, learner.transform(episode.query))
        total = total + F.cross_entropy(logits, episode.query_labels) / 2
    gradients = dict(
        zip(learner.params, torch.autograd.grad(total, list(learner.params.values())), strict=True)
    )
    trained = OracleMaml().meta_train(pool, config, seed=0, dataset=tiny_dataset)
    assert trained.log.history["loss"] == pytest.approx([total.item()], rel=1e-5)
    for name, gradient in gradients.items():
        clear = gradient.abs() > 1e-4  # where Adam's epsilon is nothing
        moved = trained.params[name].detach() - start[name]
        torch.testing.assert_close(moved[clear], -1e-3 * gradient.sign()[clear], atol=2e-6, rtol=0)


@pytest.mark.parametrize("method", [OracleMaml(), OracleProtonet()])
def test_training_helps_on_new_classes(tiny_dataset, method):
    train, held_out = tiny_dataset.subset(range(5)), tiny_dataset.subset(range(5, 10))
    config = method.Config(**{**SMALL, "width": 8, "rounds": 5, "round_batches": 5}, lr=1e-2, inner_lr=0.1)
    sampler = EpisodeSampler(held_out, n_way=5, n_shot=1, n_query=15, seed=1)
    before = evaluate(build_student(tiny_pool(1), config, seed=0), sampler, 10)
    learner = method.meta_train(tiny_pool(1), config, seed=0, dataset=train)
    after = evaluate(learner, sampler, 10)
    assert after.mean - before.mean > 5
    assert learner.log.history["loss"][-1] < learner.log.history["loss"][0]


@pytest.mark.parametrize(("method", "config"), [(OracleMaml(), MAML), (OracleProtonet(), PROTONET)])
def test_a_killed_run_goes_on_with_the_same_bits(tiny_dataset, tmp_path, method, config):
    config = replace(config, checkpoint_every=1, monitor_every=1)

    def train(**more):
        settings = {"monitor": kill_at(-1), **more}
        return method.meta_train(tiny_pool(1), config, seed=4, dataset=tiny_dataset, **settings)

    checkpoint = Checkpoint(tmp_path / "run.pt")
    with pytest.raises(Killed):
        train(monitor=kill_at(2), checkpoint=checkpoint)
    whole, resumed = train(), train(checkpoint=checkpoint)
    torch.testing.assert_close(resumed.params, whole.params, atol=0, rtol=0)
    torch.testing.assert_close(resumed.last_params, whole.last_params, atol=0, rtol=0)
    assert resumed.log.history == whole.log.history
    assert resumed.selected_round == 1


def test_without_images_there_is_no_oracle(tiny_dataset):
    assert OracleMaml.oracle
    assert OracleProtonet.oracle
    with pytest.raises(ValueError, match="oracle_maml learns from real images: give dataset="):
        OracleMaml().meta_train(tiny_pool(1), MAML, seed=0)
    with pytest.raises(ValueError, match="too few for n_way=5"):
        OracleMaml().meta_train(tiny_pool(1), MAML, seed=0, dataset=tiny_dataset.subset(range(4)))


def test_maml_says_that_it_trains_in_float32(tiny_dataset):
    with pytest.raises(ValueError, match="oracle_maml trains in float32, got precision='bfloat16'"):
        OracleMaml().meta_train(
            tiny_pool(1), replace(MAML, precision="bfloat16"), seed=0, dataset=tiny_dataset
        )
    lower = replace(PROTONET, precision="bfloat16")
    assert OracleProtonet().meta_train(tiny_pool(1), lower, seed=0, dataset=tiny_dataset).log

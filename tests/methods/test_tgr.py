"""TGR: Fisher information by hand, groups of unlike models, the variance rule to first order."""

import pytest
import torch
import torch.nn.functional as F
from small_methods import trainer
from tiny_models import flat, random_batch, rng, smooth_learner, tiny_model, tiny_pool, weights

from freelib.alignment import AlignmentConfig, DistillationHeads, distillation_loss, variance_gradient
from freelib.methods.tgr import fisher_diagonals, similarity, unlike_groups


def test_the_fisher_information_is_the_mean_square_of_each_images_gradient():
    probe, images = tiny_model(0), torch.rand(20, 3, 16, 16, generator=rng(1))
    found = fisher_diagonals(probe, images, rng(2))
    inputs = probe.transform(images)
    drawn = torch.multinomial(probe.module(inputs).detach().softmax(1), 1, generator=rng(2))[:, 0]
    own = [p.requires_grad_() for p in probe.module.parameters() if p.ndim > 1]
    total = [torch.zeros_like(p) for p in own]
    for x, y in zip(inputs, drawn, strict=True):
        loss = F.cross_entropy(probe.module(x[None]), y[None])
        total = [t + g.square() for t, g in zip(total, torch.autograd.grad(loss, own), strict=True)]
    torch.testing.assert_close(found, [(t / 20).flatten() for t in total], atol=1e-6, rtol=1e-3)


def test_models_that_use_other_weights_are_unlike():
    a, b = [torch.tensor([1.0, 0.0]), torch.tensor([2.0, 2.0])], [torch.tensor([0.0, 1.0]), torch.tensor([2.0, 2.0])]
    assert similarity(a, a) == pytest.approx(1.0)
    assert similarity(a, b) == pytest.approx(0.5)


def test_a_group_holds_unlike_models():
    """Of four models two pairs differ in both layers, the others in one."""
    layers = torch.eye(2)
    fishers = [[layers[a], layers[b]] for a, b in ((0, 0), (1, 0), (0, 1), (1, 1))]
    groups = unlike_groups(fishers, 2, seed=0).tolist()
    assert groups[0] == groups[3] != groups[1] == groups[2]
    assert unlike_groups(fishers[:2], 5, seed=0).tolist() == [0, 1]


def test_the_variance_rule_descends_the_losses_and_the_gradients_variance():
    learner, batches, step = smooth_learner(), [random_batch(seed) for seed in range(3)], 1e-3
    heads, params = DistillationHeads(learner), list(learner.params.values())
    rows = []
    for batch in batches:
        loss = distillation_loss(heads, learner.params, batch)
        gradients = torch.autograd.grad(loss, params, create_graph=True)
        rows.append(torch.cat([g.flatten() for g in gradients]))
    gradients = torch.stack(rows)
    variance = (gradients - gradients.mean(0)).square().sum(1).mean()
    slope = flat(torch.autograd.grad(variance, params))
    found, loss = variance_gradient(heads, batches, AlignmentConfig(alignment="variance", variance_step=step))
    moved = flat(found.values()) - gradients.mean(0).detach()
    torch.testing.assert_close(moved, step / 2 * slope, atol=1e-2 * float((step / 2 * slope).abs().max()), rtol=0.05)
    losses = torch.stack([distillation_loss(heads, learner.params, batch).detach() for batch in batches])
    torch.testing.assert_close(loss, losses.mean())


def test_the_labels_are_learnt_from_as_well():
    learner, batch = smooth_learner(), random_batch(0)
    labels = torch.arange(len(batch.images)) % len(learner.params["head.weight"])
    both = type(batch)(batch.images, batch.teacher_logits, batch.model, labels)
    heads = DistillationHeads(learner)
    logits = learner.forward(learner.params, learner.transform(batch.images))
    expected = distillation_loss(heads, learner.params, batch) + 0.5 * F.cross_entropy(logits, labels)
    config = AlignmentConfig(label_weight=0.5)
    torch.testing.assert_close(distillation_loss(heads, learner.params, both, config), expected)


def test_a_round_inverts_or_recalls():
    settings = {"grouping_steps": 2, "groups": 2, "invert_every": 2, "rounds": 3}
    learner = trainer("tgr", tiny_pool(4), **settings)()
    assert learner.log.history["inversion_round"] == [1, 3]
    assert learner.log.iterations == 4 * 2 + 2 * 2 * 2  # all models once, then two rounds of two, two steps each
    other = trainer("tgr", tiny_pool(4), **settings, alignment="summed")()
    assert not torch.equal(weights(learner), weights(other))
    forgetful = trainer("tgr", tiny_pool(4), **settings | {"invert_every": 9}, memory_batches=1)()
    assert forgetful.log.history["inversion_round"] == [1, 2, 3]  # a batch a class: other models' took their place

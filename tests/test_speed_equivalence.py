"""What is fast gives the numbers of what is plain."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freelib.datasets.episodes import Episode, EpisodeSampler, class_major_labels
from freelib.fast.conv4_derivatives import InnerLoop, weight_names
from freelib.meta_learner import MetaLearner
from freelib.models.backbones import build_backbone
from freelib.run.evaluation import evaluate, evaluate_centres


def episode(size: int, n_shot: int) -> Episode:
    draw = torch.Generator().manual_seed(3)
    support = torch.rand(5 * n_shot, 3, size, size, generator=draw)
    query = torch.rand(15, 3, size, size, generator=draw)
    return Episode(support, class_major_labels(5, n_shot), query, class_major_labels(5, 3))


def conv4_learner(size: int, batch_stats: bool = True, **settings: object) -> MetaLearner:
    """A Conv4 in float64 with scales of both signs."""
    backbone = build_backbone("conv4", width=6, image_size=size, batch_stats=batch_stats, seed=1).double()
    draw = torch.Generator().manual_seed(2)
    for layer in backbone.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.data = torch.randn(layer.num_features, generator=draw).double()
            layer.bias.data = 0.3 * torch.randn(layer.num_features, generator=draw).double()
    settings = {"inner_lr": 0.1} | settings
    return MetaLearner(backbone, mean=(0.4,) * 3, std=(0.3,) * 3, image_size=size, **settings)


@pytest.mark.parametrize(("size", "n_shot", "steps"), [(16, 1, 3), (32, 2, 2), (21, 1, 1), (16, 1, 0)])
def test_mamls_outer_gradient_written_out_is_autograds(size: int, n_shot: int, steps: int) -> None:
    learner, task = conv4_learner(size), episode(size, n_shot)
    task = Episode(task.support.double(), task.support_labels, task.query.double(), task.query_labels)
    parameters = list(learner.params.values())
    loss, accuracy = learner.query_loss(task, steps=steps)
    ours = torch.autograd.grad(loss, parameters)

    support, query = learner.transform(task.support), learner.transform(task.query)
    adapted = learner.inner_loop(support, task.support_labels, steps=steps, second_order=True)
    logits = learner.forward(adapted, query)
    expected = F.cross_entropy(logits, task.query_labels)
    theirs = torch.autograd.grad(expected, parameters)

    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert accuracy == (logits.argmax(1) == task.query_labels).float().mean()
    for name, a, b in zip(learner.params, ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


def test_only_a_conv4_on_batch_statistics_is_written_out() -> None:
    other = build_backbone("conv4", width=4)
    assert weight_names(other) is None
    assert weight_names(build_backbone("resnet10", width=4, batch_stats=True)) is None
    assert weight_names(nn.Linear(3, 5)) is None
    assert len(weight_names(build_backbone("conv4", width=4, batch_stats=True)) or []) == 14
    with pytest.raises(TypeError, match="Conv4 on batch statistics"):
        InnerLoop(other, torch.zeros(5, 3, 32, 32), torch.arange(5), lr=0.1, steps=1)


class Counting(nn.Module):
    """Counts the images that it embeds."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone, self.seen = backbone, 0

    def features(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return self.backbone.features(images)


@pytest.mark.parametrize("centre", ["none", "support", "episode"])
@pytest.mark.parametrize("batch_stats", [False, True])
def test_prototypes_embed_each_image_once_where_its_features_are_its_own(
    tiny_dataset: object, centre: str, batch_stats: bool
) -> None:
    backbone = build_backbone("conv4", width=6, image_size=16, batch_stats=batch_stats, seed=1).eval()
    module = Counting(backbone)
    learner = MetaLearner(
        module, mean=(0.4,) * 3, std=(0.3,) * 3, image_size=16, head="prototypes", centre=centre
    )
    sampler = EpisodeSampler(tiny_dataset, n_shot=2, n_query=6, seed=4)
    assert learner.embeds_images_one_by_one != batch_stats
    score = evaluate(learner, sampler, 12)
    assert module.seen == 12 * 40 if batch_stats else module.seen <= len(tiny_dataset.images)
    expected = [
        (learner.adapt(e.support, e.support_labels).predict(e.query) == e.query_labels).double().mean() * 100
        for e in sampler.take(12)
    ]
    torch.testing.assert_close(score.accuracies, torch.stack(expected))


def test_several_centres_at_once_give_what_each_gives_alone(tiny_dataset: object) -> None:
    backbone = build_backbone("conv4", width=6, image_size=16, batch_stats=False, seed=1).eval()
    module = Counting(backbone)
    kind = {"mean": (0.4,) * 3, "std": (0.3,) * 3, "image_size": 16, "head": "prototypes"}
    sampler = EpisodeSampler(tiny_dataset, n_shot=2, n_query=6, seed=4)
    scores = evaluate_centres(MetaLearner(module, **kind), sampler, 12)
    assert module.seen <= len(tiny_dataset.images)
    assert list(scores) == ["none", "support", "episode"]
    for centre, score in scores.items():
        alone = evaluate(MetaLearner(module, centre=centre, **kind), sampler, 12)
        torch.testing.assert_close(score.accuracies, alone.accuracies)
    with pytest.raises(ValueError, match="fixed BatchNorm statistics"):
        evaluate_centres(MetaLearner(module, **{**kind, "head": "maml"}), sampler, 12)

"""FREE with the public release's switches is the public release: its equations, written down once more."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny_models import tiny_pool
from torch.func import functional_call

from freelib import get_method
from freelib.generator import Generator, SynthesisedTask
from freelib.memory import TaskMemory
from freelib.methods.base import build_student, stream_seed
from freelib.methods.free import FreeConfig
from freelib.models.backbones import build_backbone

SWITCHES = {
    "shared_adam": True, "displacement_scale": 67.0, "replay_loss": "sum", "meta_adam": "fresh", "init": "release",
    "adversarial": "release", "distillation": "release", "memory_tasks": "last", "augment_each": False,
    "replacement": True,
}  # fmt: skip
SIZES = FreeConfig(
    width=4, n_query=3, inner_steps=2, inner_lr=0.1, warmup_rounds=0, rounds=3, meta_batch=2, images_per_class=4,
    z_dim=8, ngf=4, adapt_steps=3, augment_padding=2, memory_batches=2, replay_episodes=3, replay_batches=3,
)  # fmt: skip


def cropped(images, rng):
    """One crop and one flip for the whole batch."""
    (top,), (left,) = torch.randint(0, 5, (2, 1), generator=rng).tolist()
    mirrored = bool(torch.rand(1, generator=rng) < 0.5)
    moved = F.pad(images, [2] * 4)[..., top : top + images.shape[2], left : left + images.shape[3]]
    return moved.flip(3) if mirrored else moved


def not_a_divergence(target, other):
    """Σ_c p_c (log p_c − q_c): the other's probabilities stand where log-probabilities belong."""
    p, q = target.softmax(1), other.softmax(1)
    return (p * (p.log() - q)).sum(1)


def by_the_equations(pool, config, seed):
    """The student's logits as a function of images, after three rounds of the release."""
    rng = torch.Generator().manual_seed(stream_seed(seed, "draws"))
    student = build_student(pool, config, seed=seed)
    theta = {name: p.detach().clone().requires_grad_() for name, p in student.params.items()}
    adam = torch.optim.Adam(theta.values(), lr=1e-3)  # the only one that the student has
    network = Generator(pool.image_size, z_dim=8, ngf=4, seed=stream_seed(seed, "generator"))
    theta_g = {name: p.detach().clone() for name, p in network.named_parameters()}
    memory = TaskMemory(image_size=pool.image_size, batches_per_class=2)

    def f(weights, images):
        return functional_call(student.backbone, weights, (student.transform(images),))

    for _ in range(3):  # the generator's outer Adam tells in the third
        tasks, total = [], dict.fromkeys(theta_g, 0.0)
        for i in torch.randint(len(pool), (2,), generator=rng).tolist():
            labels, z = torch.arange(5).repeat_interleave(4), torch.randn(20, 8, generator=rng).requires_grad_()
            own = {name: p.clone().requires_grad_() for name, p in theta_g.items()}
            inner = torch.optim.Adam([*own.values(), z], lr=1e-3, betas=(0.5, 0.999))
            for step in range(3):
                images = functional_call(network, own, (z,))
                shown = cropped(images, rng)
                teacher, answers = pool[i](shown), f(theta, shown).detach()
                agree = (teacher.argmax(1) == answers.argmax(1)).float()
                loss = F.cross_entropy(teacher, labels) - (agree * not_a_divergence(answers, teacher)).mean()
                inner.zero_grad()
                loss.backward()
                if step < 2:
                    inner.step()
            total = {name: total[name] + p.grad for name, p in own.items()}
            tasks.append(SynthesisedTask(images.detach(), labels, pool[i], teacher.detach(), torch.zeros(1)))
        # an Adam's first step: what is left of a gradient is its sign
        theta_g = {name: p - 1e-3 * total[name] / (total[name].abs() + 1e-8) for name, p in theta_g.items()}
        memory.add(tasks[-1:])

        shown = [cropped(task.images, rng) for task in tasks]
        moved = {name: p.detach().clone().requires_grad_() for name, p in theta.items()}
        inner = torch.optim.Adam(moved.values(), lr=1e-3)
        for i in torch.randperm(2, generator=rng).tolist():
            inner.zero_grad()
            not_a_divergence(tasks[i].model(shown[i]).detach(), f(moved, shown[i])).mean().backward()
            inner.step()
        for name, p in theta.items():
            p.grad = 67 * (p.detach() - moved[name].detach())
        adam.step()

        for _ in range(3):
            losses = []
            for episode in [memory.episode(5, 1, 3, rng, scope="cross") for _ in range(3)]:
                adapted = theta
                for _ in range(2):
                    loss = F.cross_entropy(f(adapted, episode.support), episode.support_labels)
                    slopes = torch.autograd.grad(loss, list(adapted.values()), create_graph=True)
                    adapted = {n: p - 0.1 * s for (n, p), s in zip(adapted.items(), slopes, strict=True)}
                losses.append(F.cross_entropy(f(adapted, episode.query), episode.query_labels))
            adam.zero_grad()
            sum(losses).backward()
            adam.step()
    return lambda images: f(theta, images).detach()


@pytest.fixture(scope="module")
def images():
    return torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(5))


def answers(images, **switches):
    config = replace(SIZES, **switches)
    learner = get_method("free").meta_train(tiny_pool(3), config, seed=0)
    return learner.forward(learner.params, learner.transform(images)).detach()


def test_three_rounds_are_those_of_the_equations_and_every_switch_is_needed(images):
    expected = by_the_equations(tiny_pool(3), replace(SIZES, **SWITCHES), seed=0)(images)
    error = (answers(images, **SWITCHES) - expected).abs().max()
    assert error < 1e-4
    for left_out in SWITCHES:
        rest = {name: value for name, value in SWITCHES.items() if name != left_out}
        assert (answers(images, **rest) - expected).abs().max() > 10 * error + 1e-5, left_out


def test_the_releases_initial_weights_have_its_variance():
    backbone = build_backbone("conv4", width=64, init="release", seed=3)
    for block in list(backbone.encoder)[1:]:
        assert block.conv.weight.detach().var().item() == pytest.approx(2 / (9 * 64), rel=0.03)
    with pytest.raises(ValueError, match="init"):
        build_backbone("conv4", init="zeros")


def test_one_adam_has_one_learning_rate():
    for settings in ({"replay_lr": 0.01}, {"align_optimizer": "sgd"}):
        with pytest.raises(ValueError, match="shared_adam"):
            FreeConfig(shared_adam=True, **settings)
    with pytest.raises(ValueError, match="align_optimizer is one of"):
        FreeConfig(shared_adam=True, align_optimizer="other")

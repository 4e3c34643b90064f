"""The terms of L_G by hand, and its gradient by finite differences."""

import math
from functools import partial

import pytest
import torch
from tiny_models import own, rng, tiny_model
from torch import nn
from torch.autograd import gradcheck

from freelib.inversion import (
    InversionConfig,
    adversarial_loss,
    batchnorm_inputs,
    batchnorm_loss,
    inversion_loss,
    total_variation,
)
from freelib.models.pool import PretrainedModel


def pixel_model(with_norm: bool = True) -> PretrainedModel:
    """Two classes, images of one pixel: BatchNorm (mean 1, variance 4, no ε), then logits (x, -x)."""
    norm = nn.BatchNorm2d(1, eps=0.0)
    norm.running_mean.fill_(1.0)
    norm.running_var.fill_(4.0)
    linear = nn.Linear(1, 2, bias=False)
    linear.weight.data = torch.tensor([[1.0], [-1.0]])
    layers = [norm] if with_norm else []
    module = nn.Sequential(*layers, nn.Flatten(), linear).double()
    return own(module, class_names=["a", "b"], mean=(0.0,), std=(1.0,), image_size=1)


IMAGES = torch.tensor([0.0, 2.0, 5.0], dtype=torch.float64).view(3, 1, 1, 1)
LABELS = torch.tensor([0, 1, 0])


def loss(config: InversionConfig, **settings) -> float:
    return float(inversion_loss(pixel_model(), IMAGES, LABELS, config, **settings)[0])


def test_cross_entropy_and_batchnorm_terms_by_hand():
    # normalised pixels (x - 1) / 2 are -0.5, 0.5 and 2; the logits' differences are twice that
    margins = [-1.0, -1.0, 4.0]
    expected = sum(math.log1p(math.exp(-m)) for m in margins) / 3
    assert loss(InversionConfig(lambda_adv=0)) == pytest.approx(expected, rel=1e-12)
    assert loss(InversionConfig(lambda_adv=0, lambda_ce=2.5)) == pytest.approx(2.5 * expected, rel=1e-12)
    mean = 7 / 3
    variance = (mean**2 + (2 - mean) ** 2 + (5 - mean) ** 2) / 3
    expected = abs(mean - 1) + abs(variance - 4)
    config = InversionConfig(lambda_ce=0, lambda_bn=3, lambda_adv=0)
    assert loss(config) == pytest.approx(3 * expected, rel=1e-12)
    first, second = nn.BatchNorm2d(2), nn.BatchNorm2d(1)
    x = torch.tensor([[3.0, 4.0], [3.0, 4.0]]).view(2, 2, 1, 1)  # mean (3, 4), variance 0 against 1
    y = torch.zeros(2, 1, 1, 1)
    expected = 5 + math.sqrt(2) + 0 + 1
    assert float(batchnorm_loss([(first, x), (second, y)])) == pytest.approx(expected, rel=1e-6)


def test_batchnorm_hooks_see_every_layer_in_order_and_go():
    model = tiny_model()
    with batchnorm_inputs(model.module) as seen:
        model(torch.rand(2, 3, 16, 16))
    assert [tuple(x.shape) for _, x in seen] == [(2, 4, side, side) for side in (16, 8, 4, 2)]
    model(torch.rand(2, 3, 16, 16))
    assert len(seen) == 4
    assert not any(layer._forward_pre_hooks for layer in model.module.modules())
    model = pixel_model(with_norm=False)
    plain, _ = inversion_loss(model, IMAGES, LABELS, InversionConfig())
    assert inversion_loss(model, IMAGES, LABELS, InversionConfig(lambda_bn=1.0))[0] == plain


def test_adversarial_term_by_hand():
    teacher = torch.tensor([[0.25, 0.75], [0.25, 0.75], [0.9, 0.1]]).log()
    student = torch.tensor([[0.4, 0.6], [0.6, 0.4], [0.9, 0.1]]).log()
    # The second image is not agreed upon, the third is, without a difference.
    kl = 0.25 * math.log(0.25 / 0.4) + 0.75 * math.log(0.75 / 0.6)
    assert float(adversarial_loss(teacher, student)) == pytest.approx(-kl / 3, rel=1e-5)

    def student(images):
        return 0.1 * images.flatten(1) @ torch.tensor([[1.0, -1.0]], dtype=torch.float64)

    plain = loss(InversionConfig(lambda_adv=0))
    assert loss(InversionConfig()) == plain
    assert loss(InversionConfig(lambda_adv=0), student=student) == plain
    logits = inversion_loss(pixel_model(), IMAGES, LABELS, InversionConfig())[1]
    expected = plain + 0.7 * float(adversarial_loss(logits, student(IMAGES)))
    assert loss(InversionConfig(lambda_adv=0.7), student=student) == pytest.approx(expected, rel=1e-12)
    assert expected < plain


def test_the_gradient_by_finite_differences():
    model, other = tiny_model(1), tiny_model(2)
    model.module.double()
    other.module.double()
    images = torch.rand(3, 3, 16, 16, generator=rng(), dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 3, 4])
    config = InversionConfig(lambda_ce=0.8, lambda_bn=0.5, lambda_adv=1.3)
    total = partial(inversion_loss, model, labels=labels, config=config, student=other)
    assert gradcheck(lambda x: total(images=x)[0], images, fast_mode=True)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_moments_and_their_gradient_are_those_of_var_mean(layout):
    layers = [nn.BatchNorm2d(3).double() for _ in range(2)]
    x = torch.randn(4, 3, 5, 6, generator=rng(), dtype=torch.float64).contiguous(memory_format=layout)
    x.requires_grad_()
    ours = batchnorm_loss([(layer, 2 * x + i) for i, layer in enumerate(layers)])
    expected = torch.zeros(())
    for i, layer in enumerate(layers):
        variance, mean = torch.var_mean(2 * x + i, (0, 2, 3), correction=0)
        expected = expected + (mean - layer.running_mean).norm() + (variance - layer.running_var).norm()
    torch.testing.assert_close(ours, expected, check_dtype=False)
    ours, theirs = (torch.autograd.grad(loss, x)[0] for loss in (ours, expected))
    torch.testing.assert_close(ours, theirs)
    assert batchnorm_loss([(layers[0], x.bfloat16())]).dtype == torch.float64  # as the statistics stored
    half = batchnorm_loss([(layers[0].float(), x.bfloat16())])
    exact = batchnorm_loss([(layers[0], x.bfloat16().float())])
    torch.testing.assert_close(half, exact)  # moments of half types are float32


def test_total_variation_of_one_bright_pixel_and_of_flat_images():
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 2] = 3.0
    # in each direction two pairs of neighbours differ by 3: ‖(3, 3)‖ = 3√2
    assert total_variation(image).item() == pytest.approx(4 * 3 * 2**0.5, rel=1e-6)
    flat = torch.full((2, 3, 4, 4), 0.3, requires_grad=True)
    loss = total_variation(flat)
    loss.backward()
    assert loss.item() == 0
    assert flat.grad is not None
    assert torch.equal(flat.grad, torch.zeros_like(flat))


@pytest.mark.parametrize(("axis", "still"), [(-1, "below"), (-2, "right")])
def test_total_variation_of_a_ramp_counts_three_of_the_four_directions(axis, still):
    ramp = torch.arange(4.0).expand(2, 1, 4, 4).transpose(-1, axis)
    straight, diagonal = (2 * 4 * 3) ** 0.5, (2 * 3 * 3) ** 0.5  # as many pairs differ, each by 1
    assert total_variation(ramp).item() == pytest.approx(straight + 2 * diagonal, rel=1e-6), still


def test_the_priors_are_added_with_their_weights_and_speak_of_normalised_images():
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 2))
    model = own(module, class_names=["a", "b"], std=(0.25,) * 3, image_size=4)
    images = torch.rand(4, 3, 4, 4, generator=rng())
    labels = torch.tensor([0, 0, 1, 1])
    plain, _ = inversion_loss(model, images, labels, InversionConfig())
    both, _ = inversion_loss(model, images, labels, InversionConfig(lambda_tv=0.1, lambda_l2=0.01))
    x = (images - 0.5) / 0.25
    expected = 0.1 * total_variation(x) + 0.01 * x.norm()
    assert (both - plain).item() == pytest.approx(expected.item(), rel=1e-4)
    grey = torch.full_like(images, 0.5)
    plain, _ = inversion_loss(model, grey, labels, InversionConfig())
    drawn, _ = inversion_loss(model, grey, labels, InversionConfig(lambda_l2=1.0))
    assert torch.equal(drawn, plain)

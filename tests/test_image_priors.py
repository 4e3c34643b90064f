"""Total variation and the l2 norm, the two image priors of the inversion loss."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from freelib.inversion import InversionConfig, inversion_loss, total_variation
from freelib.models.pool import PretrainedModel


def test_total_variation_of_one_bright_pixel() -> None:
    image = torch.zeros(1, 1, 5, 5)
    image[0, 0, 2, 2] = 3.0
    # in each direction two pairs of neighbours differ by 3: ‖(3, 3)‖ = 3√2
    assert total_variation(image).item() == pytest.approx(4 * 3 * 2**0.5, rel=1e-6)


@pytest.mark.parametrize(("axis", "still"), [(-1, "below"), (-2, "right")])
def test_total_variation_of_a_ramp_counts_three_of_the_four_directions(axis: int, still: str) -> None:
    ramp = torch.arange(4.0).expand(2, 1, 4, 4).transpose(-1, axis)
    straight, diagonal = (2 * 4 * 3) ** 0.5, (2 * 3 * 3) ** 0.5  # as many pairs differ, each by 1
    assert total_variation(ramp).item() == pytest.approx(straight + 2 * diagonal, rel=1e-6), still


def test_total_variation_of_flat_images_is_zero_with_a_zero_gradient() -> None:
    flat = torch.full((2, 3, 4, 4), 0.3, requires_grad=True)
    loss = total_variation(flat)
    loss.backward()
    assert loss.item() == 0
    assert flat.grad is not None
    assert torch.equal(flat.grad, torch.zeros_like(flat))


def test_the_priors_are_added_with_their_weights_and_speak_of_normalised_images() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16, 2))
    model = PretrainedModel(module, class_names=("a", "b"), mean=(0.5,) * 3, std=(0.25,) * 3, image_size=4)
    images = torch.rand(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
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

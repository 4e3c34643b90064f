"""Zero-order gradients against automatic ones, from objects that can only be called."""

import pytest
import torch
import torch.nn.functional as F
from small_methods import Api
from tiny_models import SmoothNet, rng
from torch import Tensor, nn

from freelib.methods.black_box import ZeroOrder, black_box_model

IMAGES = torch.rand(5, 1, 2, 2, generator=rng(1))


def boxed(module: nn.Module, *, image_size: int = 2, channels: int = 1, **settings: float):
    about = {"class_names": ["a", "b", "c"], "image_size": image_size, "channels": channels}
    return black_box_model(Api(module), rng=rng(0), **about, **settings)


def gradient(model, images: Tensor) -> Tensor:
    """Of a cross-entropy with respect to the images."""
    images, labels = images.clone().requires_grad_(), torch.arange(len(images)) % 3
    return torch.autograd.grad(F.cross_entropy(model(images), labels), images)[0]


def test_with_many_directions_the_estimate_points_along_the_gradient_and_is_as_long():
    module, images = SmoothNet(pixels=48, hidden=16), torch.rand(6, 3, 4, 4, generator=rng(1))
    true = gradient(module, images)
    estimate = gradient(boxed(module, image_size=4, channels=3, directions=2000), images)
    cosines = F.cosine_similarity(true.flatten(1), estimate.flatten(1))
    assert cosines.min() > 0.9  # (q / (q + d))^½ = 0.99 is what 2,000 directions in 48 dimensions promise
    assert (estimate.norm() / true.norm()).item() == pytest.approx(1, abs=0.1)


def test_on_a_linear_answer_the_estimate_is_unbiased():
    weight = torch.randn(4, 3, generator=rng(2), dtype=torch.float64)
    images = torch.rand(1, 1, 2, 2, generator=rng(3), dtype=torch.float64).requires_grad_()
    wanted = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)

    def estimate(directions: int, seed: int) -> Tensor:
        answer = ZeroOrder.apply(images, lambda x: x.flatten(1) @ weight, directions, 0.005, rng(seed))
        return torch.autograd.grad(answer, images, wanted)[0].flatten()

    single = torch.stack([estimate(1, seed) for seed in range(4000)])
    error = single.std(0) / len(single) ** 0.5
    assert ((single.mean(0) - weight @ wanted[0]).abs() < 4 * error).all()
    # and more directions take the spread down as 1/√q
    many = torch.stack([estimate(16, seed) for seed in range(200)])
    assert (many.std(0) / single.std(0)).mean().item() == pytest.approx(1 / 4, rel=0.15)


def test_the_answers_are_the_models_own_and_every_image_asked_is_counted():
    module, images = SmoothNet(), IMAGES.clone().requires_grad_()
    model = boxed(module, directions=7)
    logits = model(images)
    assert torch.equal(logits, module(images))
    assert model.module.images_asked == 5
    logits.sum().backward()
    assert model.module.images_asked == 5 + 7 * 5
    assert list(model.module.parameters()) == []
    assert model.classes == (("", "a"), ("", "b"), ("", "c"))
    module = SmoothNet()
    first, second = (gradient(boxed(module, directions=3), IMAGES) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("wrong", [{"directions": 0}, {"mu": 0.0}])
def test_settings_that_estimate_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match="directions must be at least 1 and mu above 0"):
        boxed(SmoothNet(), **wrong)

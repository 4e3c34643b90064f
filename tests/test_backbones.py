"""Networks, and what is done to images before they see them."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
import torchvision
from tiny_models import rng

from freelib.models.backbones import ARCHITECTURES, build_backbone
from freelib.models.transform import ImageTransform, random_crop_flip


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("arch", "size", "feature_dim"),
    [("conv4", 32, 128), ("conv4", 84, 800), ("resnet10", 32, 512), ("resnet10", 84, 512)],
)
def test_features_and_logits(arch, size, feature_dim):
    backbone = build_backbone(arch, n_way=7, image_size=size).eval()
    x = torch.rand(2, 3, size, size, generator=rng())
    with torch.no_grad():
        features, logits = backbone.features(x), backbone(x)
    assert backbone.feature_dim == feature_dim
    assert features.shape == (2, feature_dim)
    torch.testing.assert_close(logits, features @ backbone.head.weight.T + backbone.head.bias)


def test_networks_compute_what_the_literatures_do():
    # Conv4-32: 28,896 weights in the blocks, BatchNorm included; ResNet-18 as torchvision builds it.
    assert count(build_backbone("conv4").encoder) == 28_896
    resnet18 = build_backbone("resnet18", n_way=1000, image_size=224)
    assert count(resnet18) == count(torchvision.models.resnet18())
    assert build_backbone("conv4", width=8).width == 8
    assert build_backbone("resnet10").width == 64
    ours = build_backbone("resnet18", n_way=10, image_size=64)
    theirs = torchvision.models.resnet18(num_classes=10)
    # Both list their parameters in the order of the computation, a block's shortcut at its end.
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.rand(2, 3, 64, 64, generator=rng())
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    backbone = build_backbone("conv4", width=4, image_size=16, batch_stats=True)
    block, x = backbone.encoder[0], torch.rand(3, 3, 16, 16, generator=rng())
    y = F.conv2d(x, block.conv.weight, block.conv.bias, padding=1)
    y = F.batch_norm(y, None, None, block.norm.weight, block.norm.bias, training=True)
    torch.testing.assert_close(block(x), F.max_pool2d(F.relu(y), 2))
    before = torch.get_rng_state()
    a, b, c = (build_backbone("conv4", width=4, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["head.weight"], c["head.weight"])


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_students_use_the_batch_and_teachers_their_memory(arch):
    x = torch.rand(4, 3, 16, 16, generator=rng())
    student = build_backbone(arch, width=8, image_size=16, batch_stats=True)
    assert not list(student.buffers())
    with torch.no_grad():
        assert torch.equal(student.eval()(x), student.train()(x))
        assert not torch.allclose(student(x)[:2], student(x[:2]))  # the others of the batch count
        teacher = build_backbone(arch, width=8, image_size=16)
        teacher(x)
        teacher.eval()
        torch.testing.assert_close(teacher(x)[:2], teacher(x[:2]))


MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.5)


def test_it_serves_training_wherever_it_was_made_and_can_be_copied():
    x = torch.rand(2, 3, 8, 8, generator=rng(), dtype=torch.float64)
    out = ImageTransform(MEAN, STD, 8)(x)
    for c in range(3):
        torch.testing.assert_close(out[:, c], (x[:, c] - MEAN[c]) / STD[c])
    x = torch.rand(2, 3, 16, 16, generator=rng())
    small = F.interpolate(x, (8, 8), mode="bilinear", antialias=True)
    transform = ImageTransform(MEAN, STD, 8)
    assert torch.equal(transform(x), transform(small))
    flat = torch.full((1, 3, 5, 7), 0.5)
    torch.testing.assert_close(transform(flat)[:, 0], torch.zeros(1, 8, 8))
    transform = ImageTransform(MEAN, STD, 4)
    with torch.inference_mode():
        transform(torch.rand(1, 3, 4, 4))
    x = torch.rand(1, 3, 4, 4, requires_grad=True)
    transform(x).sum().backward()
    torch.testing.assert_close(x.grad[0, :, 0, 0], 1 / torch.tensor(STD))
    x = torch.rand(1, 3, 4, 4)
    for other in (copy.deepcopy(transform), pickle.loads(pickle.dumps(transform))):
        assert torch.equal(other(x), transform(x))


def images(n: int = 40) -> torch.Tensor:
    return torch.rand(n, 3, 5, 6, generator=rng(), dtype=torch.float64)


def test_a_crop_shifts_and_a_flip_mirrors_each_image_by_itself():
    x = images(200)
    assert torch.equal(random_crop_flip(x, rng(), padding=0, flip=False), x)
    out = random_crop_flip(x, rng(), padding=0)
    same = (out == x).flatten(1).all(1)
    mirrored = (out == x.flip(3)).flatten(1).all(1)
    assert torch.equal(same, ~mirrored)
    assert 70 < int(mirrored.sum()) < 130
    out = random_crop_flip(x, rng(), padding=1, flip=False)
    padded = F.pad(x, [1, 1, 1, 1])
    shifts = {(a, b): padded[:, :, a : a + 5, b : b + 6] for a in range(3) for b in range(3)}
    hits = {key: (out == shifted).flatten(1).all(1) for key, shifted in shifts.items()}
    assert torch.stack(list(hits.values())).sum(0).eq(1).all()  # each image is one of the nine
    assert all(int(hit.sum()) > 5 for hit in hits.values())


def test_the_flip_mirrors_what_was_cropped_whatever_the_layout_in_memory():
    x = images(60)
    plain = random_crop_flip(x, rng(7), padding=2, flip=False)
    flipped = random_crop_flip(x, rng(7), padding=2)
    same = (flipped == plain).flatten(1).all(1)
    assert torch.equal(flipped[~same], plain[~same].flip(3))
    assert 0 < int(same.sum()) < 60
    assert torch.equal(random_crop_flip(x.to(memory_format=torch.channels_last), rng(7), padding=2), flipped)


def test_gradients_reach_the_pixels_that_were_kept_and_no_others():
    x = images().requires_grad_()
    weights = torch.rand(x.shape, generator=rng(3), dtype=torch.float64)
    (random_crop_flip(x, rng(5), padding=2) * weights).sum().backward()
    # The transform is linear and moves pixels: its transpose moves the weights back.
    marks = torch.arange(1.0, x.numel() + 1, dtype=torch.float64).view(x.shape)  # 0 is the padding's
    moved = random_crop_flip(marks, rng(5), padding=2).long().flatten()
    expected = torch.zeros(x.numel() + 1, dtype=torch.float64).index_add_(0, moved, weights.flatten())[1:]
    torch.testing.assert_close(x.grad.flatten(), expected)
    assert (x.grad == 0).any()

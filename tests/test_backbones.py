import pytest
import torch
import torch.nn.functional as F
import torchvision
from tiny_models import rng

from freelib.models.backbones import ARCHITECTURES, build_backbone


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


def test_the_seed_makes_the_weights_and_torchs_own_generator_stays():
    before = torch.get_rng_state()
    a, b, c = (build_backbone("conv4", width=4, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["head.weight"], c["head.weight"])

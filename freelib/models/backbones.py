"""The networks of the field: Conv4, ResNet-10 and ResNet-18, as teachers or as students."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ARCHITECTURES = ("conv4", "resnet10", "resnet18")
DEFAULT_WIDTH = {"conv4": 32, "resnet10": 64, "resnet18": 64}
SMALL_IMAGES = 48
"""The largest side of an image that a ResNet's stem leaves at its resolution: above it has other weights."""
INITS = ("torch", "release")
Norm = Callable[[int], nn.Module]


class Backbone(nn.Module):
    """A feature extractor and a linear head; it takes normalised images."""

    def __init__(self, encoder: nn.Module, feature_dim: int, n_way: int, arch: str, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.feature_dim, self.n_way, self.arch, self.width = feature_dim, n_way, arch, width
        self.head = nn.Linear(feature_dim, n_way)

    def features(self, images: Tensor) -> Tensor:
        """Features `(n, feature_dim)` of normalised images `(n, C, H, W)`."""
        return self.encoder(images).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(n, n_way)` of normalised images `(n, C, H, W)`."""
        return self.head(self.features(images))


class EmbeddingBackbone(Backbone):
    """A network whose linear layer is the last of its features, and no classifier: it has no logits."""

    def features(self, images: Tensor) -> Tensor:
        """Features `(n, n_way)` of normalised images `(n, C, H, W)`: what the linear layer gives."""
        return self.head(super().features(images))

    def forward(self, images: Tensor) -> Tensor:
        """The features `(n, n_way)`."""
        return self.features(images)


class ConvBlock(nn.Module):
    """3x3 convolution, BatchNorm, ReLU, 2x2 max-pool: one of Conv4's four."""

    def __init__(self, channels_in: int, channels_out: int, norm: Norm) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm = norm(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        # max(relu(x)) = relu(max(x)): pooling first leaves a quarter of the pixels to the ReLU.
        return F.relu(F.max_pool2d(self.norm(self.conv(x)), 2))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut (He et al., 2016, "basic block")."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm1 = norm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm2 = norm(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), norm(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


def _conv4(channels: int, width: int, image_size: int, norm: Norm) -> tuple[nn.Module, int]:
    side = image_size // 16
    if side < 1:
        raise ValueError(f"conv4 halves the image four times: image_size must be at least 16, got {image_size}.")
    widths = (channels, width, width, width, width)
    blocks = [ConvBlock(a, b, norm) for a, b in pairwise(widths)]
    return nn.Sequential(*blocks), width * side * side


def _resnet(
    channels: int, width: int, image_size: int, norm: Norm, *, blocks: tuple[int, ...]
) -> tuple[nn.Module, int]:
    # Small images keep their resolution at the stem, as is usual for 32x32 data; larger ones get ImageNet's.
    small = image_size <= SMALL_IMAGES
    kernel, stride, padding = (3, 1, 1) if small else (7, 2, 3)
    stem = nn.Conv2d(channels, width, kernel, stride, padding, bias=False)
    layers = [stem, norm(width), nn.ReLU(), *([] if small else [nn.MaxPool2d(3, 2, 1)])]
    channels_in = width
    for stage, depth in enumerate(blocks):
        channels_out = width * 2**stage
        for block in range(depth):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(ResidualBlock(channels_in, channels_out, stride, norm))
            channels_in = channels_out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1)), channels_in


_ENCODERS: dict[str, Callable[[int, int, int, Norm], tuple[nn.Module, int]]] = {
    "conv4": _conv4,
    "resnet10": partial(_resnet, blocks=(1, 1, 1, 1)),
    "resnet18": partial(_resnet, blocks=(2, 2, 2, 2)),
}


def build_backbone(
    arch: str,
    *,
    n_way: int = 5,
    image_size: int = 32,
    channels: int = 3,
    width: int | None = None,
    batch_stats: bool = False,
    embeds: bool = False,
    init: str = "torch",
    seed: int = 0,
) -> Backbone:
    """A freshly initialised network of one of ARCHITECTURES, for images of `channels` × `image_size`².

    `width` is the number of channels of the first stage, by default 32 for Conv4 and 64 for ResNets. With
    `batch_stats` BatchNorm always takes the statistics of the batch (students), else running ones in eval
    mode (teachers). With `embeds` the linear layer is the last of the features, and n_way is their number.
    `seed` makes the initial weights: PyTorch's default, or with init="release" those of FREE's public release,
    whose convolutions are drawn from N(0, 2 / (kernel area · channels out)). torch's global generator is left
    as it was.

    Raises ValueError for an unknown architecture or init, an image too small for it, and more weights than 2²⁸ (1 GB).
    """
    if arch not in _ENCODERS:
        raise ValueError(f"Unknown architecture {arch!r}; known are {', '.join(ARCHITECTURES)}.")
    if init not in INITS:
        raise ValueError(f"init is one of {', '.join(INITS)}, got {init!r}.")
    norm: Norm = partial(nn.BatchNorm2d, track_running_stats=not batch_stats)
    width, kind = width or DEFAULT_WIDTH[arch], EmbeddingBackbone if embeds else Backbone

    def build() -> Backbone:
        encoder, feature_dim = _ENCODERS[arch](channels, width, image_size, norm)
        return kind(encoder, feature_dim, n_way, arch, width)

    with torch.device("meta"):  # takes no memory
        n_weights = sum(weight.numel() for weight in build().parameters())
    if n_weights > 2**28:
        what = f"{arch} of width {width} for {image_size} pixels and {n_way} classes"
        raise ValueError(f"A {what} has {n_weights:,} weights, more than {2**28:,}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = build()
        if init == "release":
            for layer in backbone.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.normal_(layer.weight, 0.0, (2 / (layer.weight[0, 0].numel() * layer.out_channels)) ** 0.5)
        return backbone

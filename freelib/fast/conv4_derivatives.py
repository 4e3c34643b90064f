"""Conv4's derivatives written out: gradient and Hessian-vector product of one batch's cross-entropy.

MAML's outer gradient starts as v = ∇L_query(θ_K) and becomes v ← v − α ∇²L(θ_k)·v, backwards over the inner
steps k. PyTorch's own derivative of a backward pass makes tens of small operations of each BatchNorm; here
the algebra is done once, on paper, and touches what is dense (a value a pixel) as seldom as it can. A test
holds both to the same numbers.
"""

import copy
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freelib.datasets.episodes import Episode
from freelib.distillation import at_least_float32
from freelib.meta_learner import MetaLearner
from freelib.models.backbones import Backbone, ConvBlock

aten = torch.ops.aten
PIXELS = (0, 2, 3)
convolution = partial(F.conv2d, padding=1)  # 3x3, to the same size
CONVOLUTION = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)  # stride 1, padding 1, and what else aten asks


def weight_gradient(dy: Tensor, x: Tensor, w: Tensor) -> Tensor:
    """∂L/∂w of `convolution`."""
    return aten.convolution_backward(dy, x, w, None, *CONVOLUTION, [False, True, False])[1]


def input_gradient(dy: Tensor, x: Tensor, w: Tensor) -> Tensor:
    """∂L/∂x of `convolution`."""
    return aten.convolution_backward(dy, x, w, None, *CONVOLUTION, [True, False, False])[0]


def channel_sums(x: Tensor) -> Tensor:
    """Σ over images and pixels: `(n, C, H, W)` -> `(1, C, 1, 1)`."""
    return x.sum(PIXELS, keepdim=True)


def where_positive(d: Tensor, o: Tensor) -> Tensor:
    """Through the ReLU whose output is o: d where o > 0, else 0."""
    return aten.threshold_backward(d, o, 0)


class Block:
    """o = relu(BN(max-pool(y))), y = conv(x, w), and the values that its derivatives need.

    Names: `d_x` is ∂L/∂x, `t_x` the tangent of x (its derivative along the vector), `td_x` that of ∂L/∂x.
    BatchNorm is odd, so γ's sign goes into w; with γ ≥ 0 pooling may go first, and BatchNorm sees a quarter
    of the pixels. y is kept without its mean; what belongs to a channel has the shape `(1, C, 1, 1)`.
    """

    def __init__(self, eps: float) -> None:
        self.eps = eps

    def forward(self, x: Tensor, w: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        gamma = gamma.view(1, -1, 1, 1)
        self.sign = torch.ones_like(gamma).copysign(gamma)
        self.x, self.w, self.gamma = x, w * self.sign.transpose(0, 1), gamma * self.sign
        self.y, variance = self.centred_y()
        self.count = self.y.numel() // self.y.shape[1]
        self.r = (variance + self.eps).rsqrt()
        self.scale = self.gamma * self.r
        pooled, self.argmax = aten.max_pool2d_with_indices(self.y, [2, 2], [2, 2])
        self.p = pooled * self.r
        self.o = torch.addcmul(beta.view(1, -1, 1, 1), self.p, self.gamma).relu_()
        return self.o

    def backward(self, d_o: Tensor) -> tuple[Tensor, list[Tensor]]:
        """∂L/∂o -> (∂L/∂x, those of w, γ, β)."""
        self.d_z = where_positive(d_o, self.o)
        self.d_gamma, self.d_beta = channel_sums(self.d_z * self.p), channel_sums(self.d_z)
        # d_y = unpool(scale d_z) + slope y + offset: the last two come through the batch's variance and mean.
        self.slope = self.scale * self.r * self.d_gamma / -self.count
        self.offset = self.scale * self.d_beta / -self.count
        d_x, d_w = self.through_convolution(self.unpool(self.d_z * self.scale))
        return d_x, self.by_parameter(d_w, self.d_gamma, self.d_beta)

    def forward_tangent(self, t_x: Tensor, t_w: Tensor, t_gamma: Tensor, t_beta: Tensor) -> Tensor:
        """Tangents of x, w, γ, β -> that of o."""
        self.t_x, self.t_w = t_x, t_w * self.sign.transpose(0, 1)
        self.t_gamma = t_gamma.view(1, -1, 1, 1) * self.sign
        self.t_y, covariance = self.centred_t_y()
        self.k = covariance * self.r * self.r  # the tangent of r is −k r
        self.t_scale = torch.addcmul(self.t_gamma * self.r, self.scale, self.k, value=-1)
        n, c, height, width = self.argmax.shape
        pixels = self.t_y.permute(0, 2, 3, 1).reshape(n, -1, c)
        pooled = pixels.gather(1, self.argmax.permute(0, 2, 3, 1).reshape(n, -1, c))
        pooled = pooled.view(n, height, width, c).permute(0, 3, 1, 2)
        self.t_p = (pooled * self.r).addcmul_(self.p, self.k, value=-1)
        t_z = torch.addcmul(t_beta.view(1, -1, 1, 1), self.p, self.t_gamma).addcmul_(self.t_p, self.gamma)
        return where_positive(t_z, self.o)

    def backward_tangent(self, td_o: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The tangent of ∂L/∂o -> those of (∂L/∂x; ∂L/∂w, ∂L/∂γ, ∂L/∂β)."""
        td_z = where_positive(td_o, self.o)
        td_gamma, td_beta = channel_sums((td_z * self.p).addcmul_(self.d_z, self.t_p)), channel_sums(td_z)
        t_slope = (self.t_scale - self.scale * self.k) * self.d_gamma + self.scale * td_gamma
        t_slope = t_slope * self.r / -self.count
        t_offset = (self.t_scale * self.d_beta + self.scale * td_beta) / -self.count
        through_pool = self.unpool((td_z * self.scale).addcmul_(self.d_z, self.t_scale))
        td_x, td_w = self.through_convolution_tangent(through_pool, t_slope, t_offset)
        return td_x, self.by_parameter(td_w, td_gamma, td_beta)

    def unpool(self, d: Tensor) -> Tensor:
        """Back to the pixels that the pooling took; zero elsewhere."""
        pooling = ([2, 2], [2, 2], [0, 0], [1, 1], False)
        return aten.max_pool2d_with_indices_backward(d, self.y, *pooling, self.argmax)

    def by_parameter(self, d_w: Tensor, d_gamma: Tensor, d_beta: Tensor) -> list[Tensor]:
        """Derivatives as w, γ and β are given: their shapes, γ's sign out of w again."""
        return [d_w * self.sign.transpose(0, 1), (d_gamma * self.sign).flatten(), d_beta.flatten()]

    def centred_y(self) -> tuple[Tensor, Tensor]:
        """Centred y and its variance."""
        y = convolution(self.x, self.w)
        y -= y.mean(PIXELS, keepdim=True)
        return y, (y * y).mean(PIXELS, keepdim=True)

    def centred_t_y(self) -> tuple[Tensor, Tensor]:
        """The tangent of centred y, and its covariance with y."""
        # Side by side as channels, two convolutions and their sum are one.
        t_y = convolution(torch.cat([self.t_x, self.x], 1), torch.cat([self.w, self.t_w], 1))
        t_y -= t_y.mean(PIXELS, keepdim=True)
        return t_y, (t_y * self.y).mean(PIXELS, keepdim=True)

    def through_convolution(self, d_y: Tensor) -> tuple[Tensor, Tensor]:
        """(∂L/∂x, ∂L/∂w), given the part of ∂L/∂y that came through the pooling."""
        self.d_y = d_y.add_(self.offset).addcmul_(self.y, self.slope)
        return input_gradient(d_y, self.x, self.w), weight_gradient(d_y, self.x, self.w)

    def through_convolution_tangent(self, td_y: Tensor, t_slope: Tensor, t_offset: Tensor) -> tuple[Tensor, Tensor]:
        """The tangents of the same."""
        td_y = td_y.add_(t_offset).addcmul_(self.y, t_slope).addcmul_(self.t_y, self.slope)
        td_x = input_gradient(torch.cat([td_y, self.d_y], 1), self.x, torch.cat([self.w, self.t_w]))
        td_w = weight_gradient(torch.cat([td_y, self.d_y]), torch.cat([self.x, self.t_x]), self.w)
        return td_x, td_w


class FirstBlock(Block):
    """The block on the images: they stay, so y's moments follow from those of the images' 3x3 patches.

    BatchNorm then costs nothing a pixel in the layer that has three quarters of all pixels.
    """

    def __init__(self, eps: float, images: Tensor) -> None:
        super().__init__(eps)
        patches = F.unfold(images, 3, padding=1).transpose(1, 2).flatten(0, 1)  # (n H W, 9 C)
        self.patch_mean = patches.mean(0)
        patches -= self.patch_mean
        self.patch_covariance = patches.T @ patches / len(patches)

    def centred_y(self) -> tuple[Tensor, Tensor]:
        w = self.w.flatten(1)
        self.to_patches = w @ self.patch_covariance  # of y with each pixel of its patch, (C_out, 9 C)
        y = convolution(self.x, self.w, w @ -self.patch_mean)
        return y, (self.to_patches * w).sum(1).view(1, -1, 1, 1)

    def centred_t_y(self) -> tuple[Tensor, Tensor]:
        t_w = self.t_w.flatten(1)
        self.t_to_patches = t_w @ self.patch_covariance
        t_y = convolution(self.x, self.t_w, t_w @ -self.patch_mean)
        return t_y, (self.to_patches * t_w).sum(1).view(1, -1, 1, 1)

    def through_convolution(self, d_y: Tensor) -> tuple[Tensor, Tensor]:
        dense = self.slope.view(-1, 1) * self.to_patches + self.offset.view(-1, 1) * self.patch_mean
        d_w = weight_gradient(d_y, self.x, self.w)
        return d_y, d_w + self.count * dense.view_as(d_w)

    def through_convolution_tangent(self, td_y: Tensor, t_slope: Tensor, t_offset: Tensor) -> tuple[Tensor, Tensor]:
        dense = t_slope.view(-1, 1) * self.to_patches + self.slope.view(-1, 1) * self.t_to_patches
        dense += t_offset.view(-1, 1) * self.patch_mean
        td_w = weight_gradient(td_y, self.x, self.w)
        return td_y, td_w + self.count * dense.view_as(td_w)


class SupportLoss:
    """The mean cross-entropy of one batch, at as many weights as one likes.

    Weights, gradients and vectors are lists: w, γ, β of each block, then the head's weight and bias.
    """

    def __init__(self, images: Tensor, labels: Tensor, n_way: int, eps: list[float]) -> None:
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.targets = F.one_hot(labels, n_way).to(images.dtype)
        self.blocks = [FirstBlock(eps[0], self.images), *map(Block, eps[1:])]

    def gradient(self, weights: list[Tensor]) -> list[Tensor]:
        """∇L at some weights; `hessian_times` is at the same ones from then on."""
        x = self.images
        for i, block in enumerate(self.blocks):
            x = block.forward(x, *weights[3 * i : 3 * i + 3])
        self.features, self.weight = x.flatten(1), weights[-2]
        self.probabilities = torch.addmm(weights[-1], self.features, self.weight.T).softmax(1)
        self.error = (self.probabilities - self.targets) / len(x)
        d_x, gradient = self.error @ self.weight, [self.error.T @ self.features, self.error.sum(0)]
        d_x = d_x.view(x.shape).contiguous(memory_format=torch.channels_last)
        for block in reversed(self.blocks):
            d_x, of_block = block.backward(d_x)
            gradient = of_block + gradient
        return gradient

    def hessian_times(self, vector: list[Tensor]) -> list[Tensor]:
        """∇²L · vector, at the weights of the last gradient."""
        t_x = self.images  # its tangent is 0, which the first block knows
        for i, block in enumerate(self.blocks):
            t_x = block.forward_tangent(t_x, *vector[3 * i : 3 * i + 3])
        t_features = t_x.flatten(1)
        t_logits = torch.addmm(vector[-1], t_features, self.weight.T) + self.features @ vector[-2].T
        p = self.probabilities
        t_error = p * (t_logits - (p * t_logits).sum(1, keepdim=True)) / len(p)
        product = [t_error.T @ self.features + self.error.T @ t_features, t_error.sum(0)]
        td_x = (t_error @ self.weight + self.error @ vector[-2]).view(t_x.shape)
        td_x = td_x.contiguous(memory_format=torch.channels_last)
        for block in reversed(self.blocks):
            td_x, of_block = block.backward_tangent(td_x)
            product = of_block + product
        return product


def weight_names(backbone: nn.Module) -> list[str] | None:
    """The names of a Conv4's weights in the order of `SupportLoss`; None for any other network.

    The convolutions' biases are not among them: BatchNorm takes them off again, their derivatives are 0.
    """
    encoder = backbone.encoder if type(backbone) is Backbone else None
    blocks = list(encoder) if isinstance(encoder, nn.Sequential) else []
    norms = [block.norm for block in blocks if type(block) is ConvBlock]
    known = [norm for norm in norms if type(norm) is nn.BatchNorm2d and not norm.track_running_stats]
    if not blocks or len(known) < len(blocks):
        return None
    parts = ("conv.weight", "norm.weight", "norm.bias")
    return [f"encoder.{i}.{part}" for i in range(len(blocks)) for part in parts] + ["head.weight", "head.bias"]


def _minus(weights: list[Tensor], step: list[Tensor], lr: float) -> list[Tensor]:
    return [torch.sub(weight, d, alpha=lr) for weight, d in zip(weights, step, strict=True)]


def descend(loss: SupportLoss, weights: list[Tensor], lr: float, steps: int) -> tuple[list[SupportLoss], list[Tensor]]:
    """Gradient steps: the loss at each of the weights on the way, for `pull_back`, and the last weights."""
    losses = []
    for _ in range(steps):
        here = copy.copy(loss)
        here.blocks = [copy.copy(block) for block in loss.blocks]
        weights = _minus(weights, here.gradient(weights), lr)
        losses.append(here)
    return losses, weights


def pull_back(losses: list[SupportLoss], gradient: list[Tensor], lr: float) -> list[Tensor]:
    """The gradient at the last weights of `descend` -> that at the first: Π (1 − α ∇²L(θ_k)) · gradient."""
    for loss in reversed(losses):
        gradient = _minus(gradient, loss.hessian_times(gradient), lr)
    return gradient


def query_loss(
    learner: MetaLearner, episode: Episode, *, steps: int, second_order: bool = True
) -> tuple[Tensor, Tensor]:
    """`MetaLearner.query_loss`: the same numbers, by formulas for MAML of second order on a Conv4.

    All other learners, and episodes whose images are learned, go the plain way.
    """
    names = weight_names(learner.backbone) if learner.head == "maml" and second_order else None
    learned = episode.support.requires_grad or episode.query.requires_grad
    if names is None or learned or not torch.is_grad_enabled():
        return learner.query_loss(episode, steps=steps, second_order=second_order)
    support, query = learner.transform(episode.support), learner.transform(episode.query)
    with torch.no_grad():
        eps = [layer.eps for layer in learner.backbone.modules() if isinstance(layer, nn.BatchNorm2d)]
        start = SupportLoss(support, episode.support_labels, len(learner.params["head.bias"]), eps)
        weights = [learner.params[name].detach() for name in names]
        losses, weights = descend(start, weights, learner.inner_lr, steps)
    adapted = learner.params | dict(zip(names, weights, strict=True))
    adapted = {name: p.detach().requires_grad_() for name, p in adapted.items()}
    logits = at_least_float32(learner.forward(adapted, query))
    loss = F.cross_entropy(logits, episode.query_labels)
    at_the_end = torch.autograd.grad(loss, [adapted[name] for name in names])
    with torch.no_grad():
        gradients = dict(zip(names, pull_back(losses, list(at_the_end), learner.inner_lr), strict=True))
    # Adding (θ − θ) · gradient leaves the value; the convolutions' biases have the gradient 0.
    terms = [((p - p.detach()) * gradients.get(name, 0.0)).sum() for name, p in learner.params.items()]
    hits = (logits.argmax(1) == episode.query_labels).float().mean()
    return loss.detach() + torch.stack(terms).sum(), hits

"""An adapted learner as one network, whose answer for an image does not depend on the other images of a call."""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freelib.distillation import at_least_float32
from freelib.meta_learner import GradientClassifier, MetaLearner, class_prototypes
from freelib.models.transform import channel_constants


def fix_statistics(network: nn.Module, answer: Callable[[Tensor], Any], inputs: Tensor) -> None:
    """Gives BatchNorm layers that take their batch's statistics those of these inputs, for good; answer: runs them."""

    def keep(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        dimensions = [d for d in range(args[0].ndim) if d != 1]
        norm.running_var, norm.running_mean = torch.var_mean(args[0], dimensions, correction=0)

    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    handles = [m.register_forward_pre_hook(keep) for m in norms if m.training or m.running_mean is None]
    network.eval()
    with torch.no_grad():
        answer(inputs)
    for handle in handles:
        handle.remove()


class AdaptedNetwork(nn.Module):
    """From images to class probabilities by a support set, inductive where `MetaLearner.adapt` is transductive.

    It takes nothing from the queries: no mean is taken off for centre="episode", and BatchNorm layers that have no
    statistics of their own keep those of the support set. Computed in float32.

    support: images `(s, C, size, size)`, float in [0, 1], of the learner's size; of a learner that
      `embeds_images_one_by_one` also their features `(s, d)`. labels: `(s,)` int64, 0… without gaps
    """

    scale: Tensor
    shift: Tensor
    mean: Tensor
    prototypes: Tensor | None

    def __init__(self, learner: MetaLearner, support: Tensor, labels: Tensor) -> None:
        super().__init__()
        self.network, self.n_way, like = learner.backbone, int(labels.max()) + 1, torch.empty(0, device=learner.device)
        mean, std = (channel_constants(values, like) for values in (learner.transform.mean, learner.transform.std))
        for name, tensor in {"scale": 1 / std, "shift": -mean / std, "mean": mean, "prototypes": None}.items():
            self.register_buffer(name, tensor)
        if not learner.embeds_images_one_by_one:
            own = copy.copy(learner)
            own.backbone = self.network = copy.deepcopy(learner.backbone)
            if isinstance(adapted := learner.adapt(support, labels), GradientClassifier):
                own.load_params(adapted.params)
            answer = self.network.features if learner.head == "prototypes" else self.network
            fix_statistics(self.network, answer, learner.prepare(support))  # type: ignore[arg-type]
        if learner.head == "prototypes":
            features = self.embed(support)
            self.mean = features.mean(0) if learner.centre == "support" else torch.zeros_like(features[0])
            unit = F.normalize(features - self.mean, dim=1)
            self.prototypes = class_prototypes(unit, labels.to(unit.device), self.n_way)

    @torch.no_grad()
    def embed(self, inputs: Tensor) -> Tensor:
        """Features `(n, d)` of images float `(n, C, size, size)` in [0, 1]; what are features stays."""
        if inputs.ndim == 2:
            return inputs
        return at_least_float32(self.network.features(inputs * self.scale + self.shift))  # type: ignore[operator]

    @torch.no_grad()
    def logits(self, inputs: Tensor) -> Tensor:
        """Class scores `(n, n_way)` of images or features; of a head of prototypes ten times the cosine."""
        if self.prototypes is None:
            return self.network(inputs * self.scale + self.shift)[:, : self.n_way]
        return 10 * F.normalize(self.embed(inputs) - self.mean, dim=1) @ self.prototypes.T

    def forward(self, images: Tensor) -> Tensor:
        """Class probabilities `(n, n_way)` of images float `(n, C, size, size)` in [0, 1]."""
        return self.logits(images).softmax(1)

"""The pool as an ensemble: all models' answers to an image, as one embedding to compare images by."""

import copy
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from freelib import fast
from freelib.datasets.episodes import images_to_float
from freelib.models.backbones import ConvBlock
from freelib.models.pool import PretrainedModel

TEACH = ("probabilities", "features")


def principal_axes(
    features: Tensor, *, whitening: float, most: int | None = None, floor: float = 0.01
) -> tuple[Tensor, Tensor]:
    """Mean `(d,)` and axes `(d, r)`: the principal ones, each divided by its deviation to a power.

    whitening: that power; at 0 distances stay as they are, at 1 every axis counts the same
    most: largest r; axes with less than `floor` of the first one's deviation are left out
    """
    mean = features.mean(0)
    _, singular, axes = torch.linalg.svd(features - mean, full_matrices=False)
    deviation = (singular / len(features) ** 0.5)[:most]
    kept = deviation > floor * deviation[0]
    return mean, axes[:most][kept].T * deviation[kept] ** -whitening


def for_inference(model: PretrainedModel, dtype: torch.dtype) -> PretrainedModel:
    """A copy of a model for answers only: Conv4's BatchNorm goes into its convolutions.

    Someone's own network stays as it is, and in its own types.
    """
    if model.is_own:
        return model
    own, transform, module = copy.copy(model), model.transform, copy.deepcopy(model.module)
    for block in module.modules():
        if isinstance(block, ConvBlock) and isinstance(block.norm, nn.BatchNorm2d):
            block.conv, block.norm = fuse_conv_bn_eval(block.conv, block.norm), nn.Identity()
    own.module = module.to(dtype).to(memory_format=torch.channels_last)
    own.transform = lambda x: transform(x).to(dtype, memory_format=torch.channels_last)  # type: ignore[assignment]
    return own


class FeatureEnsemble(nn.Module):
    """The features of several models, each of unit length, side by side."""

    def __init__(self, models: Sequence[PretrainedModel]) -> None:
        super().__init__()
        self.models = list(models)
        self.members = nn.ModuleList([model.module for model in self.models])

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Images `(n, C, H, W)` in [0, 1] -> `(n, Σ d_i)`."""
        return torch.cat([F.normalize(model.features(images).float(), dim=1) for model in self.models], dim=1)


class ProbabilityEnsemble(nn.Module):
    """The probabilities of several models, side by side, on partly whitened principal axes.

    teach: "probabilities", √softmax(logits / temperature), or "features" in their place, each model's at unit
      length

    Models that agree on what is common to all images would drown what only some of them see: whitening
    weighs it up. The square root makes the distance of two answers Hellinger's. `fit` finds the axes.
    """

    def __init__(
        self,
        models: Sequence[PretrainedModel],
        *,
        temperature: float = 4.0,
        teach: str = "probabilities",
        precision: str = "float32",
    ) -> None:
        super().__init__()
        self.teach, self.temperature = teach, temperature
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self.models = [for_inference(model, dtype) for model in models]
        self.members = nn.ModuleList([model.module for model in self.models])
        self.mean: Tensor = torch.zeros(())
        self.axes: Tensor | None = None

    @torch.no_grad()
    def answers(self, images: Tensor) -> Tensor:
        """Answers `(n, Σ n_way)`, or features `(n, Σ d)`, of images `(n, C, H, W)`, uint8 or in [0, 1]."""
        parts = (images_to_float(part.to(self.models[0].device)) for part in images.split(128))
        return torch.cat([torch.cat(fast.answers_of_each(self.models, partial(self._ask, part)), 1) for part in parts])

    def _ask(self, images: Tensor, model: PretrainedModel) -> Tensor:
        if self.teach == "features":
            return F.normalize(model.features(images).float(), dim=1)
        return (model(images).float() / self.temperature).softmax(1).sqrt()

    def fit(self, answers: Tensor, *, whitening: float, most: int | None = None) -> None:
        """Chooses the axes by some images' answers, see `principal_axes`."""
        self.mean, self.axes = principal_axes(answers, whitening=whitening, most=most)

    def embed(self, answers: Tensor) -> Tensor:
        """Answers `(n, Σ n_way)` on the fitted axes, `(n, r)`. Raises RuntimeError before `fit`."""
        if self.axes is None:
            raise RuntimeError("The axes of the ensemble are not known yet: call fit first.")
        return (answers - self.mean) @ self.axes

    def features(self, images: Tensor) -> Tensor:
        """The embeddings of images, `(n, r)`: what a prototype head compares."""
        return self.embed(self.answers(images))

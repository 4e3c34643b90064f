"""ICFIL, PURER's calibration at test time: images inverted from the adapted model correct it."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from freelib.alignment import make_optimizer
from freelib.datasets.episodes import class_major_labels
from freelib.inversion import InversionConfig, total_variation
from freelib.meta_learner import Classifier, GradientClassifier, MetaLearner, Params
from freelib.models.transform import channel_constants
from freelib.settings import check_at_least


@dataclass(frozen=True)
class CalibrationConfig:
    """Sizes of the calibration; ours, since no published setting is known to us.

    icfil_images: inverted images a class; icfil_inversion_steps, icfil_lr: of Adam on their pixels
    icfil_steps, icfil_step: contrastive steps and their size
    icfil_temperature: of `contrastive_loss`
    """

    icfil_images: int = 5
    icfil_inversion_steps: int = 10
    icfil_lr: float = 0.1
    icfil_steps: int = 1
    icfil_step: float = 0.01
    icfil_temperature: float = 0.5

    def __post_init__(self) -> None:
        check_at_least(self, icfil_images=1, icfil_inversion_steps=0, icfil_lr=0, icfil_steps=0, icfil_step=0)


def contrastive_loss(features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss of features `(n, d)` with labels `(n,)` (Khosla et al., 2020); a scalar.

    The mean over images i and other images j of i's class of −log softmax_j(cosine(i, j) / temperature).
    """
    features = F.normalize(features, dim=1)
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    similarity = (features @ features.T / temperature).masked_fill(itself, float("-inf"))
    log_share = (similarity - similarity.logsumexp(1, keepdim=True)).masked_fill(itself, 0)
    alike = (labels[:, None] == labels) & ~itself
    return -((log_share * alike).sum(1) / alike.sum(1)).mean()


class CalibratedLearner(MetaLearner):
    """A meta-learner with ICFIL: after the inner loop, images inverted from the adapted model correct it.

    From noise, icfil_images images a class are inverted from the adapted model, in icfil_inversion_steps of
    Adam on cross-entropy, total variation and l2, cut to what an image can be as in training. Then the
    features take icfil_steps gradient steps on the contrastive loss of support and inverted images together,
    each with its own batch statistics: a class's real images move to where the model has its images of that
    class. The same support set always gives the same classifier.
    """

    def __init__(self, learner: MetaLearner, inversion: InversionConfig, config: CalibrationConfig) -> None:
        vars(self).update(vars(learner))  # the same θ, not a copy
        self.inversion, self.config = inversion, config

    def adapt(self, images: Tensor, labels: Tensor, *, steps: int | None = None) -> Classifier:
        """The inner loop, then the calibration; see `MetaLearner.adapt`."""
        adapted = super().adapt(images, labels, steps=steps)
        if not isinstance(adapted, GradientClassifier):
            return adapted
        with torch.inference_mode(False), torch.enable_grad():
            support, labels = self.prepare(images), labels.to(self.device, copy=True)
            inverted, classes = self._invert(adapted.params, adapted.n_way, support)
            targets = torch.cat([labels, classes])
            params = self._calibrate(adapted.params, [support, inverted], targets)
        return GradientClassifier(self, params, adapted.n_way)

    def _invert(self, params: Params, n_way: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Prepared images of each class from a model with weights `params`, and their labels."""
        c, w = self.config, self.inversion
        labels = class_major_labels(n_way, c.icfil_images)
        noise = torch.randn(len(labels), *like.shape[1:], generator=torch.Generator().manual_seed(0))
        mean, std = (channel_constants(values, like) for values in (self.transform.mean, self.transform.std))
        limits = -mean / std, (1 - mean) / std  # of images in [0, 1]
        x, labels = noise.to(like.device).clamp(*limits).requires_grad_(), labels.to(like.device)
        optimizer = make_optimizer("adam", [x], c.icfil_lr)
        fixed = {name: p.detach() for name, p in params.items()}
        for _ in range(c.icfil_inversion_steps):
            loss = w.lambda_ce * F.cross_entropy(self.forward(fixed, x).float(), labels)
            loss = loss + w.lambda_tv * total_variation(x) + w.lambda_l2 * x.norm()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                torch.clamp(x, *limits, out=x)
        return x.detach(), labels

    def _calibrate(self, params: Params, batches: list[Tensor], labels: Tensor) -> Params:
        """The weights after the contrastive steps on all batches; the head stays."""
        encoder, c = self.backbone.get_submodule("encoder"), self.config

        def loss(moving: Params) -> Tensor:
            inner = {name.removeprefix("encoder."): p for name, p in moving.items()}
            features = torch.cat([functional_call(encoder, inner, (x,)).flatten(1).float() for x in batches])
            return contrastive_loss(features, labels, c.icfil_temperature)

        moving = {name: p.detach() for name, p in params.items() if name.startswith("encoder.")}
        for _ in range(c.icfil_steps):
            gradient = self.gradient(loss, moving, False)
            moving = {name: p - c.icfil_step * gradient[name] for name, p in moving.items()}
        return {**params, **moving}

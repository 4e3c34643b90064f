"""The meta-learner f_θ: adapts to a support set by gradient steps or class means, and classifies queries."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from freelib.datasets.episodes import Episode, check_labels, checked_images, images_to_float
from freelib.distillation import at_least_float32
from freelib.models.transform import ImageTransform
from freelib.settings import check_at_least, check_one_of

HEADS = ("maml", "anil", "prototypes")
CENTRES = ("none", "support", "episode")
PRECISIONS = ("float32", "bfloat16")
Params = dict[str, Tensor]  # a network's weights by name


def finite_scores(scores: Tensor) -> Tensor:
    """The same class scores. Raises FloatingPointError, on the CPU, for NaN or infinity, among which none is best."""
    if scores.device.type == "cpu" and not bool(scores.isfinite().all()):
        raise FloatingPointError("Class scores are not finite: weights or inner_lr are too large.")
    return scores


class Classifier:
    """A meta-learner that has adapted to one support set of n_way classes."""

    def logits(self, images: Tensor) -> Tensor:
        """Class scores `(n, n_way)` of images `(n, C, H, W)`, float in [0, 1] or uint8."""
        raise NotImplementedError

    def predict_proba(self, images: Tensor) -> Tensor:
        """Class probabilities `(n, n_way)` of images `(n, C, H, W)`, float in [0, 1] or uint8."""
        return self.logits(images).softmax(1)

    def predict(self, images: Tensor) -> Tensor:
        """The most likely class of each image `(n, C, H, W)`, float in [0, 1] or uint8: `(n,)` int64."""
        return self.logits(images).argmax(1)


@dataclass(frozen=True)
class GradientClassifier(Classifier):
    """A network with the weights that the inner loop arrived at."""

    learner: MetaLearner
    params: Params
    n_way: int

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Class scores `(n, n_way)`; BatchNorm is on the statistics of these n images."""
        scores = self.learner.forward(self.params, self.learner.prepare(images)).float()
        return finite_scores(scores[:, : self.n_way])  # a learner of more classes was shown fewer


def class_prototypes(support: Tensor, labels: Tensor, n_way: int) -> Tensor:
    """Class means `(n_way, d)`, of unit length, of unit features `(s, d)`; n_way: -1, or how many classes."""
    members = F.one_hot(labels, n_way).to(support.dtype)  # (s, n_way)
    return F.normalize(members.T @ support, dim=1)


def prototype_logits(
    support: Tensor, labels: Tensor, query: Tensor, *, centre: str = "none", scale: float = 10.0, n_way: int = -1
) -> Tensor:
    """Cosines of queries `(q, d)` with the class means of the support's unit features `(s, d)`: `(q, n_way)`.

    centre: the mean taken off all features first: "none", the "support"'s, or the "episode"'s, support and
      queries together (transductive: the queries help to classify each other)
    n_way: how many classes; -1: the largest label tells, which a GPU has to be asked for
    """
    seen = torch.cat([support, query]) if centre == "episode" else support
    mean = support.new_zeros(support.shape[1]) if centre == "none" else seen.mean(0)
    support, query = F.normalize(support - mean, dim=1), F.normalize(query - mean, dim=1)
    return scale * query @ class_prototypes(support, labels, n_way).T


@dataclass(frozen=True)
class PrototypeClassifier(Classifier):
    """Nearest class mean in the features of a frozen network."""

    learner: MetaLearner
    support: Tensor
    labels: Tensor
    n_way: int

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Scaled cosine similarities to the class means, `(n, n_way)`."""
        c, query = self.learner.centre, self.learner.embed(images)
        return finite_scores(prototype_logits(self.support, self.labels, query, centre=c, n_way=self.n_way))


class MetaLearner:
    """A network f_θ, and the rule by which it adapts to a support set.

    backbone: the network; its BatchNorm layers are to be on batch statistics (transductive, as in all of this
      line of work). For head="prototypes" it is anything with `features`
    mean, std, image_size: how images in [0, 1] become the network's input
    head: "maml" adapts all weights (Finn et al., 2017), "anil" the last layer (Raghu et al., 2020),
      "prototypes" takes class means of the features (Snell et al., 2017)
    inner_lr, inner_steps: α and K, size and number of the gradient steps that `adapt` takes
    centre: for head="prototypes" the mean that is taken off the features, see `prototype_logits`
    precision: of the features for head="prototypes", "float32" or "bfloat16"

    Raises ValueError for an unknown head, centre or precision, and for numbers out of range.

    >>> from freelib.models.backbones import build_backbone
    >>> network = build_backbone("conv4", n_way=5, image_size=16, batch_stats=True)
    >>> learner = MetaLearner(network, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), image_size=16)
    >>> classifier = learner.adapt(torch.rand(5, 3, 16, 16), torch.arange(5))
    >>> classifier.predict_proba(torch.rand(15, 3, 16, 16)).shape
    torch.Size([15, 5])
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        image_size: int,
        head: str = "maml",
        inner_lr: float = 0.01,
        inner_steps: int = 10,
        centre: str = "none",
        precision: str = "float32",
    ) -> None:
        self.backbone, self.head, self.centre, self.precision = backbone, head, centre, precision
        self.inner_lr, self.inner_steps = inner_lr, inner_steps
        check_one_of(self, head=HEADS, centre=CENTRES, precision=PRECISIONS)
        check_at_least(self, inner_lr=0, inner_steps=0)
        self.transform = ImageTransform(mean, std, image_size)
        self.log: Any = None  # what happened in training (TrainingLog), if it was trained
        self.config: Any = None  # of the method, if `freelib.meta_train` trained it
        self.selected_round: int | None = None
        self.last_params: Params | None = None  # θ of the last round, where one was selected

    @torch.no_grad()
    def load_params(self, params: Mapping[str, Tensor]) -> None:
        """Sets θ, by name."""
        for name, parameter in self.backbone.named_parameters():
            parameter.copy_(params[name])

    @property
    def device(self) -> torch.device:
        """Where θ is; the CPU for what has no weights."""
        held = chain(self.backbone.parameters(), self.backbone.buffers())
        return next((tensor.device for tensor in held), torch.device("cpu"))

    @property
    def params(self) -> Params:
        """θ by name: the module's own parameters, not copies."""
        return dict(self.backbone.named_parameters())

    def prepare(self, images: Tensor) -> Tensor:
        """Images, float in [0, 1] or uint8, as the network's input on its device."""
        images = checked_images(images, len(self.transform.mean)).to(self.device)
        return self.transform(images_to_float(images))

    def forward(self, params: Params, inputs: Tensor) -> Tensor:
        """Logits `(n, n_way)` of prepared images under some weights."""
        return functional_call(self.backbone, params, (inputs,))

    def __call__(self, images: Tensor) -> Tensor:
        """Logits `(n, n_way)` of images in [0, 1] under θ; differentiable by θ and by the images."""
        return self.backbone(self.transform(images))

    @property
    def embeds_images_one_by_one(self) -> bool:
        """Whether all it does with an image is to embed it, whatever is beside it in the batch."""
        norms = [m for m in self.backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        own = not any(norm.training or norm.running_mean is None for norm in norms)
        return self.head == "prototypes" and own

    def embed(self, images: Tensor) -> Tensor:
        """Features `(n, d)` of images, float in [0, 1] or uint8."""
        return self._features(self.prepare(images))

    def _features(self, inputs: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            return at_least_float32(self.backbone.features(inputs))  # type: ignore[operator]

    def gradient(self, loss: Callable[[Params], Tensor], params: Params, create_graph: bool) -> Params:
        """∇loss at some weights, by name; with `create_graph` it can be differentiated itself."""
        if not create_graph:
            params = {name: p.detach().requires_grad_() for name, p in params.items()}
        gradients = torch.autograd.grad(loss(params), list(params.values()), create_graph=create_graph)
        return dict(zip(params, gradients, strict=True))

    def inner_loop(self, inputs: Tensor, labels: Tensor, *, steps: int, second_order: bool = False) -> Params:
        """θ' after `steps` steps of θ' ← θ' − α ∇CE(θ'; support) from θ, which itself stays.

        inputs: prepared images; labels: their classes, `(n,)`
        second_order: keep the graph through the steps, for MAML's outer gradient; without it the result is
          detached
        """
        params = self.params if second_order else {name: p.detach() for name, p in self.params.items()}
        moving = {name: p for name, p in params.items() if self.head == "maml" or name.startswith("head.")}

        def loss(moving: Params) -> Tensor:
            return F.cross_entropy(at_least_float32(self.forward({**params, **moving}, inputs)), labels)

        for _ in range(steps):
            gradients = self.gradient(loss, moving, second_order)
            moving = {name: p - self.inner_lr * gradients[name] for name, p in moving.items()}
        return {**params, **moving}

    def check_support(self, images: Tensor, labels: Tensor) -> int:
        """The largest label of a support set. Raises ValueError where it is none for this learner."""
        check_labels(images, labels)
        n_way, least, most = getattr(self.backbone, "n_way", None), int(labels.min()), int(labels.max())
        if least < 0 or (self.head != "prototypes" and n_way and most >= n_way):
            raise ValueError(f"Labels must lie in 0…{n_way - 1 if n_way else 'n_way-1'}, got {least}…{most}.")
        if len(set(labels.tolist())) != most + 1:
            raise ValueError(f"Labels 0…{most} are expected without gaps: a class without images can't be learnt.")
        return most

    def adapt(self, images: Tensor, labels: Tensor, *, steps: int | None = None) -> Classifier:
        """Learns the classes of a support set; what it gives answers for other images. θ itself stays.

        images: `(n, C, H, W)` of any size, float in [0, 1] or uint8; labels: `(n,)` int64, from 0 on. Labels
          above the largest one are no answers: of a 5-way learner three classes make a 3-way classifier
        steps: K, at least 0; by default the learner's `inner_steps`. Prototypes take none

        Raises ValueError where images or labels are not such, a label is out of range, labels have gaps, or
        steps are below 0.
        """
        if (steps := self.inner_steps if steps is None else steps) < 0:
            raise ValueError(f"steps must be at least 0, got {steps}.")
        most = self.check_support(images, labels)
        labels = labels.to(self.device)  # read before: on the host that waits for nothing
        if self.head == "prototypes":
            with torch.no_grad():
                return PrototypeClassifier(self, self.embed(images), labels, most + 1)
        # Learning needs gradients, also where the caller has switched them off. A tensor that was made in
        # inference mode can't be saved for one, its copy can.
        with torch.inference_mode(False), torch.enable_grad():
            params = self.inner_loop(self.prepare(images), labels.clone(), steps=steps)
        return GradientClassifier(self, params, most + 1)

    def query_loss(self, episode: Episode, *, steps: int, second_order: bool = True) -> tuple[Tensor, Tensor]:
        """MAML's outer loss on an episode: the queries' mean cross-entropy and accuracy, two scalars.

        The loss is differentiable with respect to θ: through the inner steps (second order), or with the
        inner gradients as constants (first order). With head="prototypes" there are no steps.
        """
        support, query = self.transform(episode.support), self.transform(episode.query)
        if self.head == "prototypes":  # as at test time: each side with its own batch statistics
            support, query = self._features(support), self._features(query)
            logits = prototype_logits(support, episode.support_labels, query, centre=self.centre)
        else:
            params = self.inner_loop(support, episode.support_labels, steps=steps, second_order=second_order)
            if not second_order:  # θ' = θ + constant
                params = {name: p + (params[name] - p).detach() for name, p in self.params.items()}
            logits = at_least_float32(self.forward(params, query))
        hits = (logits.argmax(1) == episode.query_labels).float().mean()
        return F.cross_entropy(logits, episode.query_labels), hits

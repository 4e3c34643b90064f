"""A few-shot learner as a scikit-learn classifier: images and labels of any form in, a folder to keep it in."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data
from torch import Tensor

from freelib.adapted import AdaptedNetwork
from freelib.datasets.episodes import checked_images, images_to_float
from freelib.datasets.sources import decode, upright_rgb
from freelib.meta_learner import MetaLearner
from freelib.models.backbones import Backbone, EmbeddingBackbone, build_backbone
from freelib.models.metadata import read_metadata
from freelib.models.pretrained import check_finite_tensors
from freelib.models.transform import resized
from freelib.settings import MOST_WIDE
from freelib.storage import load_tensors, plain, save_tensors, write_atomically

AT_ONCE = 256
"""Images in one call of the network."""
RULE = ("head", "inner_lr", "inner_steps", "centre", "precision")
HUB = ("revision", "cache_dir", "force_download", "local_files_only", "token")
CARD = Path(__file__).with_name("model_card.md")


def as_images(images: Any, channels: int, size: int) -> Tensor:
    """Images of any form that `FewShotClassifier` takes, as float `(n, channels, size, size)` in [0, 1]."""
    if isinstance(images, list | tuple):
        images = np.stack([_pixels(image, channels, size) for image in images])
    tensor = images if isinstance(images, Tensor) else torch.tensor(np.asarray(images))
    if tensor.ndim == 4 and tensor.shape[1] != channels and tensor.shape[3] == channels:
        tensor = tensor.permute(0, 3, 1, 2)
    return resized(images_to_float(checked_images(tensor, channels)), size)


def _pixels(image: Image.Image | str | Path, channels: int, size: int) -> NDArray[np.uint8]:
    image = upright_rgb(image) if isinstance(image, Image.Image) else decode(Path(image), str(image))
    small = image.convert("RGB" if channels == 3 else "L").resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(small).reshape(size, size, channels)


class FewShotClassifier(ClassifierMixin, BaseEstimator, ModelHubMixin, library_name="freelib"):
    """A meta-trained learner with scikit-learn's contract: `fit` on a few images a class, `predict` others.

    An answer depends on the image and on what was fitted, not on the other images of a call (`AdaptedNetwork`).
    The learner itself stays as it is; clones share it.

    X: images as an array or a tensor, `(n, H, W, C)` or `(n, C, H, W)`, uint8 or float in [0, 1]; or a list of
      PIL images or of paths. They are resized to the learner's size. A learner that
      `embeds_images_one_by_one` also takes a table `(n, d)`, what its `embed` gave
    y: labels as scikit-learn takes them, such as strings

    learner: from `meta_train`, from a method, or from `load_learner`
    reject: None, or a share in (0, 1): `predict` gives `unknown_label` where the highest score is below what
      all but that share of the support images have when their own class is left out: it takes three classes
      or more. The smaller the share, the more images of known classes are turned away as well

    >>> from freelib.models.backbones import build_backbone
    >>> network = build_backbone("conv4", n_way=8, image_size=16, width=8, embeds=True).eval()
    >>> about = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "image_size": 16, "head": "prototypes"}
    >>> classifier = FewShotClassifier(MetaLearner(network, **about))
    >>> pictures = [Image.new("RGB", (40, 30), colour) for colour in ("navy", "blue", "red", "pink")]
    >>> classifier.fit(pictures, ["cold", "cold", "warm", "warm"]).predict(pictures[:1]).tolist()
    ['cold']
    """

    _hub_mixin_config: Any = ()  # where it is None, the mixin keeps init's arguments; `config.json` is our own

    def __init__(self, learner: Any, *, reject: Any = None, unknown_label: Any = "unknown") -> None:
        self.learner, self.reject, self.unknown_label = learner, reject, unknown_label

    def __sklearn_clone__(self) -> "FewShotClassifier":
        return type(self)(**self.get_params(deep=False))

    def _images(self, X: Any) -> Tensor | None:
        """X as images of the learner's size; None where it is to be a table of features."""
        if getattr(X, "ndim", 0) == 1 and hasattr(X, "tolist"):  # a column of paths
            X = X.tolist()
        listed = isinstance(X, list | tuple) and len(X) > 0 and isinstance(X[0], str | Path | Image.Image)
        if not listed and getattr(X, "ndim", 0) < 3 and self.learner.embeds_images_one_by_one:
            return None
        transform = self.learner.transform
        return as_images(X, len(transform.mean), transform.image_size)

    def fit(self, X: Any, y: Any) -> "FewShotClassifier":
        """Learns the classes of some images; gives itself. Raises ValueError for what can't be learnt."""
        if self.reject is not None and not 0 < self.reject < 1:
            raise ValueError(f"reject is None or in (0, 1), got {self.reject}.")
        if (support := self._images(X)) is None:
            table, y = validate_data(self, X, y)
            support = torch.tensor(table, dtype=torch.float32)
        else:
            y = validate_data(self, y=y)
            check_consistent_length(support, y)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        self.support_, self.labels_ = support.to(self.learner.device), torch.from_numpy(labels)
        self.network_ = AdaptedNetwork(self.learner, self.support_, self.labels_)
        self.threshold_ = None if self.reject is None else float(self._strange_scores().quantile(1 - self.reject))
        return self

    def _strange_scores(self) -> Tensor:
        """The highest score of each support image `(s,)` where its own class was left out."""
        if (n_way := len(self.classes_)) < 3:
            raise ValueError(f"reject takes three classes or more, got {n_way}: leave it at None.")
        scores = []
        for out in range(n_way):
            shown, labels = self.labels_ != out, self.labels_ - (self.labels_ > out).long()
            network = AdaptedNetwork(self.learner, self.support_[shown], labels[shown])
            scores.append(network.logits(self.support_[~shown]).amax(1))
        return torch.cat(scores)

    def _scores(self, X: Any) -> NDArray[np.float32]:
        """Class scores `(n, n_classes)`; of a head of prototypes ten times the cosine."""
        check_is_fitted(self)
        if (inputs := self._images(X)) is None:
            inputs = torch.tensor(validate_data(self, X, reset=False), dtype=torch.float32)
        parts = inputs.to(self.learner.device).split(AT_ONCE)
        return torch.cat([self.network_.logits(part) for part in parts]).cpu().numpy()

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        """Class probabilities `(n, n_classes)`, in the order of `classes_`."""
        return torch.from_numpy(self._scores(X)).softmax(1).numpy()

    def predict(self, X: Any) -> NDArray[Any]:
        """The most likely class of each image, `(n,)`; with `reject`, unknown_label where that is not likely."""
        scores = self._scores(X)
        found = self.classes_[scores.argmax(1)]
        if self.threshold_ is None:
            return found
        return np.where(scores.max(1) > self.threshold_, found.astype(object), self.unknown_label)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Writes what `from_pretrained` reads: JSON and safetensors of the network and of the support set.

        A README.md, the model card, is written where there is none; model_card_kwargs: see
        `generate_model_card`. `push_to_hub` puts the same files on the Hugging Face Hub.

        Raises ValueError for a learner that is not one network of freelib's, NotFittedError before `fit`.
        """
        check_is_fitted(self)
        network = self.learner.backbone
        if type(self.learner) is not MetaLearner or not isinstance(network, Backbone) or network.training:
            raise ValueError("Only a learner of one network of freelib's, in eval mode, can be kept so.")
        return super().save_pretrained(save_directory, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        network, transform = self.learner.backbone, self.learner.transform
        weights = network.state_dict()
        about = {
            "network": {name: getattr(network, name) for name in ("arch", "width", "n_way")}
            | {"batch_stats": not any("running_mean" in name for name in weights)}
            | {"embeds": isinstance(network, EmbeddingBackbone)},
            "images": {name: getattr(transform, name) for name in ("mean", "std", "image_size")},
            "rule": {name: getattr(self.learner, name) for name in RULE},
            "classes": self.classes_.tolist(),
            "settings": {"reject": self.reject, "unknown_label": self.unknown_label},
        }
        tensors = {f"network.{name}": tensor for name, tensor in weights.items()}
        tensors |= {"support": self.support_, "labels": self.labels_}
        save_tensors(save_directory / "model.safetensors", tensors)
        write_atomically(save_directory / "config.json", json.dumps(plain(about), indent=1).encode())

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> "FewShotClassifier":
        hub = {name: options.pop(name) for name in HUB}
        folder = Path(model_id if Path(model_id).is_dir() else snapshot_download(model_id, **hub))
        try:
            about, tensors = read_metadata(folder / "config.json"), load_tensors(folder / "model.safetensors")
            check_finite_tensors(folder, tensors)
            images, rule = about["images"], about["rule"]
            support, labels = tensors.pop("support"), tensors.pop("labels")
            if max(images["image_size"], rule["inner_steps"]) > MOST_WIDE:
                raise ValueError(f"image_size and inner_steps are at most {MOST_WIDE}")
            with torch.device("meta"):  # what a stranger's file merely claims takes no memory
                size, channels = images["image_size"], len(images["mean"])
                network = build_backbone(**about["network"], image_size=size, channels=channels).eval()
            network.load_state_dict({name.removeprefix("network."): t for name, t in tensors.items()}, assign=True)
            learner = MetaLearner(network.to(memory_format=torch.channels_last), **images, **rule)
            return cls(learner, **about["settings"] | options).fit(support, np.array(about["classes"])[labels.numpy()])
        except (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise ValueError(f"{folder} holds no whole FewShotClassifier: {error}.") from error

    def generate_model_card(self, **facts: str) -> ModelCard:
        """The model card: what the classifier knows of itself, and the facts given, "unknown" if not.

        facts: pool, licence (of the pool, as the Hub spells it), method, accuracy (with its interval and with
        what it was measured on)
        """
        network, size = self.learner.backbone, self.learner.transform.image_size
        known = dict.fromkeys(("pool", "licence", "method", "accuracy"), "unknown") | facts
        known |= {"classes": ", ".join(map(str, self.classes_)), "support": str(len(self.labels_))}
        known |= {"network": f"{network.arch}, width {network.width}, images of {size} pixels"}
        known |= {"reject": str(self.reject)}
        return ModelCard(CARD.read_text("utf-8").format(**{k: v.replace("|", "/") for k, v in known.items()}))

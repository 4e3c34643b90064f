"""Networks of other libraries: torchvision, timm and transformers by name, ONNX by file; nothing is downloaded."""

from __future__ import annotations

import hashlib
import importlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freelib.storage import LARGEST, load_state_file, load_weights, read_limited, write_atomically

Architecture = Callable[[int], nn.Module]  # from a number of classes to an untrained network
LIBRARIES = ("torchvision", "timm", "transformers", "onnx")
REFUSED = (
    *("weights", "pretrained", "checkpoint_path", "num_classes", "in_chans", "architecture", "auto_map"),
    *("attn_implementation", "_attn_implementation", "quantization_config"),
)
"""Options that ask for other files, a download or code, or say what the card says."""


def library(name: str) -> Any:
    """An optional library. Raises ValueError, with the command that installs it, where it is not there."""
    extra = name.removesuffix("runtime")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it says of itself at import is not the user's matter
            return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"{name} is not installed ({error}): pip install 'freelib[{extra}]'.") from error


def read_network(
    card: Path, about: Mapping[str, Any], file: Path, known: Mapping[str, Architecture] | None = None
) -> nn.Module:
    """The network that a card is about, with the weights in a file; torch's global generator stays.

    about: `arch`, a known one, "torchvision/NAME" or NAME, "timm/NAME" or "transformers/NAME"; `options`,
      arguments beside the number of classes (of transformers, the configuration); and the other fields

    Raises ValueError, naming card or file, for an `arch` that no library knows, a library that is not
    installed, and weights that do not fit.
    """
    if file.suffix == ".onnx":
        return OnnxNetwork(file)
    arch, known = about["arch"], known or {}
    architecture, weights = known.get(arch) or _of_a_library(card, about, known), load_state_file(file)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")  # of initial values, which are replaced
            built = architecture(len(about["class_names"]))
        network = getattr(built, "_orig_mod", built)  # compiled
        if arch in known or not arch.startswith("transformers/"):
            load_weights(network, weights)
            return network
        again: Any = type(network)  # it knows under what names its earlier versions kept the weights
        network, told = again.from_pretrained(None, config=built.config, state_dict=weights, output_loading_info=True)
        if told["missing_keys"]:
            raise ValueError(f"it lacks {min(told['missing_keys'])}")
    except Exception as error:  # the architecture may be someone's own code, and raise anything
        raise ValueError(f"{file} does not fit the architecture {arch}: {str(error)[:400]}") from error
    return network


def _of_a_library(card: Path, about: Mapping[str, Any], known: Mapping[str, Architecture]) -> Architecture:
    kind, _, name = about["arch"].rpartition("/")
    options = {key: value for key, value in about.get("options", {}).items() if key not in REFUSED}
    if kind in ("", "torchvision"):
        from torchvision import models

        if name in models.list_models(module=models):
            return lambda n: models.get_model(name, weights=None, num_classes=n, **options)
    if kind == "timm" and (timm := library("timm")).is_model(name):
        safe = {"pretrained": False, "in_chans": len(about["mean"])}
        return lambda n: timm.create_model(name, num_classes=n, **safe, **options)
    if kind == "transformers":
        auto = library("transformers")
        make = auto.AutoModelForImageClassification.from_config
        return lambda _: make(auto.AutoConfig.for_model(**options), trust_remote_code=False)
    names = ", ".join((*known, "a builder of torchvision's such as resnet18", "timm/NAME of timm's"))
    raise ValueError(f"{card}: arch is {about['arch']!r}, expected one of {names}.")


class OnnxNetwork(nn.Module):
    """An ONNX file, run by onnxruntime on the CPU: it can be called, and has neither weights nor gradients.

    Its first input is the images, its first output the logits. What else the file refers to has to lie beside
    it as `<file>.data`. Raises ValueError where onnxruntime is not installed or can't read the file.
    """

    call_only = True

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.files = [file, *(more for more in [file.with_name(f"{file.name}.data")] if more.exists())]
        digest = hashlib.sha256(b"".join(read_limited(part, LARGEST) for part in self.files)).digest()
        self.register_buffer("digest", torch.tensor(list(digest), dtype=torch.uint8))  # stands for the weights
        runtime = library("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            self.session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises many kinds
            raise ValueError(f"{file} is no ONNX model that onnxruntime can run ({error}).") from error
        self.input = self.session.get_inputs()[0]
        types = {"tensor(float16)": torch.float16, "tensor(double)": torch.float64}
        self.dtype = types.get(self.input.type, torch.float32)

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxNetwork:
        """Itself: it never changes, and threads may share it."""
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(n, n_way)` of normalised images, in parts where the file has a fixed number of images."""
        fixed = self.input.shape[0]
        answers = []
        for part in images.detach().cpu().to(self.dtype).split(fixed if isinstance(fixed, int) else len(images)):
            full = F.pad(part, (0,) * 7 + (fixed - len(part),)) if isinstance(fixed, int) else part
            (answer, *_) = self.session.run(None, {self.input.name: full.contiguous().numpy()})
            answers.append(torch.as_tensor(answer)[: len(part)])
        return torch.cat(answers).to(images.device)

    def copy_to(self, target: Path) -> None:
        """Copies the file, and beside it what it refers to."""
        for source in reversed(self.files):
            place = target if source == self.files[0] else target.with_name(source.name)
            write_atomically(place, read_limited(source, LARGEST))

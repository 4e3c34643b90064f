"""A fitted classifier as one file, its preprocessing with it, for where freelib is not."""

import copy
import io
import json
from pathlib import Path
from timeit import repeat
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from freelib.classifier import FewShotClassifier
from freelib.models.backbones import Backbone
from freelib.models.libraries import library
from freelib.storage import write_atomically


def as_program(classifier: FewShotClassifier) -> ExportedProgram:
    """From images `(n, C, size, size)`, float in [0, 1], to probabilities `(n, n_classes)`, in float32.

    Raises ValueError for a learner that is not one network of freelib's.
    """
    if not isinstance(classifier.network_.network, Backbone):
        raise ValueError("Only a learner of one network of freelib's is exported; pool_distillation makes one.")
    network, transform = copy.deepcopy(classifier.network_), classifier.learner.transform
    network.cpu().to(memory_format=torch.contiguous_format).requires_grad_(False).eval()
    images = torch.rand(2, len(transform.mean), transform.image_size, transform.image_size)
    with torch.no_grad():
        return torch.export.export(network, (images,), dynamic_shapes=({0: Dim("n")},))


def export(classifier: FewShotClassifier, onnx: Path | None, pt2: Path | None) -> list[dict[str, Any]]:
    """Writes files for ONNX's runtimes and torch.export: of each its size in MB, and milliseconds of one image here.

    Class names: in ONNX's metadata as "classes", in torch's extra file "classes.json". Raises ValueError where
    freelib[onnx] is not installed.
    """
    program, names, calls = as_program(classifier), json.dumps(classifier.classes_.tolist()), {}
    image = torch.rand_like(program.example_inputs[0][0][:1])
    if onnx:
        runtime = library("onnxruntime")
        made: Any = torch.onnx.export(program, input_names=["images"], output_names=["probabilities"], verbose=False)
        made.model.metadata_props["classes"] = names
        write_atomically(onnx, made.model_proto.SerializeToString())
        session = runtime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
        calls[onnx] = lambda: session.run(None, {"images": image.numpy()})
    if pt2:
        stream, network = io.BytesIO(), program.module()
        torch.export.save(program, stream, extra_files={"classes.json": names})
        write_atomically(pt2, stream.getvalue())
        calls[pt2] = lambda: network(image)
    times = {file: 100 * min(repeat(call, number=10, repeat=5)) for file, call in calls.items()}
    return [{"file": str(f), "MB": f.stat().st_size / 1e6, "ms_per_image": ms} for f, ms in times.items()]

"""What a meta-generator synthesises after its warm-up: behind figure 6 and the overview picture."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from freelib.generator import MetaGenerator, SynthesisedTask, synthesise_round
from freelib.methods.free import FreeConfig, build_meta_generator
from freelib.models.pool import ModelPool, PretrainedModel

WARMUP_ROUNDS = 5


def warm_generator(
    pool: ModelPool, config: FreeConfig, rng: torch.Generator, *, seed: int, rounds: int = WARMUP_ROUNDS
) -> MetaGenerator:
    """A meta-generator after some warm-up rounds on the pool, as FREE begins.

    rng: draws each round's `config.meta_batch` models and their noise. seed: of the initial weights.
    """
    generator = build_meta_generator(pool, config, seed=seed)
    for _ in range(rounds):
        synthesise_round(generator, pool.sample(config.meta_batch, rng), rng)
    return generator


def evenly(pool: ModelPool, n: int) -> list[PretrainedModel]:
    """N of a pool's models at even steps, the first among them; all where it has no more."""
    return [pool[i * len(pool) // min(n, len(pool))] for i in range(min(n, len(pool)))]


def tasks_after(pool: ModelPool, config: FreeConfig, updates: Sequence[int], *, seed: int) -> list[SynthesisedTask]:
    """One model's task from the same noise and the same θ_G after each number of updates of both.

    The images after k updates are those of iteration k + 1: FREE's five iterations make four updates.
    """
    rng = torch.Generator().manual_seed(seed)
    generator = warm_generator(pool, config, rng, seed=seed)
    (model,) = pool.sample(1, rng)
    state, found = rng.get_state(), []
    for n in updates:
        rng.set_state(state)
        found.append(generator.adapt(model, None, rng, steps=n + 1))
    return found


@torch.no_grad()
def accuracy_after(tasks: Sequence[SynthesisedTask], updates: Sequence[int]) -> dict[str, Any]:
    """Values of the record "recovered_images": the teacher's accuracy on each task's images, and L_G.

    Accuracy is in [0, 1] and of the images as they are; the loss is of the images as they were augmented.
    """
    model = tasks[0].model
    right = [model(task.images).argmax(1) == task.labels for task in tasks]
    return {
        "model": model.name,
        "class_names": list(model.class_names),
        "steps": list(updates),
        "agreement": [float(share.float().mean()) for share in right],
        "loss": [float(task.losses[-1]) for task in tasks],
        "passes": sum(n + 1 for n in updates),
    }


def one_image_per_class(pool: ModelPool, config: FreeConfig, *, seed: int, models: int) -> dict[str, Any]:
    """Values of the record "overview images": some models' tasks, an image of each class as one PNG.

    The picture has a row of images for each model. "agreement" is the teacher's accuracy on all of a task's
    images as they were augmented, in [0, 1].
    """
    rng = torch.Generator().manual_seed(seed)
    generator = warm_generator(pool, config, rng, seed=seed)
    tasks = [generator.adapt(model, None, rng) for model in evenly(pool, models)]
    firsts = [first_of_each_class(task, 1) for task in tasks]
    return {
        "png": base64.b64encode(png(firsts)).decode(),
        "models": [task.model.name for task in tasks],
        "class_names": [list(task.model.class_names) for task in tasks],
        "agreement": [round(float(task.teacher_accuracy), 4) for task in tasks],
        "pool": len(pool),
        "steps": config.adapt_steps,
        "passes": generator.iterations,
    }


def first_of_each_class(task: SynthesisedTask, n: int) -> Tensor:
    """The first n images of each of a task's classes, class by class: `(n_way * n, C, H, W)`."""
    return torch.cat([task.images[task.labels == c][:n] for c in range(task.model.n_way)])


def png(rows: Sequence[Tensor]) -> bytes:
    """Rows of RGB images `(n, 3, H, W)` in [0, 1], all of one size, edge to edge as one PNG of 8 bits."""
    lines = [torch.cat(list(images.detach().cpu()), dim=2) for images in rows]
    pixels = torch.cat(lines, dim=1).clamp(0, 1).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray((pixels * 255).round().astype(np.uint8)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def images_of(picture: bytes, n_rows: int) -> Tensor:
    """The square images in such a PNG: `(n_rows, n, 3, H, H)` uint8."""
    with Image.open(io.BytesIO(picture)) as opened:
        pixels = torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)
    side = pixels.shape[1] // n_rows
    return pixels.unfold(1, side, side).unfold(2, side, side).permute(1, 2, 0, 3, 4).contiguous()

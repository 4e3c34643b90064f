"""Recovery from scratch: a new generator for every model, which is what the meta-generator replaces."""

from __future__ import annotations

import torch

from freelib.generator import MetaGenerator, RecoveredTask, Student
from freelib.inversion import InversionConfig
from freelib.pool import PretrainedModel


def recover_from_scratch(
    model: PretrainedModel,
    config: InversionConfig,
    rng: torch.Generator,
    *,
    steps: int,
    student: Student | None = None,
    image_size: int | None = None,
    device: torch.device | str = "cpu",
    precision: str = "float32",
) -> RecoveredTask:
    """A freshly initialised generator and z, trained together for `steps` generate-forward-backward passes.

    The same steps on the same loss as `MetaGenerator.adapt`, from random weights in place of θ_G; the task's
    `losses` and `agreements` tell of every step.

    student: for the adversarial term, see `inversion_loss`; image_size: by default the model's
    """
    fresh = MetaGenerator(
        config,
        image_size=image_size or model.image_size,
        channels=len(model.mean),
        seed=int(torch.randint(2**31 - 1, (), generator=rng)),
        device=device,
        precision=precision,
    )
    return fresh.adapt(model, student, rng, steps=steps)

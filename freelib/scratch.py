"""Recovery from scratch: a new generator for every model, which is what the meta-generator replaces."""

from __future__ import annotations

import torch

from freelib.generator import MetaGenerator, RecoveredTask, Student
from freelib.inversion import InversionConfig
from freelib.models.pool import PretrainedModel


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


class ScratchGenerator:
    """FIve's stand-in for the ablation: a generator of its own for every model, none learns from another.

    config: as for `MetaGenerator`; steps: generate-forward-backward passes for each model
    The interface is `MetaGenerator`'s; there is no θ_G, so the meta-step does nothing.

    Raises ValueError for less than 1 step.
    """

    def __init__(
        self,
        config: InversionConfig,
        *,
        steps: int,
        image_size: int,
        device: torch.device | str = "cpu",
        precision: str = "float32",
    ) -> None:
        if steps < 1:
            raise ValueError(f"A task is recovered in at least 1 step, got {steps}.")
        self.config, self.steps = config, steps
        self.image_size, self.device, self.precision = image_size, device, precision
        self.passes = 0  # generate-forward-backward passes so far

    def adapt(self, model: PretrainedModel, student: Student | None, rng: torch.Generator) -> RecoveredTask:
        """A task from a generator that is drawn now and trained for this model alone."""
        self.passes += self.steps
        return recover_from_scratch(
            model,
            self.config,
            rng,
            steps=self.steps,
            student=student,
            image_size=self.image_size,
            device=self.device,
            precision=self.precision,
        )

    def meta_step(self) -> None:
        """Nothing: no generator outlives its model."""

    def state_dict(self) -> dict[str, int]:
        """The count of passes."""
        return {"passes": self.passes}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Back to a state that `state_dict` gave."""
        self.passes = state["passes"]

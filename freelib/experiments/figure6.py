"""Figure 6: what is recovered from a model, class by class, beside real images, over more and more steps."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from freelib.datasets.episodes import images_to_float
from freelib.experiments.scene import WARMUP_ROUNDS, Scene
from freelib.generator import SynthesisedTask
from freelib.run.measure import measured
from freelib.run.records import Record
from freelib.show.figures import new_figure, styled

STEPS = (0, 1, 5, 50)


class Recovered(Scene):
    """One model's task from one z and one θ_G, after 0, 1, 5 and 50 updates of both."""

    experiment = "figure6"

    @cached_property
    def tasks(self) -> list[SynthesisedTask]:
        """The task after each number of updates; `adapt` counts passes, one more than updates."""
        rng = self.rng()
        generator = self.warm_generator(rng, rounds=WARMUP_ROUNDS)
        (model,) = self.pool.sample(1, rng)
        state, found = rng.get_state(), []
        for steps in STEPS:
            rng.set_state(state)
            found.append(generator.adapt(model, None, rng, steps=steps + 1))
        return found

    def record(self) -> Record:
        """Agreement and loss after each number of updates."""
        about = {"free": self.config, "steps": STEPS, "warmup_rounds": WARMUP_ROUNDS}
        return measured(self.run, "recovered_images", about, self._measure, self.store, revision=2)

    def _measure(self) -> dict[str, Any]:
        model = self.tasks[0].model
        with torch.no_grad():
            answers = [model(task.images).argmax(1) == task.labels for task in self.tasks]
        return {
            "model": model.name,
            "class_names": list(model.class_names),
            "steps": list(STEPS),
            "agreement": [float(right.float().mean()) for right in answers],
            "loss": [float(task.losses[-1]) for task in self.tasks],
            "passes": sum(step + 1 for step in STEPS),
        }

    def real(self, n: int) -> list[Tensor]:
        """The first n real images of each of the model's classes: float `(n, C, H, W)` in [0, 1]."""
        model = self.tasks[0].model
        train, names = self.dataset("train", model.domain), model.class_names
        return [images_to_float(train.class_images(train.class_names.index(name))[:n]) for name in names]

    @styled
    def figure(self, *, n: int = 4) -> Figure:
        """A row a class: n real images, then n recovered ones after each number of updates."""
        extra, model = self.record()["extra"], self.tasks[0].model
        groups = [self.real(n)]
        groups += [[t.images[t.labels == c][:n] for c in range(model.n_way)] for t in self.tasks]
        shares = [f"{100 * share:.0f} % agree" for share in extra["agreement"]]
        titles = ["real", *(f"{passes(s)}\n{a}" for s, a in zip(STEPS, shares, strict=True))]
        figure, axes = new_figure(model.n_way, len(groups), height=0.45)
        figure.set_layout_engine("constrained", w_pad=0.03, h_pad=0.01, wspace=0.01, hspace=0.01)
        for column, (title, classes) in enumerate(zip(titles, groups, strict=True)):
            for c, images in enumerate(classes):
                axis = axes[c][column]
                axis.imshow(side_by_side(images), interpolation="nearest", cmap="gray")
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
                if c == 0:
                    axis.set_title(title, size=8)
        for axis, name in zip(axes[:, 0], model.class_names, strict=True):
            axis.set_ylabel(short(name), rotation=0, ha="right", va="center", size=6)
        return figure


def passes(updates: int) -> str:
    """A number of updates in words, with the passes of the images after them: the k of other tables."""
    return f"{updates} update{'s' * (updates != 1)} ({updates + 1} pass{'es' * (updates > 0)})"


def side_by_side(images: Tensor) -> Any:
    """Images `(n, C, H, W)` in [0, 1] as one picture `(H, n · (W + 1), C)`, a white line between them."""
    framed = torch.nn.functional.pad(images.detach().cpu().clamp(0, 1), (0, 1), value=1.0)
    return torch.cat(list(framed), dim=2).permute(1, 2, 0).numpy()


def short(name: str, width: int = 20) -> str:
    """A class's name on lines of at most some letters each, where its words allow it."""
    lines = [""]
    for word in name.lower().replace("_", " ").split():
        if len(lines[-1]) + len(word) >= width and lines[-1]:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)


def conclusion(record: Record) -> str:
    """The agreement after each number of updates, in a sentence."""
    extra = record["extra"]
    pairs = zip(extra["steps"], extra["agreement"], strict=True)
    shares = ", ".join(f"{100 * share:.0f} % after {passes(steps)}" for steps, share in pairs)
    return f"The model puts the recovered images in the class they were made for: {shares}."

"""Figure 3: FREE's framework, drawn from one round of a live run: its models, pictures, steps and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from textwrap import wrap
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import Tensor

from freelib.alignment import (
    AlignmentConfig,
    DistillationBatch,
    DistillationHeads,
    align,
    aligned_displacement,
    distillation_batch,
    outer_optimizer,
    summed_gradient,
)
from freelib.datasets.episodes import Episode
from freelib.experiments.scene import WARMUP_ROUNDS, Scene
from freelib.generator import SynthesisedTask, synthesise_round
from freelib.memory import TaskMemory
from freelib.methods.base import build_student
from freelib.show.figures import PAGE_WIDTH, PALETTE, brief, new_figure, styled

ROUNDS = 4
INK, SOFT = "#333333", "#f2f2f2"


@dataclass(frozen=True)
class Moment:
    """One round: its recovered tasks, the student's walk along them, the memory, an episode of the replay.

    path: the inner steps θ → θ̃, `(n + 1, 2)`, in the plane of θ̃ and `summed`, the end of a step along the
      summed gradients, `(2,)`; both are plain gradient steps with α = rate
    angle: between θ̃ − θ and that step, in degrees
    """

    tasks: list[SynthesisedTask]
    path: np.ndarray
    summed: np.ndarray
    rate: float
    angle: float
    memory: TaskMemory
    episode: Episode


class Framework(Scene):
    """Some whole rounds of algorithm 1, without a monitor; the last one is drawn."""

    experiment = "figure3"

    @cached_property
    def moment(self) -> Moment:
        """The last round."""
        config, pool, rng = self.config, self.pool, self.rng()
        generator = self.warm_generator(rng, rounds=WARMUP_ROUNDS)
        learner = build_student(pool, config, seed=self.unit.seed)
        heads = DistillationHeads.for_pool(learner, pool, config.kd_heads, seed=self.unit.seed)
        weights = [*learner.params.values(), *heads.params.values()]
        optimizer = outer_optimizer(config, weights)
        memory = TaskMemory(image_size=pool.image_size, device=config.device)
        for number in range(ROUNDS):
            tasks = synthesise_round(generator, pool.sample(config.meta_batch, rng), rng)
            memory.add(tasks)
            padding, flip = config.augment_padding, config.augment_flip
            batches = [distillation_batch(task, rng, padding=padding, flip=flip) for task in tasks]
            if number < ROUNDS - 1:
                align(heads, batches, config, optimizer, rng)
        steps, total, rate = plain_walk(heads, batches, config)
        path, summed = in_the_plane(steps, total)
        angle = math.degrees(torch.cosine_similarity(steps[-1], total, dim=0).clamp(-1, 1).acos())
        episode = memory.episode(config.n_way, config.n_shot, 2, rng)
        return Moment(tasks, path, summed, rate, angle, memory, episode)

    @styled
    def figure(self) -> Figure:
        """The round from left to right: models, generator, recovered tasks, student; below, the memory."""
        figure, axes = new_figure(width=PAGE_WIDTH, height=4.15)
        axis = axes[0][0]
        axis.set(xlim=(0, 100), ylim=(0, 59), aspect="equal")
        axis.set_axis_off()
        tasks = self.moment.tasks[:4]
        rows = [46.5 - 9.6 * i for i in range(len(tasks))]
        self._draw_pool(axis, rows)
        _box(axis, 26, 22, 11, 24, PALETTE[4])
        k = self.config.adapt_steps
        lines = f"FIve\n\nmeta-\ngenerator\n$G(z; θ_G)$\n\n{k} steps\na model"
        axis.text(31.5, 34, lines, ha="center", va="center", size=7.5)
        axis.text(31.5, 50.5, "$z \\sim N(0, I)$", ha="center", va="center", size=7.5)
        _arrow(axis, (31.5, 49), (31.5, 46.3))
        _box(axis, 41.5, rows[-1] - 3.5, 27.5, rows[0] - rows[-1] + 9, INK, face="white")
        for y, task in zip(rows, tasks, strict=True):
            _arrow(axis, (20.3, y), (25.7, min(max(y, 24), 44)))
            _arrow(axis, (37.3, min(max(y, 24), 44)), (41.3, y))
            for c in range(min(5, task.model.n_way)):
                _picture(axis, task.images[task.labels == c][0], 42.5 + 5.2 * c, y - 2.5, 5)
            share = f"{100 * float(task.teacher_accuracy):.0f} % agree"
            axis.text(42.5, y + 3.0, share, size=5.5, color=INK, va="bottom")
        axis.text(55.5, 56.5, "2  recovered tasks", ha="center", size=8, weight="bold")
        self._draw_student(axis, rows)
        self._draw_memory(axis, rows[-1] - 3.5)
        return figure

    def _draw_pool(self, axis: Axes, rows: Sequence[float]) -> None:
        title = f"1  pool: {len(self.pool)} models, {len(rows)} drawn"
        axis.text(0, 56.5, title, size=8, weight="bold")
        for y, task in zip(rows, self.moment.tasks, strict=False):
            _box(axis, 0.5, y - 3.7, 19.5, 7.4, PALETTE[0])
            model = task.model
            accuracy = "" if model.accuracy is None else f", {100 * model.accuracy:.0f} %"
            axis.text(1.5, y + 1.6, f"{model.arch}{accuracy}", size=6.5, weight="bold", va="center")
            names = wrap(", ".join(map(brief, model.class_names)), 31, max_lines=2, placeholder=" …")
            axis.text(1.5, y - 1.4, "\n".join(names), size=5.5, va="center", linespacing=1.15)

    def _draw_student(self, axis: Axes, rows: Sequence[float]) -> None:
        axis.text(86.5, 56.5, "3  student $f_θ$", ha="center", size=8, weight="bold")
        _box(axis, 75, 27, 24, 26.5, PALETTE[2])
        axis.text(87, 51.3, "BelL: aligned steps", ha="center", va="center", size=7)
        for y in rows:
            _arrow(axis, (69.3, y), (74.7, min(max(y, 30), 48)))
        points = np.vstack([self.moment.path, self.moment.summed[None]])
        low, span = points.min(0), np.ptp(points, axis=0).max()
        middle = (points.max(0) + low) / 2
        places = (points - middle) / span * 15 + np.array([87, 39.5])
        walk, end = places[:-1], places[-1]
        _arrow(axis, tuple(walk[0]), tuple(end), color=PALETTE[1], style="--")
        for i in range(len(walk) - 1):
            _arrow(axis, tuple(walk[i]), tuple(walk[i + 1]), color=PALETTE[0])
        _arrow(axis, tuple(walk[0]), tuple(walk[-1]), color=INK, width=1.6)
        axis.plot(*walk[0], "o", color=INK, markersize=4)
        axis.text(walk[0][0], walk[0][1] - 1.2, "θ", ha="center", va="top", size=8)
        axis.text(walk[-1][0], walk[-1][1] + 1.0, "θ̃", ha="center", va="bottom", size=8)
        legend = [
            ("one task's step", PALETTE[0]),
            ("outer step, along −(θ − θ̃)", INK),
            ("summed gradients", PALETTE[1]),
        ]
        for i, (words, color) in enumerate(legend):
            axis.text(75.8, 32.0 - 1.9 * i, words, size=5.5, color=color, va="center")

    def _draw_memory(self, axis: Axes, tasks_end: float) -> None:
        memory, episode = self.moment.memory, self.moment.episode
        n_way = int(episode.support_labels.max()) + 1
        _box(axis, 41.5, 0.5, 27.5, 9.5, PALETTE[3])
        words = f"memory\n{len(memory)} images\nof {len(memory.classes)} classes"
        axis.text(55.2, 5.2, words, ha="center", va="center", size=7)
        _arrow(axis, (55.2, tasks_end), (55.2, 10.3))
        _arrow(axis, (69.3, 5), (73.7, 5))
        _box(axis, 74, 0.5, 25, 18.7, INK, face="white")
        axis.text(75, 20.6, "4  cross-task replay", size=8, weight="bold")
        shown = [episode.support[episode.support_labels == c][0] for c in range(n_way)]
        queries = [episode.query[episode.query_labels == c][0] for c in range(n_way)]
        for line, (name, images) in enumerate((("support", shown), ("query", queries))):
            for c, image in enumerate(images[:5]):
                _picture(axis, image, 75 + 4.1 * c, 9.5 - 8.2 * line + 1.5, 3.9)
            axis.text(75, 15.1 - 8.2 * line + 0.6, name, size=6, va="bottom")
        _arrow(axis, (97, 19.3), (97, 26.7))


def _flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors.values()])


def plain_walk(
    heads: DistillationHeads, batches: Sequence[DistillationBatch], config: AlignmentConfig
) -> tuple[list[Tensor], Tensor, float]:
    """θ_k − θ after each plain inner step, −α Σ g_i, and α, for the weights that all models share.

    Plain steps, as in Lemma 1: Adam's differ from gradients more than the walk does from the sum. α makes the
    step along the sum as long as the walk by `config`'s own optimizer, so that the lemma's terms can be seen.
    """

    def displacement(n: int, config: AlignmentConfig) -> Tensor:
        moved, _ = aligned_displacement(heads, batches[:n], config)
        return _flat({name: moved[name] for name in heads.learner.params if name in moved})

    gradients, _ = summed_gradient(heads, batches, config)
    total = _flat({name: gradients[name] for name in heads.learner.params if name in gradients})
    rate = float(displacement(len(batches), config).norm() / total.norm())
    plain = replace(config, align_optimizer="sgd", align_inner_lr=rate)
    return [-displacement(n + 1, plain) for n in range(len(batches))], -rate * total, rate


def in_the_plane(steps: Sequence[Tensor], end: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Points 0, steps… and another end, seen in the plane of both ends: their lengths and angle are true."""
    along = steps[-1] / steps[-1].norm()
    across = (end @ along) * along - end
    axes = torch.stack([along, across / across.norm().clamp_min(1e-12)])
    points = torch.stack([torch.zeros_like(end), *steps, end])
    plane = (points @ axes.T).double().numpy(force=True)
    return plane[:-1], plane[-1]


def _box(
    axis: Axes, x: float, y: float, width: float, height: float, color: str, *, face: str = SOFT
) -> None:
    style: dict[str, Any] = {
        "boxstyle": "round,pad=0,rounding_size=1.2",
        "facecolor": face,
        "edgecolor": color,
    }
    axis.add_patch(FancyBboxPatch((x, y), width, height, linewidth=1.2, zorder=0, **style))


def _arrow(
    axis: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    *,
    color: str = "#777777",
    width: float = 1.0,
    style: str = "-",
) -> None:
    look: dict[str, Any] = {
        "arrowstyle": "-|>",
        "mutation_scale": 7,
        "shrinkA": 0,
        "shrinkB": 0,
        "linestyle": style,
    }
    axis.add_patch(FancyArrowPatch(start, end, color=color, linewidth=width, zorder=3, **look))


def _picture(axis: Axes, image: Tensor, x: float, y: float, side: float) -> None:
    """An image `(C, H, W)` in [0, 1] with its lower left corner at (x, y)."""
    pixels = image.detach().cpu().clamp(0, 1).permute(1, 2, 0).numpy()
    extent = (x, x + side, y, y + side)
    axis.imshow(pixels, extent=extent, interpolation="nearest", cmap="gray", zorder=2)


def conclusion(moment: Moment) -> str:
    """What the round held, in a sentence."""
    shares = [100 * float(task.teacher_accuracy) for task in moment.tasks]
    return (
        f"{len(moment.tasks)} models drawn; they agree with {min(shares):.0f} to {max(shares):.0f} % of what "
        f"was recovered from them; the memory holds {len(moment.memory)} images of "
        f"{len(moment.memory.classes)} classes. With plain steps of α = {moment.rate:.2g}, the walk from "
        f"θ to θ̃ ends {moment.angle:.0f}° away from the step along the summed gradients."
    )

"""The quickstart's steps, each with its figure: pool, recovered images, meta-training, a new class."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from freelib.experiments.scene import Scene
from freelib.generator import SynthesisedTask
from freelib.meta_learner import MetaLearner
from freelib.methods import get_method
from freelib.methods.base import build_student
from freelib.run.grid import run_grid
from freelib.run.records import Record
from freelib.run.runner import TEST_SEED, learner_file
from freelib.run.units import Unit
from freelib.show.figures import PAGE_WIDTH, PALETTE, image_grid, new_figure, styled
from freelib.storage import load_tensors, save_tensors

EXPERIMENT = "quickstart"


@dataclass(frozen=True)
class Recovery:
    """What a warm meta-generator recovers: a model's task, with all steps and with the first only."""

    task: SynthesisedTask
    first_step: SynthesisedTask
    losses: Tensor  # (n_models, steps): L_G of every step
    names: list[str]  # of these models

    @property
    def agreement(self) -> float:
        """Share of the task's images that the model puts in the intended class, in [0, 1]."""
        return float(self.task.teacher_accuracy)


class Quickstart(Scene):
    """One data set, number of shots and seed of a profile, from the pool to a new class."""

    experiment = EXPERIMENT

    @styled
    def pool_figure(self) -> Figure:
        """Held-out accuracy of every model, sorted."""
        accuracies = np.sort([100 * (d["accuracy"] or 0.0) for d in self.pool.descriptions])
        figure, axes = new_figure(width=PAGE_WIDTH / 2, height=1.8)
        axis = axes[0][0]
        axis.bar(np.arange(1, len(accuracies) + 1), accuracies, color=PALETTE[0])
        axis.axhline(100 / self.pool[0].n_way, color="#555555", linewidth=0.8, linestyle=":", label="chance")
        axis.legend(loc="upper left")
        axis.set(xlabel="model, by accuracy", ylabel="held-out accuracy, %", ylim=(0, 100))
        return figure

    def recover(self) -> Recovery:
        """Warms a meta-generator up on the pool, as FREE does, then adapts it to one model."""
        rng = self.rng()
        generator = self.warm_generator(rng)
        models = self.pool.sample(self.config.meta_batch, rng)
        losses = [generator.adapt(model, None, rng).losses for model in models]
        seed = rng.get_state()
        first = generator.adapt(models[0], None, rng, steps=1)
        rng.set_state(seed)
        last = generator.adapt(models[0], None, rng)
        return Recovery(last, first, torch.stack(losses), [model.name for model in models])

    def recovered_figure(self, recovery: Recovery, *, columns: int = 10) -> Figure:
        """Some images of every class of one model, at the last step, a class a row."""
        task = recovery.task
        rows = [task.images[task.labels == c][:columns] for c in range(task.model.n_way)]
        figure = image_grid(torch.cat(rows), [" "] * sum(map(len, rows)), columns=columns)
        for axis, name in zip(figure.axes[::columns], task.model.class_names, strict=False):
            # no title: a long class name runs on over the next images, and must not widen its own column
            place = {"xy": (0, 1), "xycoords": "axes fraction", "xytext": (0, 1.5)}
            text = axis.annotate(name.lower(), textcoords="offset points", fontsize=6, **place)
            text.set_in_layout(False)
        before, after = (100 * float(t.teacher_accuracy) for t in (recovery.first_step, task))
        figure.suptitle(
            f"The model agrees: {before:.0f} % before adaptation, {after:.0f} % at the last step", size=8
        )
        return figure

    @styled
    def adaptation_figure(self, recovery: Recovery) -> Figure:
        """L_G at each of the steps, a line for each model."""
        figure, axes = new_figure(width=PAGE_WIDTH / 2, height=1.9)
        axis = axes[0][0]
        steps = np.arange(1, recovery.losses.shape[1] + 1)
        for i, losses in enumerate(recovery.losses.cpu().numpy()):
            style = {"color": PALETTE[i % len(PALETTE)], "label": recovery.names[i]}
            axis.plot(steps, losses, marker="o", markersize=2.5, **style)
        axis.legend(loc="upper right")
        axis.set(xlabel="step", ylabel="inversion loss $L_G$", xticks=steps, ylim=(0, None))
        axis.set_title("Adaptation to models of the pool")
        return figure

    def records(self) -> list[Record]:
        """The records of FREE and of the untrained student: read where they are there, made where not."""
        random = Unit(EXPERIMENT, "random", self.unit.dataset, self.unit.n_shot, self.unit.seed)
        return run_grid([self.unit, random], self.profile, self.store)

    @cached_property
    def learner(self) -> MetaLearner:
        """The student of FREE's record; trained again, to the same bits, where the cache has lost it."""
        config, file = self.config, learner_file(self.run.digest)
        if file.is_file():
            learner = build_student(self.pool, config, seed=self.unit.seed)
            learner.backbone.load_state_dict(load_tensors(file))
            return learner
        monitor, method = self.run.monitor(lambda text: None), get_method("free")
        learner = method.meta_train(self.pool, config, seed=self.unit.seed, monitor=monitor)
        save_tensors(file, learner.backbone.state_dict())
        return learner

    def episode_figure(self, *, n_queries: int = 3) -> Figure:
        """An episode of meta-test classes: support set, and queries with the class that they are given.

        Above it how many are right: of those shown, of the episode's, and in the mean over all test episodes.
        """
        sampler = self.run.sampler("test", TEST_SEED)
        episode, names = sampler.episode(0), "ABCDEFGHIJ"
        classifier = self.learner.adapt(episode.support, episode.support_labels)
        predicted = classifier.predict(episode.query).cpu()
        support = torch.stack([episode.support[episode.support_labels == c][0] for c in range(sampler.n_way)])
        rows, labels = [support], [f"new class {names[c]}" for c in range(sampler.n_way)]
        for i in range(n_queries):
            at = torch.arange(sampler.n_way) * sampler.n_query + i
            rows.append(episode.query[at])
            for c, given in enumerate(predicted[at].tolist()):
                labels.append(f"says {names[given]}" + ("" if given == c else " ✗"))
        figure = image_grid(torch.cat(rows), labels, columns=sampler.n_way, side=0.9)
        right, (free, _) = predicted == episode.query_labels.cpu(), self.records()
        shown = len(labels) - sampler.n_way
        figure.suptitle(
            f"right: {shown - sum('✗' in label for label in labels)} of the {shown} shown, "
            f"{int(right.sum())} of the episode's {len(right)} ({100 * right.float().mean():.0f} %)\n"
            f"mean over {free['n_episodes']} episodes {free['accuracy']:.1f} %, "
            f"chance {100 / sampler.n_way:.0f} %",
            size=8,
        )
        return figure

    @staticmethod
    def above(a: Record, b: Record) -> bool:
        """Whether a's interval lies above b's."""
        return bool(a["accuracy"] - a["accuracy_ci95"] > b["accuracy"] + b["accuracy_ci95"])

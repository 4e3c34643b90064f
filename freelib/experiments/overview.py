"""README's picture: models, images recovered from them, the student they teach, and its accuracy."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

from freelib.experiments import table1
from freelib.experiments.beyond import METHOD
from freelib.experiments.beyond_words import shares
from freelib.experiments.evidence import Evidence
from freelib.experiments.figure2 import evenly
from freelib.experiments.scene import WARMUP_ROUNDS, Scene
from freelib.run.measure import measured
from freelib.run.records import Record
from freelib.show.figures import PALETTE, png_bytes, styled
from freelib.show.tables import DATASET_TITLES
from freelib.storage import write_atomically

EXPERIMENT, NAME = "overview", "overview images"
MODELS = 4
LABELS = {
    "random": "Random\n(untrained)",
    "best_teacher": "Best teacher\n(one model)",
    "free": "FREE\n(a student)",
    "pool_features": "Pool features\n(all {:.0f} models)",
    "pool_distillation": "Pool distillation\n(a student)",
    "pool_opinions": "Pool opinions\n(all {:.0f} models)",
}
"""The methods with a bar: what is untrained, the pool itself, and what is learned from it without data."""


class Recovery(Scene):
    """Images of every class of some models of the pool, recovered by a warm meta-generator."""

    experiment = EXPERIMENT

    def record(self) -> Record:
        """The images, one a class and model, as a PNG of a row a model."""
        about = {"free": self.config, "warmup_rounds": WARMUP_ROUNDS, "models": MODELS}
        return measured(self.run, NAME, about, self._measure, self.store, revision=2)

    def _measure(self) -> dict[str, Any]:
        rng = self.rng()
        generator = self.warm_generator(rng)
        tasks = [generator.adapt(model, None, rng) for model in evenly(self.pool, MODELS)]
        rows = []
        for task in tasks:
            firsts = [task.images[task.labels == c][0] for c in range(task.model.n_way)]
            rows.append(np.concatenate([image.cpu().permute(1, 2, 0).numpy() for image in firsts], axis=1))
        pixels = (np.concatenate(rows).clip(0, 1) * 255).round().astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
        return {
            "png": base64.b64encode(buffer.getvalue()).decode(),
            "models": [task.model.name for task in tasks],
            "class_names": [list(task.model.class_names) for task in tasks],
            "agreement": [round(float(task.teacher_accuracy), 4) for task in tasks],
            "pool": len(self.pool),
            "steps": self.config.adapt_steps,
            "passes": generator.iterations,
        }


def drawn(evidence: Evidence) -> dict[str, Any] | None:
    """All that the picture shows, from records; None where the images have none, or no method has."""
    dataset = evidence.profile.datasets[0]
    images = evidence.latest(NAME, [dataset])
    records = [
        r for r in evidence.runs("table1").records if r["dataset"] == dataset and r["method"] in LABELS
    ]
    if not images or not records:
        return None
    columns = ["method", "title", "n_shot", "models", "n_seeds", "accuracy", "ci95"]
    return {
        "dataset": dataset,
        "images": images[0]["config_digest"],
        # the last bits are a machine's
        "bars": _bars(table1.rows(records))[columns].round(6).to_dict("list"),
        "labels": LABELS,
        "chance": 100 / evidence.profile.n_way,
        "distilled_from": next((shares(r["config"]) for r in records if r["method"] == METHOD), {}),
    }


def _bars(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with a bar; a method that has two of a kind, centred or not, shows the better one."""
    method = rows["method"].str.partition(" ")[0]
    best = rows.groupby([method, "n_shot"])["accuracy"].idxmax()
    return rows.assign(method=method).loc[sorted(best)]


def draw(folder: str | Path, evidence: Evidence) -> Path | None:
    """Draw `figures/overview.png` where what it shows has changed; its path, None where it can't be drawn.

    What it shows stands in the picture's own metadata, see `shown`.
    """
    wanted, path = drawn(evidence), Path(folder) / "figures" / "overview.png"
    if wanted is None:
        return None
    if not path.is_file() or shown(path) != wanted:
        (record,) = evidence.latest(NAME, [wanted["dataset"]])[:1]
        figure = overview_figure(record, wanted)
        write_atomically(path, png_bytes(figure, dpi=150, Description=json.dumps(wanted)))
    return path


def shown(path: Path) -> dict[str, Any]:
    """What a picture says that it shows; empty where it says nothing."""
    with Image.open(path) as picture:
        return json.loads(picture.info.get("Description", "{}"))


@styled
def overview_figure(record: Record, wanted: dict[str, Any]) -> Figure:
    """Pool, recovered images, student, and bars of accuracy with 95 % intervals; places are in inches.

    record: of the images; wanted: see `drawn`
    """
    extra = record["extra"]
    figure = Figure(figsize=(8.6, 2.4))
    scene = figure.add_axes((0, 0, 1, 1), xlim=(0, 8.6), ylim=(0, 2.4))
    scene.set_axis_off()
    _box(scene, 0.06, 0.95, PALETTE[0], f"pool of\n{extra['pool']} trained\nmodels,\nno data")
    _arrow(scene, 1.08, 1.52, f"{extra['steps']} steps\na model")
    with Image.open(io.BytesIO(base64.b64decode(extra["png"]))) as picture:
        pixels = np.asarray(picture)
    rows, side = len(extra["models"]), 0.42
    columns = pixels.shape[1] * rows // pixels.shape[0]
    left, bottom = 1.58, 1.2 - rows * side / 2
    extent = (left, left + columns * side, bottom, bottom + rows * side)
    scene.imshow(pixels, interpolation="nearest", extent=extent)
    for i in range(1, columns):  # white lines between the images
        scene.plot([left + i * side] * 2, extent[2:], "w", linewidth=1.5)
    for i in range(1, rows):
        scene.plot(extent[:2], [bottom + i * side] * 2, "w", linewidth=1.5)
    words = f"images recovered from {rows} models, one a class"
    scene.text(left, extent[3] + 0.06, words, size=7, va="bottom")
    if kinds := wanted["distilled_from"]:
        shares = [f"{100 * share:.0f} % {kind}" for kind, share in kinds.items()]
        below = f"FREE learns from such images alone; the distilled\nstudent's are {', '.join(shares)}"
        scene.text(left, bottom - 0.05, below, size=6.5, va="top")
    end = extent[1]
    _arrow(scene, end + 0.06, end + 0.4, "teach")
    _box(scene, end + 0.46, 0.8, PALETTE[2], "student:\none small\nnetwork")
    _arrow(scene, end + 1.32, end + 1.6, "")
    scene.set(xlim=(0, 8.6), ylim=(0, 2.4), aspect="auto")
    axis = figure.add_axes((0.735, 0.17, 0.25, 0.68))
    name = DATASET_TITLES.get(wanted["dataset"], wanted["dataset"])
    axis.axvline(wanted["chance"], color="#555555", linewidth=0.8, linestyle=":", label="chance")
    axis.set_xlabel(f"accuracy on new classes of {name}, %", size=7, labelpad=1)
    _draw_bars(axis, pd.DataFrame(wanted["bars"]))
    return figure


def _draw_bars(axis: Axes, bars: pd.DataFrame) -> None:
    methods, shots = [name for name in LABELS if name in set(bars["method"])], sorted(set(bars["n_shot"]))
    height = 0.8 / len(shots)
    for i, n_shot in enumerate(shots):
        for row in bars[bars["n_shot"] == n_shot].to_dict("records"):
            y = methods.index(row["method"]) + (i - (len(shots) - 1) / 2) * height
            label = f"{n_shot} shot{'s' if n_shot > 1 else ''}" if row["method"] == methods[0] else None
            axis.barh(y, row["accuracy"], height, xerr=row["ci95"], color=PALETTE[i], label=label)
            axis.text(row["accuracy"] + 2.5, y, f"{row['accuracy']:.1f}", size=6, va="center")
    models = bars.groupby("method")["models"].first()
    labels = [LABELS[name].format(models[name]) for name in methods]
    axis.set_yticks(range(len(methods)), labels, size=7)
    axis.set(xlim=(0, 85), ylim=(len(methods) - 0.45, -0.55))
    axis.tick_params("x", labelsize=6)
    axis.grid(visible=False, axis="y")
    axis.legend(loc="lower right", bbox_to_anchor=(1.02, 1), ncols=len(shots) + 1, borderaxespad=0.1)


def _box(axis: Axes, x: float, width: float, color: str, words: str) -> None:
    style: dict[str, Any] = {
        "boxstyle": "round,pad=0,rounding_size=0.08",
        "facecolor": "#f2f2f2",
        "edgecolor": color,
    }
    axis.add_patch(FancyBboxPatch((x, 0.72), width, 0.96, linewidth=1.4, **style))
    axis.text(x + width / 2, 1.2, words, ha="center", va="center", size=8, linespacing=1.3)


def _arrow(axis: Axes, start: float, end: float, words: str) -> None:
    look: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 10, "shrinkA": 0, "shrinkB": 0}
    axis.add_patch(FancyArrowPatch((start, 1.2), (end, 1.2), color="#555555", linewidth=1.2, **look))
    axis.text((start + end) / 2, 1.28, words, ha="center", va="bottom", size=6.5)

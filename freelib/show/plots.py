"""Five plots that several notebooks share; what one notebook draws alone stands there."""

import io
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from freelib.datasets.episodes import images_to_float
from freelib.methods import method_of_record
from freelib.run.records import Record
from freelib.show.style import GREY, LINE_STYLES, MARKERS, PAGE_WIDTH, PALETTE, dataset_title, use_style
from freelib.storage import write_atomically


def dot_plot(rows: pd.DataFrame, *, highlight: str = "FREE", chance: float = 20.0) -> Figure:
    """Accuracy by method with 95 % intervals over episodes: a panel a data set, a colour a number of shots.

    rows: as `compare` gives them, drawn from top to bottom in the order of their titles' first appearance. Filled dots:
      data-free methods; hollow squares: real-data upper bounds; diamonds: values that others report. `highlight`: the
      title whose line is shaded.
    """
    datasets, titles = list(dict.fromkeys(rows["dataset"])), list(dict.fromkeys(rows["title"]))
    shots = sorted(set(rows["n_shot"]))
    height = 1.0 + 0.27 * len(titles)
    figure, axes = plt.subplots(1, len(datasets), figsize=(PAGE_WIDTH, height), sharey=True, squeeze=False)
    for axis, dataset in zip(axes[0], datasets, strict=True):
        if highlight in titles:
            place = titles.index(highlight)
            axis.axhspan(place - 0.5, place + 0.5, color=PALETTE[1], alpha=0.15, linewidth=0)
        for i, n_shot in enumerate(shots):
            own = rows[(rows["dataset"] == dataset) & (rows["n_shot"] == n_shot)]
            for oracle, marker in ((False, "o"), (True, "s")):
                some = own[own["oracle"] == oracle]
                axis.errorbar(
                    some["accuracy"],
                    some["title"].map(titles.index),
                    xerr=some["ci95"],
                    fmt=marker,
                    color=PALETTE[i],
                    markerfacecolor="white" if oracle else PALETTE[i],
                    markersize=5,
                    label=None if oracle else f"{n_shot} shot{'s' if n_shot > 1 else ''}",
                )
            told = own[own["reported"].notna()]
            style = {"color": PALETTE[i], "markerfacecolor": "white", "markersize": 5}
            label = "reported by the paper" if i == 0 else None
            axis.plot(told["reported"], told["title"].map(titles.index), "D", label=label, **style)
        axis.axvline(chance, color=GREY, linewidth=0.8, linestyle=":", label="chance")
        axis.set(title=dataset_title(dataset), xlabel="accuracy, %")
    axes[0][0].set_yticks(range(len(titles)), titles)
    axes[0][0].set_ylim(len(titles) - 0.5, -0.5)
    figure.legend(*_labels(axes[0]), loc="outside lower center", ncols=4)
    return figure


def difference_plot(
    rows: pd.DataFrame, names: Iterable[str], label: str, *, floor: float = 0.0, title: str = ""
) -> Figure:
    """Paired differences, a line a row. Thick: 95 % interval over episodes; thin with caps: over seeds.

    rows: as `compare` gives them; those without a difference are left out. names: what each row is called.
    floor: see `one_seed_floor`, drawn as a grey band; rows of one seed are hollow.
    """
    shown = rows.assign(name=list(names))
    shown = shown[shown["difference"].notna()]
    groups: list[tuple[Any, pd.DataFrame]] = list(shown.groupby(["dataset", "n_shot"], sort=False))
    lines = list(dict.fromkeys(shown["name"]))
    height = 1.3 + 0.28 * len(lines)
    figure, axes = plt.subplots(1, max(1, len(groups)), figsize=(PAGE_WIDTH, height), sharey=True, squeeze=False)
    for axis, ((dataset, n_shot), own) in zip(axes[0], groups, strict=False):
        y, several = own["name"].map(lines.index), own["seed_difference_ci95"].notna()
        for chosen, fill in ((several, PALETTE[0]), (~several, "white")):
            error = {"xerr": own["difference_ci95"][chosen], "elinewidth": 2.4, "fmt": "o"}
            words = "several seeds" if fill != "white" else "one seed"
            style: dict[str, Any] = {"color": PALETTE[0], "markerfacecolor": fill, "markersize": 5}
            if chosen.any():
                axis.errorbar(own["difference"][chosen], y[chosen], label=words, **error, **style)
        seeds = own[several]
        thin: dict[str, Any] = {"fmt": "none", "elinewidth": 0.8, "capsize": 3, "color": "black"}
        axis.errorbar(seeds["seed_difference"], y[several], xerr=seeds["seed_difference_ci95"], **thin)
        if floor:
            axis.axvspan(-floor, floor, color=GREY, alpha=0.12, linewidth=0, label="one-seed floor")
        axis.axvline(0, color=GREY, linewidth=0.8)
        shots = f"{n_shot} shot{'s' if n_shot > 1 else ''}"
        axis.set(title=title or f"{dataset_title(dataset)}, {shots}", xlabel=label)
    axes[0][0].set_yticks(range(len(lines)), lines)
    axes[0][0].set_ylim(max(1, len(lines)) - 0.5, -0.5)
    if groups:
        figure.legend(*_labels(axes[0]), loc="outside lower center", ncols=3)
    return figure


def learning_curves(
    records: Iterable[Record], *, y: str = "validation_accuracy", x: str = "validation_round"
) -> Figure:
    """Columns of the records' histories over training: a row a number of shots, a panel a data set, a line a
    method.

    Of several seeds the mean, and a band from the lowest to the highest. Several methods: over the share of
    each one's training, and named where its line ends in a row's last panel. Records without these columns,
    and methods with one validation check only, are left out.

    Raises ValueError where nothing is left to draw.
    """
    curves: dict[tuple[int, str, str], dict[int, Mapping[str, list[float]]]] = {}
    for record in records:
        history = record["history"] or {}
        if len(history.get(x) or ()) > 1 and history.get(y):
            key = (record["n_shot"], record["dataset"], record["method"])
            curves.setdefault(key, {}).setdefault(record["seed"], history)
    if not curves:
        raise ValueError(f"no record has a history of {y!r} over {x!r}: there is no curve to draw")
    shots, datasets, methods = (list(dict.fromkeys(key[i] for key in curves)) for i in range(3))
    share = len(methods) > 1
    size = (PAGE_WIDTH, 0.6 + 2.3 * len(shots))
    figure, axes = plt.subplots(len(shots), len(datasets), figsize=size, squeeze=False, sharex=True)
    for (n_shot, dataset, method), by_seed in curves.items():
        axis = axes[shots.index(n_shot)][datasets.index(dataset)]
        number, histories = methods.index(method), list(by_seed.values())
        steps = min((h[x] for h in histories), key=len)
        values = np.array([h[y][: len(steps)] for h in histories])
        at = np.array(steps) * (100 / steps[-1] if share else 1)
        style: dict[str, Any] = {
            "color": PALETTE[number % len(PALETTE)],
            "marker": MARKERS[number % len(MARKERS)],
            "linestyle": LINE_STYLES[number % len(LINE_STYLES)],
        }
        axis.plot(at, values.mean(0), markersize=3.5, linewidth=1.2, label=method_of_record(method).title, **style)
        if len(values) > 1:
            axis.fill_between(at, values.min(0), values.max(0), color=style["color"], alpha=0.2, linewidth=0)
        axis.set_title(f"{dataset_title(dataset)}, {n_shot} shot{'s' if n_shot > 1 else ''}")
    for axis in axes[-1]:
        axis.set_xlabel("share of training, %" if share else "round")
    for line in axes:
        line[0].set_ylabel(y.replace("_", " ") + ", %")
    if share:
        for line in axes:
            _name_lines(line[-1])
        handles, names = _labels(axes.flat)
        unnamed = [i for i, name in enumerate(names) if any(name not in _labels([line[-1]])[1] for line in axes)]
        if unnamed:
            some = [handles[i] for i in unnamed], [names[i] for i in unnamed]
            figure.legend(*some, loc="outside lower center", ncols=4)
    return figure


def _name_lines(axis: Axes) -> None:
    """Writes each line's label right of its end, in its colour, the labels a line of text apart."""
    ends = sorted(((float(np.asarray(line.get_ydata())[-1]), i, line) for i, line in enumerate(axis.get_lines())))
    low, high = axis.get_ylim()
    gap, places = (high - low) * 0.085, [end for end, _, _ in ends]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    over = max(0.0, places[-1] - high) if places else 0.0
    for (_, _, line), place in zip(ends, places, strict=True):
        axis.annotate(
            str(line.get_label()),
            (1.03, place - over),
            xycoords=("axes fraction", "data"),
            color=line.get_color(),
            fontsize=7,
            va="center",
            annotation_clip=False,
        )


def mean_and_each(axis: Axes, x: Any, curves: np.ndarray, label: str, **style: Any) -> None:
    """The mean of curves `(len(x), n)`, and each of them as a thin line.

    For the few tasks or seeds whose 95 % interval would leave the range of possible values.
    """
    if curves.shape[1] > 1:
        thin = {**style, "marker": "", "linestyle": "-", "linewidth": 0.5, "alpha": 0.6, "zorder": 1.5}
        axis.plot(x, curves, **thin)
    axis.plot(x, curves.mean(1), label=label, **style)


def image_grid(images: Tensor, labels: Sequence[str], *, columns: int = 10, side: float = 0.6) -> Figure:
    """Images `(n, C, H, W)`, float in [0, 1] or uint8, in rows of `columns`, each under its label.

    side: of an image, in inches. Raises ValueError where images and labels differ in number.
    """
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images and {len(labels)} labels: one label an image is expected")
    columns = min(columns, len(images))
    rows, side = -(-len(images) // columns), min(side, PAGE_WIDTH / columns)
    size = (side * columns, rows * (side + (0.16 if any(labels) else 0.02)))
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
    pixels = images_to_float(images.detach().cpu()).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, picture, text in zip(axes.flat, pixels, labels, strict=False):
        axis.imshow(picture if picture.shape[-1] == 3 else picture[..., 0], cmap="gray", interpolation="nearest")
        axis.set_title(text, fontsize=6, pad=1.5, loc="center", parse_math=False)
    return figure


def contact_sheet(rows: Sequence[Mapping[str, Any]], file: Path, *, most: int = 200) -> None:
    """A PNG of the first `most` of what `freelib.run.pictures.answers` gives, each beside the nearest shown one."""
    from freelib.classifier import as_images  # huggingface_hub, which takes time and warns in notebooks

    files = [row[name] for row in rows[:most] for name in ("file", "nearest")]
    told = []
    for row in rows[:most]:
        nearest = short_name(Path(row["nearest"]).parent.name, 11)
        told += [f"{short_name(row['class'], 9)} {row['probability']:.0%}", f"~ {nearest}"]
    with mpl.rc_context():
        use_style()
        figure, buffer = image_grid(as_images(files, 3, 96), told, side=0.9), io.BytesIO()
        figure.savefig(buffer, dpi=160)
        plt.close(figure)
    write_atomically(file, buffer.getvalue())


def short_name(class_name: str, most: int = 14) -> str:
    """A class's name in few letters: a glyph's character itself, or the name's beginning.

    Glyphs have their Unicode names in capitals: "tulip" is a class of photographs, not the character TULIP.
    """
    try:
        return unicodedata.lookup(class_name if class_name.isupper() else "")
    except KeyError:
        return class_name.replace("_", " ")[:most]


def _labels(axes: Iterable[Axes]) -> tuple[list[Any], list[str]]:
    """Handles and labels of several axes' legends, each label once."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)

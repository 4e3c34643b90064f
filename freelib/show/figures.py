"""Figures from records and images, in one style: colour-blind-safe, a page wide, the same bytes each time."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from freelib.datasets.episodes import images_to_float
from freelib.methods import get_method
from freelib.run.records import Record
from freelib.show.tables import DATASET_TITLES, named
from freelib.storage import write_atomically

PAGE_WIDTH = 7.0  # inches
PALETTE = tuple(sns.color_palette("colorblind").as_hex())
MARKERS = "osD^vPX*<>"
LINE_STYLES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (3, 1, 1, 1, 1, 1)))
STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text stays text
    "svg.hashsalt": "freelib",
}


class PageFigure(Figure):
    """A figure that a notebook shows where it is a cell's last value, whatever the backend."""

    def _repr_png_(self) -> bytes:
        return png_bytes(self, dpi=110)


def new_figure(
    rows: int = 1, columns: int = 1, *, width: float = PAGE_WIDTH, height: float = 2.6, **subplots: Any
) -> tuple[PageFigure, np.ndarray]:
    """A figure `width` inches wide, `height` inches a row, and its axes, an array `(rows, columns)`."""
    figure = PageFigure(figsize=(width, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **subplots)


def png_bytes(figure: Figure, *, dpi: int, **words: str) -> bytes:
    """The figure as PNG, without date or version in it; words: its metadata, such as a `Description`."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None, **words})
    return buffer.getvalue()


def styled(draw: Any) -> Any:
    """Decorator: draw under the project's style, and leave matplotlib's settings as they were."""
    return mpl.rc_context(STYLE)(draw)


def save_figure(figure: Figure, folder: str | Path, name: str, *, dpi: int = 160) -> None:
    """Write `<name>.png` and `<name>.pdf`, without dates or versions in them."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(
            buffer, format="pdf", metadata={"Creator": None, "Producer": None, "CreationDate": None}
        )
    write_atomically(Path(folder) / f"{name}.png", png_bytes(figure, dpi=dpi))
    write_atomically(Path(folder) / f"{name}.pdf", buffer.getvalue())


def brief(name: str) -> str:
    """A class's name in few letters: a character itself, or the name's beginning.

    Characters have their names in capitals: "tulip" is a class of photographs, not the character TULIP.
    """
    try:
        return unicodedata.lookup(name if name.isupper() else "")
    except KeyError:
        return name.replace("_", " ")[:14]


@styled
def bar_chart(rows: pd.DataFrame) -> Figure:
    """Accuracy by method with 95 % intervals: a panel for each data set, a colour for each number of shots.

    rows: see `accuracy_rows`; chance and, where known, the paper's value are marked, and so is what has no
      row
    """
    datasets = list(dict.fromkeys(rows["dataset"]))
    methods = list(dict.fromkeys(rows["method"]))
    shots = sorted(set(rows["n_shot"]))
    titles = dict(zip(rows["method"], rows["title"], strict=True))
    height = 0.9 + 0.16 * len(methods) * (1 + len(shots))
    figure, axes = new_figure(1, len(datasets), height=height, sharex=True, sharey=True)
    bar, positions = 0.8 / len(shots), np.arange(len(methods))
    for axis, dataset in zip(axes[0], datasets, strict=True):
        for i, n_shot in enumerate(shots):
            chosen = rows[(rows["dataset"] == dataset) & (rows["n_shot"] == n_shot)]
            chosen = chosen.set_index("method").reindex(methods)
            place = positions + (i - (len(shots) - 1) / 2) * bar
            label = f"{n_shot} shot{'s' if n_shot > 1 else ''}"
            axis.barh(place, chosen["accuracy"], bar * 0.9, color=PALETTE[i], label=label)
            style = {"fmt": "none", "ecolor": "black", "elinewidth": 0.8, "capsize": 2}
            axis.errorbar(chosen["accuracy"], place, xerr=chosen["ci95"], **style)
            if chosen["paper"].notna().any():
                axis.plot(
                    chosen["paper"], place, "D", color="black", markersize=3.5, mfc="white", label="reported"
                )
            for y in place[chosen["accuracy"].isna()]:
                box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
                axis.text(1, y, "not measured", va="center", fontsize=5.5, color="#555555", bbox=box)
        axis.axvline(20, color="#555555", linewidth=0.8, linestyle=":", label="chance")
        axis.set(title=DATASET_TITLES.get(dataset, dataset), xlabel="accuracy, %")
        axis.grid(visible=False, axis="y")
    oracles = set(rows[rows["oracle"]]["method"])
    names = [named(titles[name], name in oracles).replace(" (", "\n(") for name in methods]
    axes[0][0].set_yticks(positions, names)
    axes[0][0].set(xlim=(0, None), ylim=(len(methods) - 0.5, -0.5))
    axes[0][0].locator_params("x", nbins=5)
    last = ("reported", "chance")
    handles = dict(sorted(_handles(axes[0]).items(), key=lambda item: (item[0] in last, item[0])))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=len(handles))
    return figure


def _handles(axes: Iterable[Axes]) -> dict[str, Any]:
    """The legend's handles of several axes by their labels, each label once."""
    handles: dict[str, Any] = {}
    for axis in axes:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    return handles


@styled
def difference_chart(rows: pd.DataFrame, words: Iterable[str], label: str) -> Figure:
    """Paired differences with 95 % intervals, a line a row: a panel a data set, a colour a number of shots.

    Where there are several seeds, a thin line is the interval over them; a single seed is hollow and pale.

    rows: see `accuracy_rows`; words: what each row is called; rows without a difference are left out, and
      a panel says so where none is left
    """
    named = rows.assign(words=list(words))
    named = named[named["difference"].notna()]
    datasets, shots = list(dict.fromkeys(named["dataset"])), sorted(set(named["n_shot"]))
    lines = list(dict.fromkeys(named["words"]))
    figure, axes = new_figure(1, max(1, len(datasets)), height=0.9 + 0.22 * len(lines), sharey=True)
    if not datasets:
        middle = {"transform": axes[0][0].transAxes, "ha": "center", "va": "center"}
        axes[0][0].text(0.5, 0.5, "no two of these runs have been measured yet", **middle)
        axes[0][0].set(xlabel=label)
    for axis, dataset in zip(axes[0][: len(datasets)], datasets, strict=True):
        for i, n_shot in enumerate(shots):
            chosen = named[(named["dataset"] == dataset) & (named["n_shot"] == n_shot)]
            place = np.array([lines.index(word) for word in chosen["words"]])
            place = place + 0.25 * (i - (len(shots) - 1) / 2)
            label_of_shots = f"{n_shot} shot{'s' if n_shot > 1 else ''}, " if len(shots) > 1 else ""
            one = chosen["seed_difference"].isna()
            point: dict[str, Any] = {"fmt": "o", "markersize": 4, "elinewidth": 2.2}
            for column, which, words_of, style in (
                ("difference", ~one, "over episodes", point),
                ("seed_difference", ~one, "over seeds", {"fmt": "none", "elinewidth": 0.7, "capsize": 3}),
                ("difference", one, "over episodes, one seed", {**point, "mfc": "white", "alpha": 0.5}),
            ):
                if which.any():
                    style = {**style, "label": f"{label_of_shots}95 % interval {words_of}"}
                    error = chosen[f"{column}_ci95"][which]
                    x, y = chosen[column][which], place[which]
                    axis.errorbar(x, y, xerr=error, color=PALETTE[i], **style)
        axis.axvline(0, color="#555555", linewidth=0.8)
        axis.set(title=DATASET_TITLES.get(dataset, dataset), xlabel=label)
        axis.grid(visible=False, axis="y")
    axes[0][0].set_yticks(range(len(lines)), lines)
    axes[0][0].set_ylim(max(1, len(lines)) - 0.5, -0.5)
    if lines:
        handles = _handles(axes[0])
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=2)
    return figure


@styled
def learning_curves(
    records: Iterable[Record],
    *,
    y: str = "validation_accuracy",
    x: str = "validation_round",
    label: str = "meta-validation\naccuracy, %",
) -> Figure:
    """Columns of the records' histories over rounds: a panel a data set, a line a method and number of shots.

    A method whose training does not depend on the number of shots has one line, and is named without them.
    Several methods: their rounds are not alike, so that each one's are shares of its training. Several seeds:
    their mean, and a band from the lowest to the highest. Records without these columns are left out; so is
    what was looked at once, by name, where others are curves.

    Raises ValueError where no record has them.
    """
    curves: dict[tuple[str, int, str], dict[int, Mapping[str, list[float]]]] = {}
    for record in records:
        history = record["history"] or {}
        if history.get(x) and history.get(y):
            n_shot = record["n_shot"] if get_method(record["method"]).uses_shots else 0
            key = (record["dataset"], n_shot, record["method"])
            curves.setdefault(key, {}).setdefault(record["seed"], history)
    if not curves:
        raise ValueError(f"no record has a history of {y!r} over {x!r}: there is no curve to draw")
    lines = {key: own for key, own in curves.items() if any(len(h[x]) > 1 for h in own.values())}
    once = sorted({get_method(key[2]).title for key in curves.keys() - lines.keys()}) if lines else []
    curves = lines or curves
    datasets = list(dict.fromkeys(dataset for dataset, _, _ in curves))
    methods = list(dict.fromkeys(method for _, _, method in curves))
    shots = sorted({n_shot for _, n_shot, _ in curves if n_shot})
    share = len(methods) > 1
    figure, axes = new_figure(1, len(datasets), height=3.0 if share else 2.6)
    axes[0][0].set_ylabel(label)
    for axis, dataset in zip(axes[0], datasets, strict=True):
        for (owner, n_shot, method), by_seed in curves.items():
            if owner == dataset:
                histories = list(by_seed.values())
                style = {
                    "color": PALETTE[methods.index(method) % len(PALETTE)],
                    "linestyle": LINE_STYLES[shots.index(n_shot) % len(LINE_STYLES) if n_shot else 0],
                    "marker": MARKERS[methods.index(method) % len(MARKERS)],
                }
                rounds = [[100 * i / h[x][-1] for i in h[x]] if share else h[x] for h in histories]
                name = get_method(method).title + (f", {n_shot}-shot" if n_shot else "")
                _draw_curve(axis, rounds, [h[y] for h in histories], name, style)
        axis.set_title(DATASET_TITLES.get(dataset, dataset))
        axis.set_xlabel("share of training, %" if share else "round")
        axis.xaxis.get_major_locator().set_params(integer=True)
    handles = _handles(axes[0])
    note = {"title": f"Looked at once, not drawn: {', '.join(once)}" if once else None, "title_fontsize": 7}
    if share:
        style = {"ncols": min(4, len(handles)), "handlelength": 3.2, **note}  # dashes want room
        figure.legend(handles.values(), handles, loc="outside lower center", **style)
    else:
        axes[0][0].legend(**note)
    return figure


def _draw_curve(
    axis: Axes, xs: Sequence[Sequence[float]], ys: Sequence[Sequence[float]], label: str, style: Any
) -> None:
    """One line, the mean of several curves of equal x, with the band between the extremes."""
    x = min(xs, key=len)
    values = np.array([y[: len(x)] for y in ys])
    axis.plot(x, values.mean(0), label=label, markersize=3.5, linewidth=1.2, **style)
    if len(values) > 1:
        axis.fill_between(x, values.min(0), values.max(0), color=style["color"], alpha=0.2, linewidth=0)


def mean_and_each(axis: Axes, x: Any, curves: np.ndarray, label: str, **style: Any) -> None:
    """The mean of curves `(len(x), n)`, and each of them as a thin line.

    For the few tasks or seeds whose 95 % interval would leave the range of possible values.
    """
    if curves.shape[1] > 1:
        thin = {**style, "marker": "", "linestyle": "-", "linewidth": 0.5, "alpha": 0.6, "zorder": 1.5}
        axis.plot(x, curves, **thin)
    axis.plot(x, curves.mean(1), label=label, **style)


@styled
def image_grid(images: Tensor, labels: Sequence[str], *, columns: int = 10, side: float = 0.6) -> Figure:
    """Images `(n, C, H, W)`, float in [0, 1] or uint8, in rows of `columns`, each under its label.

    Raises ValueError where images and labels differ in number.
    """
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images and {len(labels)} labels: one label an image is expected")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    side = min(side, PAGE_WIDTH / columns)
    title = 0.14 if any(labels) else 0.02
    figure, axes = new_figure(rows, columns, width=side * columns, height=side + title)
    figure.set_layout_engine("constrained", w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
    pixels = images_to_float(images.detach().cpu()).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, picture, text in zip(axes.flat, pixels, labels, strict=False):
        axis.imshow(
            picture if picture.shape[-1] == 3 else picture[..., 0], cmap="gray", interpolation="nearest"
        )
        axis.set_title(text, fontsize=6, pad=1.5)
    return figure

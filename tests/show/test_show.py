"""Plots by what is drawn in them, tables by what is written."""

import math
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from freelib.show import plots, style
from freelib.show.tables import plus_minus, rounded, save_table, signed


@pytest.fixture(autouse=True)
def styled():
    before = mpl.rcParams.copy()
    style.use_style()
    yield
    plt.close("all")
    mpl.rcParams.update(before)


def rows():
    return pd.DataFrame({
        "dataset": ["glyphs", "glyphs"], "n_shot": [1, 1], "title": ["FREE", "MAML"], "oracle": [False, True],
        "accuracy": [30.0, 50.0], "ci95": [1.0, 2.0], "reported": [33.0, math.nan],
        "difference": [math.nan, 20.0], "difference_ci95": [math.nan, 1.5],
        "seed_difference": [math.nan, 21.0], "seed_difference_ci95": [math.nan, 4.0],
    })  # fmt: skip


def points(axis):
    """All marked points (x, y) of an axis."""
    return [
        tuple(map(float, xy))
        for line in axis.lines
        if line.get_marker() not in ("None", "")
        for xy in line.get_xydata()
    ]


def test_dots_stand_at_the_accuracies_and_differences_have_their_intervals():
    (axis,) = plots.dot_plot(rows()).axes
    assert points(axis) == [(30.0, 0.0), (50.0, 1.0), (33.0, 0.0)]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["FREE", "MAML"]
    assert [round(float(x), 6) for x in axis.containers[0][2][0].get_segments()[0][:, 0]] == [29.0, 31.0]
    (axis,) = plots.difference_plot(rows(), ["base", "changed"], "points", floor=2.0).axes
    assert (20.0, 0.0) in points(axis)
    segments = [
        c.get_segments()[0][:, 0].tolist() for c in axis.collections if hasattr(c, "get_segments") and c.get_segments()
    ]
    assert [18.5, 21.5] in segments
    assert [17.0, 25.0] in segments
    assert len(axis.patches) == 1
    assert [label.get_text() for label in axis.get_yticklabels()] == ["changed"]


def record(seed, scores, method="free", n_shot=1):
    history = {"validation_round": [10, 20], "validation_accuracy": scores}
    return {"method": method, "dataset": "glyphs", "n_shot": n_shot, "seed": seed, "history": history}


def test_curves_are_means_over_seeds_with_a_band():
    figure = plots.learning_curves([record(0, [20.0, 30.0]), record(1, [30.0, 50.0])])
    (axis,) = figure.axes
    assert axis.lines[0].get_xydata().tolist() == [[10, 25], [20, 40]]
    band = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (20, 50)
    figure = plots.learning_curves([record(0, [20.0, 30.0]), record(0, [1.0, 2.0], "purer", 5)])
    assert len(figure.axes) == 2
    assert figure.axes[0].lines[0].get_xdata().tolist() == [50, 100]  # several methods: shares of training
    with pytest.raises(ValueError, match="no curve to draw"):
        plots.learning_curves([record(0, [20.0, 30.0]) | {"history": None}])
    axis = plt.subplots()[1]
    plots.mean_and_each(axis, [1, 2], np.array([[1.0, 3.0], [2.0, 6.0]]), "mean", color="C0")
    assert [line.get_ydata().tolist() for line in axis.lines] == [[1, 2], [3, 6], [2, 4]]


def test_an_image_grid_shows_the_images():
    images = torch.arange(3 * 1 * 2 * 2, dtype=torch.float32).view(3, 1, 2, 2) / 11
    figure = plots.image_grid(images, ["a", "b", r"$\nope$"], columns=2)
    figure.canvas.draw()  # a class's name is no formula
    shown = [axis.images[0].get_array() for axis in figure.axes if axis.images]
    assert len(figure.axes) == 4
    np.testing.assert_allclose(shown[2], images[2, 0])
    with pytest.raises(ValueError, match="3 images and 1 labels"):
        plots.image_grid(images, ["a"])
    assert plots.short_name("LATIN SMALL LETTER B") == "b"
    assert plots.short_name("tulip") == "tulip"
    assert plots.short_name("a_very_long_class_name") == "a very long cl"


def test_a_users_settings_have_no_say_and_the_bytes_are_the_same(tmp_path):
    def saved(folder):
        style.use_style()
        figure, axis = plt.subplots()
        axis.plot([1, 2])
        style.save_figure(figure, folder, "cpu", "f")
        return [(Path(folder) / f"cpu/figures/f.{kind}").read_bytes() for kind in ("png", "pdf")]

    first = saved(tmp_path / "a")
    mpl.rcParams.update({"text.usetex": True, "savefig.bbox": "tight", "font.family": "serif"})
    assert saved(tmp_path / "b") == first
    assert first[0].startswith(b"\x89PNG")


def test_a_table_is_shown_as_markdown_and_saved_with_its_numbers(tmp_path):
    assert plus_minus([31.24, 5.0, math.nan], [0.75, math.nan, 1.0]) == ["31.2 ± 0.8", "5.0", ""]
    assert signed([1.24, -0.04, -2.0, math.nan], [0.5, math.nan, 0.06, 1.0]) == ["+1.2 ± 0.5", "+0.0", "−2.0 ± 0.1", ""]
    assert signed([0.1234], [0.01], 3) == ["+0.123 ± 0.010"]
    assert rounded([1.26, math.nan], 1) == ["1.3", ""]
    cells = pd.DataFrame({"method": ["a|b", "<img\n>"], "accuracy, %": ["31.2 ± 0.8", "1"]})
    numbers = pd.DataFrame({"accuracy": [31.2345678, 1.0]})
    table = save_table(cells, tmp_path, "cpu", "t", rows=numbers)
    shown = table._repr_markdown_()
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown.replace("\\|", "/").splitlines()]
    assert lines[0] == ["method", "accuracy, %"]
    assert lines[2:] == [["a/b", "31.2 ± 0.8"], ["&lt;img &gt;", "1"]]
    assert (tmp_path / "cpu/tables/t.md").read_text() == shown + "\n"
    assert (tmp_path / "cpu/tables/t.csv").read_text() == "accuracy\n31.2346\n1\n"
    assert repr(table).split()[:6] == ["method", "accuracy,", "%", "a|b", "31.2", "±"]

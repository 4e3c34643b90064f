import hashlib

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.container import ErrorbarContainer
from test_tables import record, two_methods

from freelib.experiments import table1
from freelib.run.accuracy_rows import accuracy_rows
from freelib.show.figures import (
    PAGE_WIDTH,
    PALETTE,
    bar_chart,
    brief,
    difference_chart,
    image_grid,
    learning_curves,
    save_figure,
)


def trained(method, scores, **changes):
    """A record with a learning curve."""
    history = {"validation_round": [10.0, 20.0][-len(scores) :], "validation_accuracy": scores}
    return record(method, [1.0, 2.0], history=history, **changes)


def test_bars_have_the_rows_lengths_and_intervals():
    rows = table1.rows(two_methods())
    figure = bar_chart(rows)
    (axis,) = figure.axes
    assert sorted(bar.get_width() for bar in axis.patches) == pytest.approx([40, 52])
    (bars,) = [container for container in axis.containers if isinstance(container, ErrorbarContainer)]
    segments = np.array(bars.lines[2][0].get_segments())
    assert (segments[:, 1, 0] - segments[:, 0, 0]) == pytest.approx(2 * rows["ci95"].to_numpy())
    assert [label.get_text() for label in axis.get_yticklabels()] == ["Random", "FREE"]
    assert axis.get_ylim() == (1.5, -0.5)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["1 shot", "chance", "reported"]
    assert figure.get_figwidth() <= PAGE_WIDTH


def test_what_was_not_measured_says_so_and_panels_share_their_scale():
    here = [*two_methods(), record("free", [70.0, 72.0], n_shot=5)]
    elsewhere = record("free", [20.0, 22.0], dataset="cub")
    figure = bar_chart(accuracy_rows([*here, elsewhere], table="table1"))
    # Random with 5 shots; and in the second panel Random with both, FREE with 5
    texts = [[text.get_text() for text in axis.texts] for axis in figure.axes]
    assert texts == [["not measured"], ["not measured"] * 3]
    low, high = figure.axes[0].get_xlim()
    assert figure.axes[1].get_xlim() == (low, high)
    assert low == 0
    assert high > 71


def test_differences_are_points_with_intervals_and_the_reference_has_none():
    rows = table1.rows([*two_methods(), record("average", [45.0, 55.0, 60.0, 56.0])])
    figure = difference_chart(rows, rows["title"], "minus FREE, points")
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["Random", "Average"]
    episodes, seeds, one = [bars for bars in axis.containers if isinstance(bars, ErrorbarContainer)]
    # Random has one seed; Average, where nothing is drawn, counts for both of FREE's
    for bars, x, y in (one, -10, 0), (episodes, 2, 1):
        assert (bars.lines[0].get_xdata(), bars.lines[0].get_ydata()) == pytest.approx((x, y))
    assert (one.lines[0].get_mfc(), episodes.lines[0].get_mfc()) == ("white", PALETTE[0])
    rows = rows.set_index("method")
    for bars, method, column in (
        (one, "random", "difference_ci95"),
        (episodes, "average", "difference_ci95"),
        (seeds, "average", "seed_difference_ci95"),
    ):
        ((left, right),) = bars.lines[2][0].get_segments()
        assert (right[0] - left[0]) / 2 == pytest.approx(rows.loc[method, column])
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == [f"95 % interval over {kind}" for kind in ("episodes", "seeds", "episodes, one seed")]
    assert figure.get_figwidth() <= PAGE_WIDTH


def test_without_a_difference_the_figure_says_so():
    rows = table1.rows([record("average", [45.0, 55.0])])
    (axis,) = difference_chart(rows, rows["title"], "minus FREE, points").axes
    assert [text.get_text() for text in axis.texts] == ["no two of these runs have been measured yet"]


def test_curves_are_means_with_a_band_over_seeds():
    records = [
        trained("free", [30.0, 40.0]),
        trained("free", [34.0, 44.0], seed=1),
        record("random", [1.0, 2.0]),
    ]
    figure = learning_curves(records)
    (axis,) = figure.axes
    (line,) = axis.lines
    assert line.get_xdata().tolist() == [10, 20]
    assert line.get_ydata().tolist() == [32, 42]
    (band,) = axis.collections
    assert band.get_paths()[0].vertices[:, 1].min() == 30
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["FREE, 1-shot"]


def test_rounds_of_several_methods_are_shares_of_their_training():
    figure = learning_curves([trained("free", [30.0, 40.0]), trained("purer", [25.0, 26.0])])
    (axis,) = figure.axes
    assert [line.get_xdata().tolist() for line in axis.lines] == [[50, 100], [50, 100]]
    assert axis.get_xlabel() == "share of training, %"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["FREE, 1-shot", "PURER, 1-shot"]


def test_a_training_that_does_not_depend_on_shots_has_one_curve():
    records = [
        trained(method, scores, n_shot=n_shot)
        for method, scores in (("dro", [25.0, 26.0]), ("free", [30.0, 40.0]))
        for n_shot in (1, 5)
    ]
    figure = learning_curves(records)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["DRO", "FREE, 1-shot", "FREE, 5-shot"]
    assert [line.get_linestyle() for line in figure.axes[0].lines] == ["-", "-", "--"]


def test_what_was_looked_at_once_is_named_and_not_drawn():
    once = trained("pool_distillation", [45.0])
    figure = learning_curves([trained("free", [30.0, 40.0]), trained("purer", [25.0, 26.0]), once])
    (axis,) = figure.axes
    assert len(axis.lines) == 2
    assert figure.legends[0].get_title().get_text() == "Looked at once, not drawn: Pool distillation"
    (axis,) = learning_curves([trained("free", [30.0, 40.0]), once]).axes
    assert axis.get_legend().get_title().get_text() == "Looked at once, not drawn: Pool distillation"
    (axis,) = learning_curves([once]).axes  # there is nothing else to show
    assert len(axis.lines) == 1


def test_panels_share_one_label_that_is_no_taller_than_they_are():
    records = [trained("free", [30.0, 40.0], dataset=name) for name in ("cifar-fs", "cub")]
    figure = learning_curves(records)
    assert [axis.get_ylabel() for axis in figure.axes] == ["meta-validation\naccuracy, %", ""]
    figure.draw_without_rendering()
    axis = figure.axes[0]
    assert axis.yaxis.label.get_window_extent().height < axis.get_window_extent().height


def test_no_curve_is_an_error():
    with pytest.raises(ValueError, match="no record has"):
        learning_curves([record("random", [1.0, 2.0])])


def test_image_grid_shows_each_image_under_its_label():
    images = torch.arange(3 * 3 * 4 * 4).reshape(3, 3, 4, 4).to(torch.uint8)
    figure = image_grid(images, ["a", "b", "c"], columns=2)
    shown = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in shown] == ["a", "b", "c"]
    pixels = shown[1].images[0].get_array()
    assert np.allclose(pixels[..., 0], images[1, 0].numpy() / 255)
    assert figure.get_figwidth() <= PAGE_WIDTH
    assert image_grid(images[:, :1].float() / 255, [""] * 3, columns=30).get_figwidth() <= PAGE_WIDTH
    with pytest.raises(ValueError, match="3 images and 1 labels"):
        image_grid(images, ["a"])


def test_files_are_the_same_each_time_and_settings_stay(tmp_path):
    before = dict(mpl.rcParams)
    digests = []
    for name in ("one", "two"):
        save_figure(bar_chart(table1.rows(two_methods())), tmp_path, name)
        digests.append(
            [hashlib.sha256((tmp_path / f"{name}.{kind}").read_bytes()).digest() for kind in ("png", "pdf")]
        )
    assert digests[0] == digests[1]
    assert dict(mpl.rcParams) == before


def test_a_notebook_shows_a_figure_without_pyplot():
    assert bar_chart(table1.rows(two_methods()))._repr_png_().startswith(b"\x89PNG")


def test_a_class_is_named_by_its_character_only_where_it_is_one():
    assert brief("GREEK SMALL LETTER XI") == "ξ"
    assert brief("tulip") == "tulip"  # TULIP is a character too, one that few fonts have
    assert brief("NO SUCH CHARACTER") == "NO SUCH CHARAC"
    assert brief("pickup_truck of old") == "pickup truck o"

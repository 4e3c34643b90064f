"""Tables and figures in one style."""

from freelib.show.plots import (
    contact_sheet,
    difference_plot,
    dot_plot,
    image_grid,
    learning_curves,
    mean_and_each,
    short_name,
)
from freelib.show.style import GREY, LINE_STYLES, MARKERS, PAGE_WIDTH, PALETTE, dataset_title, save_figure, use_style
from freelib.show.tables import Table, plus_minus, rounded, save_table, signed

__all__ = [
    "GREY",
    "LINE_STYLES",
    "MARKERS",
    "PAGE_WIDTH",
    "PALETTE",
    "Table",
    "contact_sheet",
    "dataset_title",
    "difference_plot",
    "dot_plot",
    "image_grid",
    "learning_curves",
    "mean_and_each",
    "plus_minus",
    "rounded",
    "save_figure",
    "save_table",
    "short_name",
    "signed",
    "use_style",
]

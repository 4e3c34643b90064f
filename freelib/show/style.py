"""One style for all figures: colour-blind-safe, readable on a phone, the same bytes each time."""

import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.figure import Figure

from freelib.storage import write_atomically

PAGE_WIDTH = 7.0
"""Inches."""
PALETTE: tuple[str, ...] = tuple(sns.color_palette("colorblind").as_hex())
MARKERS = "osD^vPX*<>"
LINE_STYLES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (3, 1, 1, 1, 1, 1)))
GREY = "#555555"
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "figure.figsize": (PAGE_WIDTH, 3.0),
    "figure.dpi": 110,
    "pdf.fonttype": 42,  # text stays text
    "svg.hashsalt": "freelib",
}
DATASET_TITLES = {
    "glyphs": "glyphs",
    "cifar-fs": "CIFAR-FS",
    "mini-imagenet": "mini-ImageNet",
    "cub": "CUB",
    "glyphs-latin": "Latin",
    "glyphs-greek-cyrillic": "Greek, Cyrillic",
    "glyphs-signs": "signs",
}


def use_style() -> None:
    """Sets matplotlib's defaults and this style for all figures to come; a user's matplotlibrc has no say.

    A notebook calls it once, as it would call seaborn's `set_theme`.
    """
    mpl.rcdefaults()
    mpl.rcParams.update(STYLE)


def dataset_title(name: str) -> str:
    """A data set's name for readers; several joined by "+" are the mean over a mixed pool's data sets."""
    return DATASET_TITLES.get(name, name) if "+" not in name else f"mean of {name.count('+') + 1} data sets"


def save_figure(figure: Figure, results: str | Path, profile: str, name: str, *, dpi: int = 160) -> None:
    """Writes `<results>/<profile>/figures/<name>.png` and `.pdf`, without dates or versions in them."""
    folder = Path(results) / profile / "figures"
    metadata = {"png": {"Software": None}, "pdf": {"Creator": None, "Producer": None, "CreationDate": None}}
    for kind, about in metadata.items():
        buffer = io.BytesIO()
        with mpl.rc_context({"savefig.bbox": None}):
            figure.savefig(buffer, format=kind, dpi=dpi, metadata=about)
        write_atomically(folder / f"{name}.{kind}", buffer.getvalue())

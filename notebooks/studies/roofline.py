"""What each piece of the benchmark reaches, below what the machine and PyTorch's kernels could."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from freelib.show.figures import PALETTE, new_figure, styled
from matplotlib.figure import Figure

from freelib.run.records import Record
from freelib.show.tables import Table
from studies.benchmark import PIECES
from studies.machine import KINDS


def emulated(record: Record) -> bool:
    """Whether its precision has no units of its own here: its peak is below float32's, and no limit."""
    peak = record["extra"]["peaks"]
    return bool(peak["flops"] < peak["reference_flops"])


@styled
def roofline(records: Sequence[Record]) -> Figure:
    """FLOP/s reached against operations a byte moved, ours (filled) and the reference's, below both roofs.

    A precision that is emulated here has no roof.
    """
    figure, axes = new_figure(1, 1, height=3.4)
    axis = axes[0][0]
    found = [r for r in records if r["extra"]["piece"] in PIECES]
    for precision, style in (("float32", "-"), ("bfloat16", "--")):
        first = next(r for r in found if r["precision"] == precision)
        if emulated(first):
            continue
        peak = first["extra"]["peaks"]
        x = np.array([0.3, peak["flops"] / peak["bytes"], 300])  # memory's bound up to the ridge
        roof = np.minimum(peak["flops"], x * peak["bytes"]) / 1e9
        axis.plot(x, roof, style, color="black", linewidth=1, label=f"roof, {precision}")
    markers = dict(zip(PIECES, "osD^", strict=True))
    for record in found:
        e, color = record["extra"], PALETTE[0 if record["precision"] == "float32" else 1]
        sides = [("cost", "seconds", color, color, f"{e['piece']}, {record['precision']}")]
        if record["precision"] == "float32":
            sides.append(("reference_cost", "reference_seconds", "white", PALETTE[7], f"{e['piece']}, reference"))
        for kind, seconds, face, edge, label in sides:
            cost, reached = e[kind], e[kind]["flops"] / e[seconds]["median"] / 1e9
            style_ = {"mfc": face, "mec": edge, "linestyle": "none", "markersize": 7}
            axis.plot(cost["flops"] / cost["bytes"], reached, markers[e["piece"]], label=label, **style_)
    axis.set(xscale="log", yscale="log", xlabel="FLOP a byte", ylabel="GFLOP/s, one thread")
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def where_table(table: pd.DataFrame, caption: str) -> Table:
    """Where our time goes on one thread, in shares, and the ratios if less than all of it took time."""
    large = table["large_share"]
    table = table.assign(else_share=(1 - large).clip(lower=0), ratio_large=table["ratio_all_cores"] / large)
    cells = pd.DataFrame(
        {
            "piece": table["piece"],
            "precision": table["precision"],
            "convolutions, matrix products": table["kernels_share"].map("{:.0%}".format),
            "BatchNorm": table["batch_norm_share"].map("{:.0%}".format),
            "pooling": table["pooling_share"].map("{:.0%}".format),
            "all else": table["else_share"].map("{:.0%}".format),
            "ratio, all cores": table["ratio_all_cores"].map("{:.1f}".format),
            "ratio without all else": table["ratio_large"].map("{:.1f}".format),
            "ratio if convolutions and matrix products were all": table["ratio_limit"].map("{:.1f}".format),
            "target": table["target"].map("{:.0f}".format),
        }
    )
    kept = ["piece", "precision", *(f"{kind}_share" for kind in (*KINDS, "else")), "ratio_all_cores", "ratio_large"]
    note = "All else: small operations by the hundred, the optimiser, the images, and Python between them."
    return Table(caption, table[[*kept, "ratio_limit", "target"]], cells, note)

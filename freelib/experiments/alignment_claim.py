"""BelL against summed gradients in a mixed pool: the pair that the paper's second claim rests on."""

from __future__ import annotations

import pandas as pd

from freelib.experiments.table4 import verdict
from freelib.experiments.verdicts import HOLDS, Cell, judged
from freelib.run.records import Record

SUMMED = {"alignment": "summed"}
WORDS = "summed gradients"


def variant(record: Record) -> str:
    """The words of `accuracy_rows` for FREE with summed gradients."""
    return WORDS if record["config"].get("alignment") == "summed" else ""


def pairs(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of FREE with summed gradients; their `difference` is to FREE with BelL."""
    return rows[rows["method"] == f"free ({WORDS})"]


def claim(rows: pd.DataFrame) -> str:
    """What becomes of the paper's claim, summed gradients below BelL, over the pairs; see `judged`.

    A pair of one seed decides nothing.
    """
    return judged([Cell.of("", row, by_seed=True).sign for row in pairs(rows).to_dict("records")])


def alignment_helps(rows: pd.DataFrame) -> bool:
    """Whether that holds in each pair, the intervals of their differences and all."""
    return claim(rows) == HOLDS


def sentence(row: pd.Series, where: str) -> str:
    """What a pair says, in words."""
    return f"{where}, summed gradients in place of BelL: {verdict(row.to_dict())}."

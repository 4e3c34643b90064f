"""BelL against summed gradients in a mixed pool: the pair that the paper's second claim rests on."""

from __future__ import annotations

import pandas as pd

from freelib.experiments.table4 import verdict
from freelib.experiments.verdicts import Cell
from freelib.records import Record

SUMMED = {"alignment": "summed"}
WORDS = "summed gradients"


def variant(record: Record) -> str:
    """The words of `accuracy_rows` for FREE with summed gradients."""
    return WORDS if record["config"].get("alignment") == "summed" else ""


def pairs(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of FREE with summed gradients; their `difference` is to FREE with BelL."""
    return rows[rows["method"] == f"free ({WORDS})"]


def alignment_helps(rows: pd.DataFrame) -> bool:
    """Whether summed gradients are below BelL in each pair, interval and all: what the paper claims."""
    found = pairs(rows)
    return bool(len(found)) and all(Cell.of("", row).sign == 1 for row in found.to_dict("records"))


def claim(rows: pd.DataFrame) -> str:
    """What becomes of it; there is no verdict without a pair."""
    if not len(pairs(rows)):
        return "not judged while no pair is measured"
    return "holds here" if alignment_helps(rows) else "does not hold here in every pair"


def sentence(row: pd.Series, where: str) -> str:
    """What a pair says, in words."""
    return f"{where}, summed gradients in place of BelL: {verdict(row.to_dict())}."

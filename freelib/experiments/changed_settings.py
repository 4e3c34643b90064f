"""What FREE has in a profile that its public release has not, and what each of it is worth."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from freelib.experiments import paper_size, table1
from freelib.experiments.evidence import Evidence, setting
from freelib.experiments.table4 import TOGETHER, verdict
from freelib.methods.free import FreeConfig
from freelib.run.units import make_config
from freelib.show.tables import plus_minus

HERE = {
    "kd_heads": "a distillation head for each model (one for all)",
    "align_sweeps": "{} distillation sweeps a round ({})",
    "align_lr": "a distillation step of {:g} ({:g})",
    "lambda_bn": "λ_bn = {} ({:g})",
}
BACK = ("one head for all models", "one align sweep", "without λ_bn")
"""Table 4's rows with the release's value of each of these fields."""


def changed_settings(evidence: Evidence) -> str:
    """A sentence on the settings, the release's in brackets, and one on table 4's rows that turn them back.

    Empty where the profile has the release's.
    """
    here, release = make_config("free", evidence.profile.method_fields("free")), FreeConfig()
    changed = [name for name in HERE if getattr(here, name) != getattr(release, name)]
    if not changed:
        return ""
    words = [HERE[name].format(getattr(here, name), getattr(release, name)) for name in changed]
    text = (
        "In the tables FREE differs from its public release (in brackets) in more than size: "
        f"{', '.join(words)}.{_at_the_papers_size(evidence, changed)}"
    )
    rows = evidence.ablation
    for (dataset, n_shot), group in rows.groupby(["dataset", "n_shot"]) if len(rows) else ():
        by_words = {row["variant"]: row for row in group.to_dict("records")}
        said = [f"{back}: {verdict(by_words[back])}" for back in BACK if back in by_words]
        if said:
            where = setting(str(dataset), int(str(n_shot)))
            text += f" In table 4, {where}, each alone, the others kept: {'; '.join(said)}."
        if TOGETHER in by_words:
            text += f" These, its loss and its memory together: {verdict(by_words[TOGETHER])}."
    return text + " All differences: *What differs from the paper* in results/README.md."


def _at_the_papers_size(evidence: Evidence, changed: Sequence[str]) -> str:
    """What the run of the paper's size has of these fields; empty where it has no record."""
    records = evidence.runs(paper_size.EXPERIMENT).records
    if not records:
        return ""
    config = records[0]["config"]
    kept = [
        HERE[name].format(config[name], getattr(FreeConfig(), name))
        for name in changed
        if config[name] != getattr(FreeConfig(), name)
    ]
    more = f", but for {', '.join(kept)}" if kept else ""
    return f" The run of the paper's size, end to end, has the release's values of these{more}."


def _trained(row: Mapping[Hashable, Any] | pd.Series) -> str:
    """How long a row's shortest seed trained."""
    clock = "of processor time" if row["by_processor"] else "by the wall's clock"
    return f"trained {'at most ' if row['at_most'] else ''}{row['seconds']:.0f} s {clock}"


def as_released(evidence: Evidence) -> str:
    """Table 4's row with the release's settings, beside the best of the methods compared in table 1.

    Empty where one of them is not measured.
    """
    text, rows, released = "", table1.rows(evidence.runs("table1").records), evidence.ablation
    for row in released[released["variant"] == TOGETHER].to_dict("records"):
        column = (rows["dataset"] == row["dataset"]) & (rows["n_shot"] == row["n_shot"])
        others = rows[column & rows["method"].isin(table1.PUBLISHED)]
        if len(others):
            best = others.loc[others["accuracy"].idxmax()]
            rounds = evidence.runs("table4").records[0]["config"]["rounds"]
            accuracy = plus_minus(best["accuracy"], best["ci95"])
            text += (
                f"; with the release's settings (table 4: {rounds} rounds, seeds: {row['n_seeds']}), "
                f"{setting(row['dataset'], row['n_shot'])}: FREE {plus_minus(row['accuracy'], row['ci95'])} "
                f"% ({_trained(row)}), {best['title']} in table 1 {accuracy} % ({_trained(best)})"
            )
    return text

"""The results in README.md: a line a method, from the records of a profile."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from freelib.experiments import paper_size, table1
from freelib.experiments.beyond import METHOD
from freelib.experiments.changed_settings import changed_settings
from freelib.experiments.claims import QUESTIONS, all_verdicts
from freelib.experiments.evidence import Evidence, name_of
from freelib.methods.free import FreeConfig
from freelib.run.profiles import Profile, get_profile
from freelib.run.records import RecordStore
from freelib.show.tables import by_chance, named, plus_minus

BEGIN, END = "<!-- results: written by `freelib report` -->", "<!-- end of results -->"
SEEDS_NOTE = "seeds: –, nothing is drawn by chance"
PAIRED_NOTE = (
    "Differences are over the seeds that both have: they need not be the difference of the accuracies shown."
)


def gathered(folder: str | Path) -> Evidence:
    """The records of a profile's results folder, `results/<profile>`."""
    return Evidence(get_profile(Path(folder).name), RecordStore(Path(folder) / "records"))


def first_screen(evidence: Evidence) -> str:
    """README.md's block of results: one data set, every method that has a record, one line each."""
    dataset = evidence.profile.datasets[0]
    records = [r for r in evidence.runs("table1").records if r["dataset"] == dataset]
    if not records:
        return "No records yet."
    rows = table1.rows(records)
    lines = by_method(rows, "n_shot", lambda n_shot: f"{n_shot}-shot, %", {})
    note = (
        f"{name_of(dataset)}, 5-way, {rows['n_episodes'].iloc[0]} meta-test episodes; ±: 95 % over episodes; "
        f"{SEEDS_NOTE}. {_sizes(evidence, dataset)}"
    )
    whole = [
        text
        for record in evidence.runs(paper_size.EXPERIMENT).records
        for text in (paper_size.accuracy_sentence(record), "")
    ]
    return "\n".join([*lines, "", note, "", *whole, *_claims(evidence)])


def _claims(evidence: Evidence) -> list[str]:
    """The verdicts that a reader wants to know first, a line each."""
    verdicts = all_verdicts(evidence)
    places = {name: number for number, name in enumerate(verdicts, start=1)}
    lines = ["What became of the main claims; *in part* is in at least one setting:", ""]
    for name in dict.fromkeys(name for names in QUESTIONS.values() for name in names):
        number = f"[{places[name]}](results/README.md#claim-{places[name]})"
        lines.append(f"- {verdicts[name].claim}: **{verdicts[name].verdict}** ({number}).")
    return lines


def rounds_of_free(profile: Profile) -> int:
    """How many rounds a profile trains FREE, warm-up aside."""
    return profile.method_fields("free").get("rounds", FreeConfig().rounds)


def _sizes(evidence: Evidence, dataset: str) -> str:
    """What is smaller here than in the paper, and what else FREE has, in sentences."""
    both = evidence.profile, get_profile("paper")
    rounds = list(map(rounds_of_free, both))
    models = [profile.pool_fields(dataset).get("n_models") for profile in both]
    sizes = (
        f"One pool, of {models[0]} models (the paper: {models[1]}); FREE trains for {rounds[0]} rounds (its "
        f"release: {rounds[1]})."
    )
    return " ".join(filter(None, [sizes, changed_settings(evidence)]))


def by_method(
    rows: pd.DataFrame,
    across: str,
    head: Callable[[Any], str],
    more: Mapping[str, Callable[[Mapping[Hashable, Any]], str]],
) -> list[str]:
    """A table's rows in Markdown: a line a method, the worst first; a column for each value of `across`.

    rows: see `accuracy_rows`; more: further columns for each of those values, by their head
    """
    values = list(dict.fromkeys(rows[across]))
    columns = [name for value in values for name in (head(value), *more)]
    head_line = ["method", "kind", "models at test", *columns, "seeds"]
    lines = [_line(head_line), _line(["---"] * len(head_line))]
    order = rows.groupby("title", sort=False)["accuracy"].min().sort_values().index
    for title in order:
        own = {row[across]: row for row in rows[rows["title"] == title].to_dict("records")}
        some = next(iter(own.values()))
        cells = [named(title, some["oracle"]), _kind(some), f"{some['models']:.0f}"]
        for value in values:
            row = own.get(value)
            texts = (
                [plus_minus(row["accuracy"], row["ci95"]), *(f(row) for f in more.values())] if row else []
            )
            cells += texts or ["–"] * (1 + len(more))
        lines.append(_line([*cells, _seeds(own.values())]))
    return lines


def _kind(row: Mapping[Hashable, Any]) -> str:
    """Whose a row's method is."""
    if row["oracle"]:
        return "oracle"
    method = str(row["method"]).partition(" ")[0]
    own = {"free": "the paper's", METHOD: "ours"} | dict.fromkeys(
        table1.PUBLISHED, "compared with in the paper"
    )
    return own.get(method, "the pool itself")


def _seeds(rows: Iterable[Mapping[Hashable, Any]]) -> str:
    """The number of seeds of a method's cells; several where they differ."""
    rows = list(rows)
    if not by_chance(str(rows[0]["method"])):
        return "–"
    return ", ".join(dict.fromkeys(str(row["n_seeds"]) for row in rows))


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def with_results(readme: str, block: str) -> str:
    """A README's text with the part between the two marks replaced.

    Raises ValueError where the marks are missing.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise ValueError(f"README.md has no place for results: it needs the lines {BEGIN} and {END}")
    before, after = readme.split(BEGIN)[0], readme.split(END)[1]
    return f"{before}{BEGIN}\n{block}\n{END}{after}"

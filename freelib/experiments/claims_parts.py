"""Claims on FREE's parts: what each is worth (table 4), and what alignment does (figure 5, the lemma)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from freelib.experiments import figure5, table2, table3, table4
from freelib.experiments.alignment_claim import pairs, sentence
from freelib.experiments.evidence import Evidence, setting
from freelib.experiments.verdicts import OPEN, Cell, Verdict, judged, sign_of, span
from freelib.methods.free import FreeConfig
from freelib.run.records import Record
from freelib.run.units import unit_config
from freelib.show.tables import signed
from freelib.studies import lemma1


@dataclass(frozen=True)
class Part:
    """A part of FREE: the words of table 4's row without it, and of one that is shown beside it, if any."""

    words: str
    also: str = ""


FIVE = Part(table4.PARTS[0], "generator from scratch, twice the passes")
BELL = Part(table4.PARTS[1], "one align sweep")
REPLAY = Part(table4.PARTS[2])
MIXING = Part(table4.WITHIN)


def part_cells(rows: pd.DataFrame, words: str) -> list[Cell]:
    """The full method minus the row without a part, a cell a data set and number of shots."""
    cells = []
    for row in rows[rows["variant"] == words].to_dict("records"):
        cells.append(Cell.of(setting(row["dataset"], row["n_shot"]), row, words, by_seed=True))
    return cells


def _part_numbers(rows: pd.DataFrame, words: str) -> tuple[str, ...]:
    """What table 4 says of a row, in a sentence a column, with each seed's difference."""
    said = []
    for row in rows[rows["variant"] == words].to_dict("records"):
        text = f"{setting(row['dataset'], row['n_shot'])}, {words}: "
        text += table4.verdict(row)
        if len(row["by_seed"]) > 1:
            text += "; by seed " + ", ".join(f"{value:+.1f}" for value in row["by_seed"])
        said.append(text.replace(" -", " −"))
    return tuple(said)


def _lacks(evidence: Evidence, *words: str) -> tuple[str, ...]:
    """What is not measured of the full method and of table 4's rows of these words."""
    runs = evidence.runs("table4")
    config = unit_config(runs.wanted[0], evidence.profile.for_experiment("table4"))
    assert isinstance(config, FreeConfig)
    variants = table4.variants(config)
    rows: list[Any] = [{}, *map(variants.get, words)]
    return runs.lacking(lambda unit: unit.selection == "validation" and unit.overrides in rows)


def part_helps(evidence: Evidence, claim: str, part: Part) -> Verdict:
    """The full method against the one without a part (table 4)."""
    rows = evidence.ablation
    cells, missing = part_cells(rows, part.words), _lacks(evidence, part.words)
    if not cells:
        return Verdict(claim, OPEN, notebooks=("04_table4",))
    numbers = tuple(text for words in (part.words, part.also) for text in _part_numbers(rows, words))
    finding = f"FREE minus FREE with {part.words}: {span(cells)}"
    signs = [cell.sign for cell in cells]
    finding += _one_seed(signs)
    for row in rows[rows["variant"] == part.also].to_dict("records"):
        where = f", {setting(row['dataset'], row['n_shot'])}" if len(cells) > 1 else ""
        finding += f"; with {part.also}{where}: {table4.verdict(row)}"
    verdict = judged(signs, missing=bool(missing))
    return Verdict(claim, verdict, finding, numbers, missing, ("04_table4",))


def _one_seed(signs: Sequence[int | None]) -> str:
    return "" if None not in signs else ", one seed" if set(signs) == {None} else ", some from one seed"


def five_helps(evidence: Evidence) -> Verdict:
    """FIve against a generator from scratch for each model, at equal passes (table 4)."""
    claim = "The meta-generator makes the learner better than generators from scratch in as many passes"
    verdict = part_helps(evidence, claim, FIVE)
    rows = evidence.ablation
    passes = dict(zip(rows["variant"], rows.get("passes", ()), strict=False))
    if verdict.verdict == OPEN or not passes["the full method"] > passes[FIVE.words]:
        return verdict
    said = (
        f"; with its warm-up FREE has {passes['the full method']:.0f} passes against {passes[FIVE.words]:.0f}"
    )
    return replace(verdict, finding=verdict.finding + said)


def replay_helps(evidence: Evidence) -> Verdict:
    """Replay against none (table 4)."""
    return part_helps(evidence, "Replay of recovered tasks makes the learner better", REPLAY)


def mixing_helps(evidence: Evidence) -> Verdict:
    """Replay across models against replay of each model's own classes (table 4)."""
    claim = "Replay that mixes the classes of several models makes the learner better than replay within each"
    return part_helps(evidence, claim, MIXING)


def alignment_helps(evidence: Evidence) -> Verdict:
    """BelL against summed gradients: on one pool (table 4), on mixed ones (tables 2 and 3).

    On the one pool with plain inner steps as well, the form that Lemma 1 is on.
    """
    claim, notebooks = "Aligned gradients (BelL) make the learner better than summed ones", (
        "04_table4", "02_table2", "03_table3",
    )  # fmt: skip
    rows = evidence.ablation
    cells = part_cells(rows, BELL.words)
    numbers = ["Differences below are of what is named minus FREE as it is."]
    numbers += [
        *_part_numbers(rows, BELL.words),
        *_part_numbers(rows, BELL.also),
        *_part_numbers(rows, table4.PLAIN),
    ]
    numbers += filter(None, [table4.plain_sentences(evidence.runs("table4").records)])
    for pair in table4.against_plain(evidence.runs("table4").records).to_dict("records"):
        where = f"{setting(pair['dataset'], pair['n_shot'])}, plain steps"
        cells.append(Cell.of(where, pair, BELL.words, by_seed=True))
    missing = [f"table 4: {text}" for text in _lacks(evidence, BELL.words, table4.PLAIN)]
    for name, module in (("table2", table2), ("table3", table3)):
        runs = evidence.runs(name)
        found = pairs(module.rows(runs.records)) if runs.records else pd.DataFrame()
        for _, row in found.dropna(subset=["difference"]).iterrows() if len(found) else ():
            where = f"{setting(row['dataset'], row['n_shot'])}"
            if name == "table3":
                where += f", mixed architectures, student {table3.STUDENTS[row['student']]}"
            else:
                where += ", from the mixed pool"
            if "+" in row["dataset"]:  # its data sets are judged themselves
                numbers.append(f"Not judged, as its data sets are: {sentence(row, where)}")
                continue
            cells.append(Cell.of(where, row.to_dict(), BELL.words, by_seed=True))
            numbers.append(sentence(row, where))
        lacking = runs.lacking(lambda unit: unit.method == "free")
        missing += [f"table {name[-1]}: {text}" for text in lacking]
    if not cells:
        return Verdict(claim, OPEN, notebooks=notebooks)
    signs = [cell.sign for cell in cells]
    finding = f"aligned minus summed: {span(cells)}{_one_seed(signs)}"
    if told := [sign for sign in signs if sign is not None]:
        several = " with several seeds" if None in signs else ""
        finding += f"; told from zero, and above it, in {told.count(1)} of {len(told)} comparisons{several}"
    return Verdict(
        claim, judged(signs, missing=bool(missing)), finding, tuple(numbers), tuple(missing), notebooks
    )


def _measured_pairs(records: Sequence[Record]) -> list[Record]:
    """Those of the runs that were measured, aligned and summed, with the same seed."""
    held = [r for r in records if (r["history"] or {}).get("measured_round")]
    kinds = {(r["dataset"], r["seed"], r["config"]["alignment"]) for r in held}
    return [r for r in held if {(r["dataset"], r["seed"], kind) for kind in figure5.KINDS} <= kinds]


def _agreement_numbers(found: pd.DataFrame, before: str = "") -> list[str]:
    """What `figure5.differences` found, a sentence a row."""
    cells = figure5.difference_table(found).cells.to_dict("records")
    return [
        f"{before}{row['data set']}, {row['measure']}: aligned {row['aligned']}, summed {row['summed']}, "
        f"difference {row['aligned − summed']} "
        + (f"over {row['seeds']} seeds" if row["seeds"] > 1 else "from one seed")
        for row in cells
    ]


def _beside_figure5(evidence: Evidence) -> list[str]:
    """The cosine in those pairs of runs that were measured alike and are not figure 5's."""
    ablation, mixed = (evidence.runs(name).records for name in ("table4", "table3"))
    plain = [r for r in ablation if r["config"]["align_optimizer"] == "sgd_inside"]
    groups = {
        f"table 4, {table4.PLAIN}": plain + [r for r in ablation if r["config"]["alignment"] == "summed"]
    }
    for arch, title in table3.STUDENTS.items():
        own = [r for r in mixed if r["method"] == "free" and r["config"]["arch"] == arch]
        groups[f"table 3, mixed architectures, student {title}"] = own
    numbers = []
    for words, records in groups.items():
        if both := _measured_pairs(records):
            found = figure5.differences(figure5.rows(both))
            cosines = found[found["measure"] == "cosine"]
            numbers += _agreement_numbers(cosines, f"Not judged, beside figure 5: {words}: ")
    return numbers


def alignment_raises_agreement(evidence: Evidence) -> Verdict:
    """The inner product of two tasks' gradients while FREE trains, aligned and summed (figure 5)."""
    claim, notebooks = "Alignment raises the inner product of the tasks' gradients", ("15_figure5",)
    runs = evidence.runs("figure5")
    both = _measured_pairs(runs.records)
    if not both:
        return Verdict(claim, OPEN, notebooks=notebooks)
    found = figure5.differences(figure5.rows(both))
    signs = [sign_of(row["difference"], row["ci95"]) for row in found.to_dict("records")]
    rounds = " or ".join(map(str, sorted({len(r["history"]["measured_round"]) for r in both})))
    finding = f"{figure5.conclusion(found)} Measured in {rounds} rounds of each run"
    numbers = (*_agreement_numbers(found), *_beside_figure5(evidence))
    missing = runs.lacking()
    return Verdict(claim, judged(signs, missing=bool(missing)), finding, numbers, missing, notebooks)


def lemma_holds(evidence: Evidence) -> Verdict:
    """The slopes of the lemma's residual, in the code that trains."""
    claim = "Lemma 1: an aligned step is the summed gradients and a step up their inner products, up to α³"
    notebooks = ("21_lemma1_theorem1",)
    found = evidence.latest("expansion")
    if not found:
        return Verdict(claim, OPEN, notebooks=notebooks)
    rows = pd.DataFrame(found[0]["extra"])
    slopes = lemma1.slopes(rows)
    smooth = slopes[slopes["activation"] == "tanh"]
    numbers = [
        f"{row['activation φ(u)']}, {row['tasks']} tasks: slope {row['slope measured, lowest to highest']}, "
        f"expected {row['slope expected']}"
        for row in lemma1.slope_table(rows).cells.to_dict("records")
    ]
    finding = (
        f"the residual falls with α to the power of {smooth['min'].min():.2f} to {smooth['max'].max():.2f} "
        f"(expected: 3) in {rows['seed'].nunique()} random problems"
    )
    verdict = judged([1 if lemma1.holds(rows, "tanh") else -1])
    return Verdict(claim, verdict, finding, tuple(numbers), (), notebooks)


def theorem_is_seen(evidence: Evidence) -> Verdict:
    """Training small problems with plain steps, aligned and summed: what we can test of Theorem 1."""
    claim = "Training small problems with aligned steps raises the inner product (our reading of Theorem 1)"
    notebooks = ("21_lemma1_theorem1",)
    found = evidence.latest("training")
    if not found:
        return Verdict(claim, OPEN, notebooks=notebooks)
    rows = pd.DataFrame(found[0]["extra"])
    mean, half_width = lemma1.mean_difference(rows)
    cosine = signed(*lemma1.mean_difference(rows, "_cosine"), 3)
    finding = f"{signed(mean, half_width, 3)}, cosine {cosine}, over {rows['seed'].nunique()} random problems"
    own, no_interval = rows.groupby("seed")["difference"].mean(), float("nan")
    ends = rows[rows["round"].isin((rows["round"].min(), rows["round"].max()))]
    numbers = [
        f"{lemma1.higher(rows)} in {(own > 0).sum()} of {len(own)} problems: from "
        f"{signed(own.min(), no_interval, 3)} to {signed(own.max(), no_interval, 3)}, means over training",
        *(
            f"round {number:.0f}: aligned {row['sequential']:.3f}, summed {row['summed']:.3f}".replace(
                "-", "−"
            )
            for number, row in ends.groupby("round")[["sequential", "summed"]].mean().iterrows()
        ),
    ]
    return Verdict(claim, judged([sign_of(mean, half_width)]), finding, tuple(numbers), (), notebooks)

"""`results/README.md`: the claims and what became of them, the tables, what was run and how it differs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path

from freelib.experiments import beyond, figure7, recovery_cost, table1, table2, table3, table4, table5
from freelib.experiments.claims import KNOWN_TEXT, QUESTIONS, SOURCES, all_verdicts
from freelib.experiments.claims_parts import ablation_rows
from freelib.experiments.evidence import PLANS, Evidence, name_of
from freelib.experiments.overview import draw
from freelib.experiments.summary import (
    PAIRED_NOTE,
    SEEDS_NOTE,
    by_method,
    first_screen,
    gathered,
    with_results,
)
from freelib.experiments.units import make_config
from freelib.experiments.verdicts import OPEN, Verdict
from freelib.methods import get_method
from freelib.methods.free import FreeConfig
from freelib.pretraining import PoolConfig
from freelib.profiles import Profile, get_profile
from freelib.records import Record
from freelib.report import duration, facts, spent
from freelib.storage import write_atomically
from freelib.tables import DATASET_TITLES, signed

EMBEDDED = {
    "figure1": "Five steps of the meta-generator against recoveries from nothing",
    "figure2": "The pool's models, and the distances of the tasks recovered from them",
    "figure5": "Agreement of the tasks' gradients while FREE trains",
    "figure7": "What FREE's accuracy owes to its settings",
    "table1_curves": "Accuracy on the meta-validation classes while training",
}

NATIVE = {"cifar-fs": 32, "mini-imagenet": 84, "cub": 84}


def results_page(folder: str | Path) -> str:
    """The whole page, from the records in a profile's results folder."""
    folder = Path(folder)
    evidence = gathered(folder)
    verdicts = all_verdicts(evidence)
    numbered = {name: number for number, name in enumerate(verdicts, start=1)}
    command = "freelib report" + (f" --profile {folder.name}" if folder.name != "cpu" else "")
    lines = [
        "# Results",
        "",
        f"Written by `{command}` from the records in `{folder.name}/records`, not by hand. "
        "Differences are paired, over the same episodes and seeds; ± is the half-width of a 95 % interval, "
        "over episodes where nothing else is said. Where both sides have several seeds, a claim has to stand "
        "the interval over seeds as well. *Holds so far* means in all that is measured, while some of the "
        "profile's runs are still to be made; *not told apart* means that an interval holds zero; *one seed* "
        "means that the interval that would tell is over seeds, and there is one. Commands want "
        "`source .venv/bin/activate` first.",
        "",
        *_in_short(verdicts, numbered),
    ]
    for title, ours in (("The paper's claims", False), ("What we ask besides", True)):
        head = ["claim", "verdict", "measured", *([] if ours else ["known from"])]
        lines += [f"## {title}", "", *([] if ours else [KNOWN_TEXT, ""])]
        lines += [f"| | {' | '.join(head)} |", "| --- |" + " --- |" * len(head)]
        for name, verdict in verdicts.items():
            if verdict.ours == ours:
                known = "" if ours else f" {SOURCES[name]} |"
                lines.append(_claim_line(verdict, numbered[name], evidence.profile) + known)
        lines.append("")
    lines += ["## The numbers behind them", ""]
    for name, verdict in verdicts.items():
        if verdict.verdict != OPEN:
            lines += _numbers(verdict, numbered[name], folder)
    lines += [
        *_tables(evidence),
        *_figures(folder, evidence),
        *_what_was_run(evidence),
        *_differences(evidence),
    ]
    return "\n".join(lines)


def _in_short(verdicts: Mapping[str, Verdict], numbered: Mapping[str, int]) -> list[str]:
    lines = ["## In short", ""]
    for question, names in QUESTIONS.items():
        lines.append(f"- *{question}*")
        for name in names:
            found = verdicts[name]
            told = f": {found.finding}" if found.finding else ""
            place = f"claim {numbered[name]}"
            place = f"[{place}](#{place.replace(' ', '-')})" if told else place
            lines.append(f"  - {found.claim} ({place}): **{found.verdict}**{told}.")
    return [*lines, ""]


def _claim_line(verdict: Verdict, number: int, profile: Profile) -> str:
    if verdict.verdict == OPEN:
        command = f"freelib reproduce --profile {profile.name} --notebook {verdict.notebooks[0]}"
        return f"| {number} | {verdict.claim} | {OPEN} | `{command}` |"
    return f"| [{number}](#claim-{number}) | {verdict.claim} | **{verdict.verdict}** | {verdict.finding} |"


def _numbers(verdict: Verdict, number: int, folder: Path) -> list[str]:
    lines = [f"### Claim {number}", "", f"{verdict.claim}: **{verdict.verdict}**.", ""]
    lines += [f"- {text}" for text in verdict.numbers]
    if verdict.missing:
        lines += ["- Not measured yet:", *(f"  - {text}" for text in verdict.missing)]
    return [*lines, "", "See " + ", ".join(_link(name, folder) for name in verdict.notebooks) + ".", ""]


def _link(notebook: str, folder: Path) -> str:
    path = f"{folder.name}/notebooks/{notebook}.ipynb"
    return f"[{notebook}]({path})" if (folder.parent / path).is_file() else notebook


def _tables(evidence: Evidence) -> Iterator[str]:
    yield from ("## Table 1", "")
    runs, profile = evidence.runs("table1"), evidence.profile
    records = runs.records
    if not records:
        yield from ("No records yet.", "")
    more = {
        "minus FREE": lambda row: signed(row["difference"], row["difference_ci95"]) or "–",
        "paper, %": lambda row: "?" if row["paper"] != row["paper"] else f"{row['paper']:.2f}",
        "training, s": lambda row: "–" if row["seconds"] != row["seconds"] else f"{row['seconds']:.0f}",
    }
    for dataset in dict.fromkeys(record["dataset"] for record in records):
        rows = table1.rows([record for record in records if record["dataset"] == dataset])
        lines = by_method(rows, "n_shot", lambda n_shot: f"{n_shot}-shot, %", more)
        yield from (f"### {name_of(dataset)}", "", *lines, "")
    if records:
        yield from (f"Each run on one thread; paper, %: ?, not known to us; {SEEDS_NOTE}. {PAIRED_NOTE}", "")
    if records := evidence.runs("table2").records:
        rows = table2.rows(records)
        lines = by_method(rows, "dataset", lambda name: f"{name_of(name)}, %", {})
        yield from ("## Table 2: several data sets in one pool", "", *lines, "")
    if records := evidence.runs("table3").records:
        made = table3.table(table3.rows(records), f"Profile {profile.name}.")
        yield from ("## Table 3: several architectures in one pool", "", made.markdown())
    if len(rows := ablation_rows(evidence.runs("table4"))):
        made = table4.table(rows, f"Profile {profile.name}.")
        yield from ("## Table 4: FREE without one part at a time", "", made.markdown())
        yield from (PAIRED_NOTE, "")
    costs = evidence.latest(recovery_cost.NAME, profile.datasets)
    if costs:
        rows = table5.rows(recovery_cost.rows(costs), evidence.runs("table5").records)
        made = table5.cost_table(rows, profile.name, profile.n_way * costs[0]["config"]["images_per_class"])
        yield from ("## Table 5: what a recovered task costs", "", made.markdown())
    yield from _beyond(evidence)


def _beyond(evidence: Evidence) -> list[str]:
    """Pool distillation where table 1 has no column, without centring, and without one part at a time."""
    lines: list[str] = []
    records = evidence.runs("beyond").records
    others = [r for r in records if r["dataset"] not in evidence.profile.datasets]
    for dataset in dict.fromkeys(record["dataset"] for record in others):
        rows = beyond.rows([record for record in others if record["dataset"] == dataset])
        found = by_method(rows, "n_shot", lambda n_shot: f"{n_shot}-shot, %", {})
        lines += [f"### {name_of(dataset)}", "", *found, ""]
    for line in beyond.uncentred(evidence.latest(f"{beyond.METHOD} centring")):
        lines += [line, ""]
    if variants := beyond.latest_ablation(evidence.everything):
        title = f"{name_of(variants[0]['dataset'])}, a sixteenth of the images."
        lines.append(beyond.ablation_table(beyond.ablation_rows(variants), title).markdown())
    return ["## Beyond the paper: pool distillation", "", *lines] if lines else []


def _figures(folder: Path, evidence: Evidence) -> Iterator[str]:
    yield from ("## Figures", "")
    there = sorted((folder / "figures").glob("*.png"))
    for path in there:
        if words := EMBEDDED.get(path.stem):
            yield from (f"![{words}]({folder.name}/figures/{path.name})", "", f"{words}.", "")
            if path.stem == "figure7" and (records := evidence.runs("figure7").records):
                yield from (figure7.conclusion(figure7.rows(records)), "")
    others = [
        f"[{path.stem}]({folder.name}/figures/{path.name})" for path in there if path.stem not in EMBEDDED
    ]
    yield from (f"More: {', '.join(others)}." if others else "No more figures yet.", "")


def _what_was_run(evidence: Evidence) -> Iterator[str]:
    yield from (
        "## What was run",
        "",
        "| | runs with a record | of | training and test |",
        "| --- | --- | --- | --- |",
    )
    for name in PLANS:
        runs = evidence.runs(name)
        numbers = f"{len(runs.records)} | {len(runs.wanted)} | {duration(spent(runs.records))}"
        title = "beyond the paper" if name == beyond.EXPERIMENT else f"{name[:-1]} {name[-1]}"
        yield f"| {title} | {numbers} |"
    yield from ("", "One run may serve several tables; its time is counted in each.", "")
    yield from (*_long_enough(evidence), "| | |", "| --- | --- |")
    yield from (f"| {name} | {value} |" for name, value in facts(evidence.store).items())
    yield ""


def _long_enough(evidence: Evidence) -> Iterator[str]:
    """What the last third of training still brought, on the meta-validation classes."""
    yield from ("### Were the runs long enough?", "")
    yield "Accuracy on the meta-validation classes, of runs that look at them at least three times. Where the"
    yield "last third of training still brings points, a longer run would be better than what is shown here."
    yield from ("", "| method | | first look, % | best until two thirds, % | best of all, % | gained |")
    yield "| --- | --- | --- | --- | --- | --- |"
    for where, record in _looked_at(evidence.runs("table1").records):
        rounds, scores = (record["history"][f"validation_{name}"] for name in ("round", "accuracy"))
        middle, best = (
            max(s for r, s in zip(rounds, scores, strict=True) if r <= 2 / 3 * rounds[-1]),
            max(scores),
        )
        gain = f"{best - middle:+.1f}".replace("-", "−")
        shown = " | ".join(f"{value:.1f}" for value in (scores[0], middle, best))
        yield f"| {get_method(record['method']).title} | {where} | {shown} | {gain} |"
    yield ""


def _looked_at(records: Iterable[Record]) -> Iterator[tuple[str, Record]]:
    """Those with at least three looks, each training once, and in words which it is."""
    seen = set()
    for record in records:
        shots = f"{record['n_shot']}-shot"
        if not get_method(record["method"]).uses_shots:  # one training, and one curve of it
            shots = f"all shots, seen at {record['evaluation']['validation_shots']}-shot"
        where = f"{name_of(record['dataset'])}, {shots}, seed {record['seed']}"
        key = (record["method"], where)
        if key not in seen and len((record["history"] or {}).get("validation_round", [])) >= 3:
            seen.add(key)
            yield where, record


def _differences(evidence: Evidence) -> Iterator[str]:
    """How the profile's sizes differ from the paper's, and what else is not as there."""
    profile, paper = evidence.profile, get_profile("paper")
    here, there = (make_config("free", p.method_fields("free")) for p in (profile, paper))
    changed = ", ".join(
        f"{item.name} {getattr(here, item.name)} ({getattr(there, item.name)})"
        for item in fields(here)
        if item.name != "checkpoint_every" and getattr(here, item.name) != getattr(there, item.name)
    )
    yield from (
        "## What differs from the paper",
        "",
        "In brackets, what the paper or its public release has.",
        "",
    )
    yield f"- FREE's settings: {changed}."
    for dataset in profile.datasets:
        ours, theirs = ({**asdict(PoolConfig()), **p.pool_fields(dataset)} for p in (profile, paper))
        yield (
            f"- {DATASET_TITLES.get(dataset, dataset)}: {ours['n_models']} models ({theirs['n_models']}) of "
            f"{ours['epochs']} epochs ({theirs['epochs']}), images of {profile.size_of(dataset) or 'native'} "
            f"pixels ({paper.size_of(dataset) or NATIVE[dataset]}), {len(profile.seeds_for(dataset))} seed(s)"
            + (", 200 images a class (600)." if dataset == "mini-imagenet" else ".")
        )
    for name in ("table2", "table3", "table4", "figure7"):
        own = profile.for_experiment(name)
        rounds = own.method_fields("free").get("rounds", FreeConfig().rounds)
        yield f"- {name[:-1].capitalize()} {name[-1]}: {rounds} rounds of FREE ({FreeConfig().rounds})."
    yield "- The round that is tested is picked on the meta-validation classes (on the test classes)."
    yield "- Nothing of this was run on a GPU."
    yield ""


def write(root: str | Path = ".", profile: str = "cpu") -> list[Path]:
    """Write `results/README.md`, and the results in `README.md` with its picture, anew; their paths."""
    root = Path(root)
    folder, readme = root / "results" / profile, root / "README.md"
    evidence = gathered(folder)
    text = with_results(readme.read_text(encoding="utf-8"), first_screen(evidence))
    picture = draw(folder, evidence)
    page = root / "results" / "README.md"
    write_atomically(page, results_page(folder).encode())
    write_atomically(readme, text.encode())
    return [page, readme, *([picture] if picture else [])]

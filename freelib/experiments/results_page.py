"""`results/README.md`: the claims and what became of them, the tables, what was run and how it differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from freelib.experiments import adapting, beyond, beyond_words, table1, table2, table3, table4, table5
from freelib.experiments.claims import KNOWN_TEXT, QUESTIONS, SOURCES, all_verdicts
from freelib.experiments.embedded import figures
from freelib.experiments.evidence import Evidence, name_of
from freelib.experiments.long_enough import HEADING, gist
from freelib.experiments.overview import draw
from freelib.experiments.summary import (
    PAIRED_NOTE,
    SEEDS_NOTE,
    by_method,
    first_screen,
    gathered,
    rounds_of_free,
    with_results,
)
from freelib.experiments.verdicts import OPEN, Verdict
from freelib.experiments.what_was_run import what_differs, what_was_run
from freelib.experiments.words import glossary
from freelib.run.profiles import Profile
from freelib.show.tables import AT_MOST, WALL, seconds_cell, signed
from freelib.storage import write_atomically
from freelib.studies import recovery_cost


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
        "over episodes where nothing else is said. Where both sides have several seeds, or nothing in one is "
        "drawn by chance, a claim has to stand the interval over seeds as well; what has one seed is judged "
        f"over its episodes alone, and says so{_floor(evidence)}. There is one pool for each data set, "
        "pre-trained once: seeds change what is learned from it, and no interval covers the choice of the "
        "pool. Commands want `source .venv/bin/activate` first.",
        "",
        "*Holds* means in every setting; *in part*, in at least one, whatever the others say; *does not "
        "hold*, in none, and against the claim in at least one; *not told apart*, that no interval tells it "
        "from zero; *so far*, in all that is measured, while some of the profile's runs are still to be "
        "made; *one seed*, as a verdict, that the interval that would tell is over seeds, and there is one.",
        "",
        *_in_short(evidence, verdicts, numbered),
        *glossary(evidence.profile),
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
        *figures(folder, evidence),
        *what_was_run(evidence),
        *what_differs(evidence),
    ]
    return "\n".join(lines)


def _floor(evidence: Evidence) -> str:
    """The rule on small differences of one seed, where table 4 has what it needs; see `Cell`."""
    if not (floor := evidence.chance_floor):
        return ""
    return (
        f"; between two methods that chance has a part in, one seed's difference below {floor:.1f} points "
        "counts as none: that is the half-width of one seed's 95 % interval, from the spread over seeds of "
        "table 4's rows that have several. Against what chance has no part in, the half-width is that of the "
        "method's own accuracy, where enough of its columns have several seeds"
    )


def _in_short(evidence: Evidence, verdicts: Mapping[str, Verdict], numbered: Mapping[str, int]) -> list[str]:
    lines = ["## In short", ""]
    for question, names in QUESTIONS.items():
        lines.append(f"- *{question}*")
        for name in names:
            found = verdicts[name]
            told = f": {found.finding}" if found.finding else ""
            place = f"claim {numbered[name]}"
            place = f"[{place}](#{place.replace(' ', '-')})" if told else place
            lines.append(f"  - {found.claim} ({place}): **{found.verdict}**{told}.")
    if told := gist(evidence):
        anchor = HEADING.lower().replace(" ", "-").replace("?", "")
        lines += [f"- *{HEADING}*", f"  - {told} ([all runs](#{anchor}))."]
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
        "reported, %": lambda row: "?" if row["paper"] != row["paper"] else f"{row['paper']:.2f}",
        "training, s": lambda row: seconds_cell(row["seconds"], row["by_processor"], row["at_most"]) or "–",
    }
    for dataset in dict.fromkeys(record["dataset"] for record in records):
        rows = table1.rows([record for record in records if record["dataset"] == dataset])
        lines = by_method(rows, "n_shot", lambda n_shot: f"{n_shot}-shot, %", more)
        yield from (f"### {name_of(dataset)}", "", *lines, "")
    if records:
        yield (
            f"Each run on one thread; {WALL}: by the wall's clock, else processor time; reported, %: ?, not "
            f"known to us; {AT_MOST}; {SEEDS_NOTE}. {PAIRED_NOTE}"
        )
        yield ""
    if records := evidence.runs("table2").records:
        rows = table2.rows(records)
        lines = by_method(rows, "dataset", lambda name: f"{name_of(name)}, %", {})
        yield from ("## Table 2: several data sets in one pool", "", *lines, "")
        shots = " and ".join(f"{n}-shot" for n in sorted(set(rows["n_shot"])))
        yield f"{shots}; ± 95 % over {rows['n_episodes'].min()} episodes of each data set; {SEEDS_NOTE}."
        yield from (_rounds(profile, "table2"), "")
    if records := evidence.runs("table3").records:
        made = table3.table(table3.rows(records), f"Profile {profile.name}.")
        yield from ("## Table 3: several architectures in one pool", "", made.markdown())
        yield from (_rounds(profile, "table3"), "")
    if len(rows := evidence.ablation):
        made = table4.table(rows, f"Profile {profile.name}.")
        yield from ("## Table 4: FREE without one part at a time", "", made.markdown())
        yield from (f"{PAIRED_NOTE} {_rounds(profile, 'table4')}", "")
    costs = evidence.latest(recovery_cost.NAME, profile.datasets)
    if costs:
        rows = table5.rows(recovery_cost.rows(costs), evidence.runs("table5").records)
        made = table5.cost_table(rows, profile.name, profile.n_way * costs[0]["config"]["images_per_class"])
        yield from ("## Table 5: what a recovered task costs", "", made.markdown())
    yield from _beyond(evidence)


def _rounds(profile: Profile, table: str) -> str:
    """How long FREE trains in a table, beside table 1."""
    here, there = map(rounds_of_free, (profile.for_experiment(table), profile))
    return f"FREE has {here} rounds here, in table 1 {there}."


def _beyond(evidence: Evidence) -> list[str]:
    """Pool distillation where table 1 has no column, without centring, and without one part at a time."""
    lines: list[str] = []
    records = evidence.runs("beyond").records
    others = [r for r in records if r["dataset"] not in evidence.profile.datasets]
    for dataset in dict.fromkeys(record["dataset"] for record in others):
        rows = beyond.rows([record for record in others if record["dataset"] == dataset])
        found = by_method(rows, "n_shot", lambda n_shot: f"{n_shot}-shot, %", {})
        lines += [f"### {name_of(dataset)}", "", *found, ""]
    found = adapting.uncentred(evidence.latest(adapting.CENTRING))
    found += adapting.conclusion(evidence.latest(adapting.STEPS)).splitlines()
    if found:
        lines += ["### At test time: without centring on the episode, and by gradient steps", ""]
        lines += [*(f"- {sentence}" for sentence in found), ""]
    if variants := beyond.latest_ablation(evidence.everything):
        lines += ["### One thing changed at a time", ""]
        title = f"{name_of(variants[0]['dataset'])}. {beyond_words.variants_images(records, variants)}"
        rows = beyond.ablation_rows(variants)
        lines += [beyond.ablation_table(rows, title).markdown(), beyond_words.either(rows), ""]
    return ["## Beyond the paper: pool distillation", "", *lines] if lines else []


def write(root: str | Path = ".", profile: str = "cpu") -> list[Path]:
    """Write `results/README.md`, and the results in `README.md` with its picture, anew; their paths.

    Raises ValueError, and writes nothing, where the profile has no records or README no place for results.
    """
    root = Path(root)
    folder, readme = root / "results" / profile, root / "README.md"
    evidence = gathered(folder)
    if not evidence.everything:
        raise ValueError(f"{evidence.store.root} holds no records: there is nothing to report.")
    text = with_results(readme.read_text(encoding="utf-8"), first_screen(evidence))
    picture = draw(folder, evidence)
    page = root / "results" / "README.md"
    write_atomically(page, results_page(folder).encode())
    write_atomically(readme, text.encode())
    return [page, readme, *([picture] if picture else [])]

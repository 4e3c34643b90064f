"""What the records of a profile say, as text: `results/README.md`, and the block of results in README.md."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path

from freelib.experiments import table1
from freelib.experiments.claims import OPEN, all_verdicts
from freelib.experiments.grid import standing
from freelib.experiments.units import make_config
from freelib.pretraining import PoolConfig
from freelib.profiles import Profile, get_profile
from freelib.records import RecordStore
from freelib.report import facts
from freelib.storage import write_atomically
from freelib.tables import DATASET_TITLES, accuracy_table, plus_minus

BEGIN, END = "<!-- results: written by `freelib report` -->", "<!-- end of results -->"


def results_page(folder: str | Path) -> str:
    """`results/README.md`: each claim with what was measured, what was run, how it differs from the paper."""
    folder = Path(folder)
    profile, store = get_profile(folder.name), RecordStore(folder / "records")
    lines = [
        "# Results",
        "",
        f"Written by `freelib report` from the records in `{folder.name}/records`, not by hand. Differences "
        "are paired, over the same episodes; ± is the half-width of a 95 % interval over episodes.",
        "",
        "| claim | verdict | measured | see |",
        "| --- | --- | --- | --- |",
    ]
    for verdict in all_verdicts(profile, store):
        links = ", ".join(
            f"[{name}]({folder.name}/notebooks/{name}.ipynb)"
            if (folder / "notebooks" / f"{name}.ipynb").is_file()
            else name
            for name in verdict.evidence
        )
        measured = verdict.measured if verdict.verdict != OPEN else "no records yet"
        lines.append(f"| {verdict.claim} | **{verdict.verdict}** | {measured} | {links} |")
    lines += [
        "",
        "## Table 1",
        "",
        _table1(profile, store),
        "",
        "## What was run",
        "",
        _missing(profile, store),
        "",
        *_sizes(profile),
        "",
    ]
    lines += [
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in facts(store).items()),
        "",
    ]
    return "\n".join(lines)


def _table1(profile: Profile, store: RecordStore) -> str:
    records = standing(table1.units(profile), profile, store)
    if not records:
        return "No records yet."
    return accuracy_table(table1.rows(records), f"Table 1, profile {profile.name}.").markdown().strip()


def _sizes(profile: Profile) -> list[str]:
    """How the profile's sizes differ from the paper's."""
    paper = get_profile("paper")
    here, there = (make_config("free", p.method_fields("free")) for p in (profile, paper))
    changed = [
        f"{item.name} {getattr(here, item.name)} ({getattr(there, item.name)})"
        for item in fields(here)
        if getattr(here, item.name) != getattr(there, item.name)
    ]
    lines = [f"- FREE's settings, with the paper profile's in brackets: {', '.join(changed)}"]
    for dataset in profile.datasets:
        ours, theirs = ({**asdict(PoolConfig()), **p.pool_fields(dataset)} for p in (profile, paper))
        side = profile.image_size or "native"
        lines.append(
            f"- {DATASET_TITLES.get(dataset, dataset)}: {ours['n_models']} models of {ours['epochs']} epochs "
            f"({theirs['n_models']} of {theirs['epochs']}), image size {side}, "
            f"{len(profile.seeds_for(dataset))} seed(s)"
            + (", 200 images a class of 600" if dataset == "mini-imagenet" else "")
        )
    return lines


def _missing(profile: Profile, store: RecordStore) -> str:
    """How much of table 1 has no record yet."""
    wanted = table1.units(profile)
    there = {(r["method"], r["dataset"], r["n_shot"], r["seed"], r["config"].get("centre"))
             for r in standing(wanted, profile, store)}  # fmt: skip
    return f"{len(there)} of {len(wanted)} runs of table 1 have a record."


def first_screen(folder: str | Path) -> str:
    """README.md's block of results: one data set, every method that has a record, one line each."""
    folder = Path(folder)
    profile, store = get_profile(folder.name), RecordStore(folder / "records")
    records = standing(table1.units(profile, profile.datasets[:1]), profile, store)
    if not records:
        return "No records yet."
    rows = table1.rows(records)
    lines = [
        "| method | models at test time | "
        + " | ".join(f"{n}-shot, %" for n in sorted(set(rows["n_shot"])))
        + " |"
    ]
    lines.append("| --- |" + " --- |" * (1 + rows["n_shot"].nunique()))
    order = rows.groupby("title", sort=False)["accuracy"].min().sort_values().index
    for title in order:
        own = rows[rows["title"] == title]
        cells = [
            "".join(map(plus_minus, part["accuracy"], part["ci95"])) or "–"
            for part in (own[own["n_shot"] == n] for n in sorted(set(rows["n_shot"])))
        ]
        name = f"{title} (sees the real images)" if own["oracle"].any() else title
        lines.append(f"| {name} | {own['models'].iloc[0]:.0f} | {' | '.join(cells)} |")
    title = DATASET_TITLES.get(profile.datasets[0], profile.datasets[0])
    episodes, seeds = rows["n_episodes"].iloc[0], rows["n_seeds"].max()
    note = f"{title}, 5-way, {episodes} meta-test episodes, seeds: {seeds}; ±: 95 % over episodes."
    return "\n".join([*lines, "", note])


def with_results(readme: str, block: str) -> str:
    """A README's text with the part between the two marks replaced.

    Raises ValueError where the marks are missing.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise ValueError(f"README.md has no place for results: it needs the lines {BEGIN} and {END}")
    before, after = readme.split(BEGIN)[0], readme.split(END)[1]
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def write(root: str | Path = ".", profile: str = "cpu") -> list[Path]:
    """Write `results/README.md` and the results in `README.md` anew; the paths of both."""
    root = Path(root)
    folder, readme = root / "results" / profile, root / "README.md"
    block = first_screen(folder)
    text = with_results(readme.read_text(encoding="utf-8"), block)
    page = root / "results" / "README.md"
    write_atomically(page, results_page(folder).encode())
    write_atomically(readme, text.encode())
    return [page, readme]

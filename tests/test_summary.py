import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from made_records import CLAIMED, FREE, made, made_evidence

from freelib.experiments import summary
from freelib.experiments.evidence import Evidence
from freelib.run.records import RecordStore
from freelib.run.units import Unit

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "cpu"


def test_readme_says_what_the_committed_records_say():
    """No number in its results is typed by hand: `freelib report` writes them again as they are."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert summary.with_results(readme, summary.first_screen(summary.gathered(RESULTS))) == readme


def test_the_table_follows_the_records(tmp_path):
    folder = tmp_path / "cpu"
    assert summary.first_screen(summary.gathered(folder)) == "No records yet."
    shutil.copytree(RESULTS / "records" / "table1", folder / "records" / "table1")
    whole = summary.first_screen(summary.gathered(folder))
    assert "Best teacher" in whole
    for path in (folder / "records" / "table1").glob("*.json"):
        if '"method": "best_teacher"' in path.read_text(encoding="utf-8"):
            path.unlink()
    assert "Best teacher" not in summary.first_screen(summary.gathered(folder))


def test_each_row_has_its_own_seeds(tmp_path):
    profile = replace(CLAIMED, shots=(1, 5), seeds=(0, 1, 2), pool_seed=0, n_episodes=2)
    store = RecordStore(tmp_path)
    for method, n_shot, seeds in (("free", 1, 2), ("free", 5, 1), ("random", 1, 3), ("best_teacher", 1, 1)):
        for seed in range(seeds):
            episodes = [30.0 + n_shot, 32.0 + n_shot]
            store.put(made(Unit("table1", method, "cifar-fs", n_shot, seed), profile, episodes))
    lines = summary.first_screen(Evidence(profile, store)).splitlines()
    assert lines[0] == "| method | kind | models at test | 1-shot, % | 5-shot, % | seeds |"
    assert sorted(lines[2:5]) == [
        "| Best teacher | the pool itself | 1 | 32.0 ± 2.0 | – | – |",
        "| FREE | the paper's | 1 | 32.0 ± 2.0 | 36.0 ± 2.0 | 2, 1 |",
        "| Random | compared with in the paper | 1 | 32.0 ± 2.0 | – | 3 |",
    ]
    assert sum("seeds: –, nothing is drawn by chance" in line for line in lines) == 1
    claim = "- In table 1, FREE is ahead of the published methods that it is compared with: "
    (line,) = [line for line in lines if line.startswith(claim)]
    assert line == f"{claim}**not told apart** ([2](results/README.md#claim-2))."


def test_the_run_of_the_papers_size_stands_below_the_table(tmp_path):
    evidence = made_evidence(tmp_path, table1=lambda unit: FREE)
    assert "At the paper's size" not in summary.first_screen(evidence)
    evidence = made_evidence(tmp_path, table1=lambda unit: FREE, paper_size=lambda unit: FREE)
    (line,) = [x for x in summary.first_screen(evidence).splitlines() if x.startswith("At the paper's size")]
    assert "FREE reaches 52.0 ± 0.8 % on CIFAR-FS, 1-shot" in line


@pytest.mark.parametrize("text", ["", summary.BEGIN, f"{summary.BEGIN}{summary.BEGIN}{summary.END}"])
def test_marks_are_needed(text):
    with pytest.raises(ValueError, match="no place for results"):
        summary.with_results(text, "x")

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from fake_methods import TINY
from made_records import made

from freelib.experiments import results_page
from freelib.experiments.claims import CLAIMS
from freelib.experiments.evidence import PLANS
from freelib.run.notebooks import read_notebook
from freelib.run.profiles import PROFILES
from freelib.run.records import RecordStore

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "cpu"


def test_the_page_says_what_the_committed_records_say():
    """No number in it is typed by hand: `freelib report` writes it again as it is."""
    page = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    assert page == results_page.results_page(RESULTS)


def test_every_figure_and_notebook_that_the_page_names_is_there():
    page = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    links = [part.split(")")[0] for part in page.split("](")[1:]]
    anchors = {link for link in links if link.startswith("#")}
    headings = [line.lstrip("#").strip() for line in page.splitlines() if line.startswith("##")]
    places = {f"#{re.sub(r'[^a-z0-9 -]', '', name.lower()).replace(' ', '-')}" for name in headings}
    assert {place for place in places if place.startswith("#claim-")} <= anchors <= places
    assert all((ROOT / "results" / link).is_file() for link in links if link not in anchors)


@pytest.mark.parametrize("path", sorted((RESULTS / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_committed_notebooks_ran_to_their_end(path):
    cells = [cell for cell in read_notebook(path).cells if cell.cell_type == "code"]
    assert not [cell for cell in cells if any(out.output_type == "error" for out in cell.outputs)]
    assert all(cell.execution_count for cell in cells)


def test_without_records_the_page_says_how_to_make_them(tmp_path):
    page = results_page.results_page(tmp_path / "cpu")
    assert page.count("| not measured yet | `freelib reproduce --profile cpu --notebook ") == len(CLAIMS)
    assert "### Claim" not in page
    assert (
        "not measured yet | `freelib reproduce --profile cpu --notebook 04_table4` | *our reading* |" in page
    )
    assert "| table 1 | 0 | 120 | 0 s |" in page


@pytest.fixture
def whole(tmp_path, monkeypatch):
    """The page of a profile whose tables 1 to 5 and figures 5 and 7 are all there."""
    mixed = {"datasets": ("cifar-fs+mini-imagenet+cub",)}
    more = {"datasets": ("cifar-fs", "glyphs")}
    tiny = replace(TINY, methods=("random", "free"), experiments={"table2": mixed, "beyond": more})
    monkeypatch.setitem(PROFILES, "tiny", tiny)
    store = RecordStore(tmp_path / "tiny" / "records")
    history = {
        "teacher_agreement": [0.5, 0.6], "validation_round": [2.0, 4.0, 6.0],
        "validation_accuracy": [30.0, 40.5, 41.25], "measured_round": [1.0],
        "cosine": [0.1], "inner_product": [0.2],
    }  # fmt: skip
    for plan in PLANS.values():
        for profile, units in plan(tiny):
            for i, unit in enumerate(units):
                episodes = [40.0 + i, 50.0 + i] * 3 * len(unit.domains)
                store.put(made(unit, profile, episodes, history=history))
    (tmp_path / "tiny" / "figures").mkdir()
    for name in ("figure7", "table1_bars"):
        (tmp_path / "tiny" / "figures" / f"{name}.png").touch()
    return results_page.results_page(tmp_path / "tiny")


def test_tables_appear_with_their_records(whole):
    for number in (1, 2, 3, 4):
        assert f"\n## Table {number}" in whole
    assert (
        "| method | kind | models at test | CIFAR-FS, % | mini-ImageNet, % | CUB, % | mean of the three, % |"
        in whole
    )
    assert re.search(r"\| table 4 \| (\d+) \| \1 \|", whole)
    assert "\n## Beyond the paper" in whole
    assert whole.count("### glyphs") == 1
    assert "![What FREE's accuracy owes to its settings](tiny/figures/figure7.png)" in whole
    assert "One setting changed, points on the same episodes" in whole
    assert "[table1_bars](tiny/figures/table1_bars.png)" in whole
    assert re.search(
        r"\| FREE \| table 1 \| 1 \| 3 \| 1\.\d \| \+0\.8 \| 1 \| 0 \| \+0\.8 \| \+0\.0 \|", whole
    )
    assert "| Random | table 1 | 1 | 3 |" in whole
    short = whole.split("## In short")[1].split("\n## ")[0]
    assert "- *Were the runs long enough?*\n  - FREE, at the tiny profile's size, was" in short
    assert "- *Does a data-free meta-learner beat" in whole


def test_what_differs_of_mixed_pools_has_the_papers_in_brackets(tmp_path):
    page = results_page.results_page(tmp_path / "cpu")
    assert (
        "42 models (100) in 3 parts, pixels: CIFAR-FS 32 (32), mini-ImageNet 48 (84), CUB 48 (84); 300 "
        "episodes (600) each; by part, epochs: 30, 60 (60, 100); random crop and flip of the training "
        "images: yes (no); number format: bfloat16 (float32)." in page
    )
    assert (
        "26 models (100) in 3 parts, pixels: CIFAR-FS 32 (32); 600 episodes (600) each; channels of the "
        "first stage: ResNet-10 16 (64), ResNet-18 16 (64); by part, epochs: 30, 20 (60); random" in page
    )
    assert "- FREE: episodes of a replay batch (`replay_episodes`): 2 (10); " in page
    assert "- BiDf-MKD: " in page
    assert (
        "- CUB: 1 seed of the methods; of the pool, models: 40 (100); epochs: 30 (100); random crop " in page
    )
    assert "- Crop and flip, or bfloat16, in pre-training may move every row" in page


def test_the_page_says_what_one_change_at_a_time_is_worth():
    page = results_page.results_page(RESULTS)
    assert (
        "λ_bn = 0.05 (0). The run of the paper's size, end to end, has the release's values of these. In "
        "table 4, CIFAR-FS, 1-shot, each alone, the others kept: one head" in page
    )
    assert "a distillation step of 0.003 (0.001), λ_bn" in page
    assert "; with its warm-up FREE has 1200 passes against 1000" in page


def test_report_writes_both_files_or_neither(tmp_path):
    from click.testing import CliRunner

    from freelib.cli import main
    from freelib.experiments.summary import BEGIN, END

    shutil.copytree(RESULTS / "records" / "table1", tmp_path / "results" / "cpu" / "records" / "table1")
    readme = tmp_path / "README.md"
    readme.write_text("# a\n", encoding="utf-8")
    smoke = CliRunner().invoke(main, ["report", "--profile", "smoke", "--root", str(tmp_path)])
    assert (smoke.exit_code, "'smoke' is not one of 'cpu', 'paper'" in smoke.output) == (2, True)
    refused = CliRunner().invoke(main, ["report", "--root", str(tmp_path)])  # as README.md has it
    assert refused.exit_code == 2
    assert "no place for results" in refused.output
    assert not (tmp_path / "results" / "README.md").exists()
    readme.write_text(f"# a\n{BEGIN}\nstale\n{END}\nb\n", encoding="utf-8")
    before = readme.read_bytes()
    nothing = CliRunner().invoke(main, ["report", "--profile", "paper", "--root", str(tmp_path)])
    assert (nothing.exit_code, "there is nothing to report" in nothing.output) == (2, True)
    assert readme.read_bytes() == before
    done = CliRunner().invoke(main, ["report", "--profile", "cpu", "--root", str(tmp_path)])
    assert done.exit_code == 0, done.output
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("# a\n")
    assert text.endswith(f"{END}\nb\n")
    assert "stale" not in text
    assert "Best teacher" in text

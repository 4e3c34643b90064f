import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from freelib.cli import main
from freelib.experiments import summary
from freelib.experiments.claims import CLAIMS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "cpu"


def test_results_page_and_readme_say_what_the_committed_records_say():
    """No number in them is typed by hand: `freelib report` writes both again as they are."""
    assert (ROOT / "results" / "README.md").read_text(encoding="utf-8") == summary.results_page(RESULTS)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert summary.with_results(readme, summary.first_screen(RESULTS)) == readme


def test_the_page_follows_the_records(tmp_path):
    folder = tmp_path / "cpu"
    assert summary.first_screen(folder) == "No records yet."
    empty = summary.results_page(folder)
    assert empty.count("**not measured yet**") == len(CLAIMS)
    shutil.copytree(RESULTS / "records" / "table1", folder / "records" / "table1")
    assert summary.first_screen(folder) == summary.first_screen(RESULTS)
    records = sorted((folder / "records" / "table1").glob("*.json"))
    for path in records:
        if '"method": "best_teacher"' in path.read_text(encoding="utf-8"):
            path.unlink()
    assert "Best teacher" not in summary.first_screen(folder)
    assert "Best teacher" in summary.first_screen(RESULTS)


def test_report_writes_both_files_or_neither(tmp_path):
    shutil.copytree(RESULTS / "records" / "table1", tmp_path / "results" / "cpu" / "records" / "table1")
    readme = tmp_path / "README.md"
    readme.write_text("# a\n", encoding="utf-8")
    refused = CliRunner().invoke(main, ["report", "--profile", "cpu", "--root", str(tmp_path)])
    assert refused.exit_code == 2
    assert "no place for results" in refused.output
    assert not (tmp_path / "results" / "README.md").exists()
    readme.write_text(f"# a\n{summary.BEGIN}\nold\n{summary.END}\nb\n", encoding="utf-8")
    done = CliRunner().invoke(main, ["report", "--profile", "cpu", "--root", str(tmp_path)])
    assert done.exit_code == 0, done.output
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("# a\n")
    assert text.endswith(f"{summary.END}\nb\n")
    assert "old" not in text
    assert "Best teacher" in text


@pytest.mark.parametrize("text", ["", summary.BEGIN, f"{summary.BEGIN}{summary.BEGIN}{summary.END}"])
def test_marks_are_needed(text):
    with pytest.raises(ValueError, match="no place for results"):
        summary.with_results(text, "x")

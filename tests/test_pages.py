"""README.md and results/README.md: their numbers are those of the records, and they stay short."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST_WORDS = {"README.md": 1_100, "results/README.md": 2_600}


def test_the_numbers_are_those_of_the_records():
    command = [sys.executable, ROOT / "docs/render.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def prose(page: str) -> str:
    """A page without its tables, code and headings."""
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    return "\n".join(line for line in text.splitlines() if not line.startswith(("|", "    ", "#", "<!--")))


@pytest.mark.parametrize("page", MOST_WORDS)
def test_pages_stay_short(page):
    assert len((ROOT / page).read_text(encoding="utf-8").split()) <= MOST_WORDS[page]
    sentences = re.split(r"(?<=[.!?:;])\s+|\n\n|\n- ", prose(page))
    assert max(len(sentence.split()) for sentence in sentences) <= 40


@pytest.mark.parametrize("page", [*MOST_WORDS, "CONTRIBUTING.md"])
def test_links_lead_to_files(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text)]
    missing = [
        link for link in links if link and "://" not in link and not (ROOT / page).parent.joinpath(link).exists()
    ]
    assert missing == []

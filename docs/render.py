"""Fills the numbers into README.md and the pages of results/: `python docs/render.py` (`--check` only compares).

The words stand in `docs/pages/`; each {{ … }} there is filled from the committed tables and records, and each
{% require … %} fails where these no longer carry the sentence beside it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

ROOT = Path(__file__).parents[1]
CPU = ROOT / "results/cpu"
PAGES = {"README.md": "README.md", "results.md": "results/README.md", "reliability.md": "results/reliability.md"}


def rows(table: str, **where: object) -> pd.DataFrame:
    """The rows of a committed table that have these values."""
    found = pd.read_csv(CPU / f"tables/{table}.csv", keep_default_na=False, na_values=[""])
    for name, value in where.items():
        found = found[found[name].isna() if value is None else found[name] == value]
    if found.empty:
        raise ValueError(f"{table}.csv has no row with {where}")
    return found


def one(table: str, **where: object) -> pd.Series:
    """The one row that has these values."""
    found = rows(table, **where)
    if len(found) > 1:
        raise ValueError(f"{table}.csv has {len(found)} rows with {where}")
    return found.iloc[0]


def number(value: float, digits: int = 1) -> str:
    """A number with so many digits and a true minus sign."""
    return f"{value:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 1) -> str:
    """The same with its sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def accuracy(row: pd.Series) -> str:
    """`44.0 ± 0.6`: accuracy in percent and its 95 % interval over episodes."""
    return f"{row['accuracy']:.1f} ± {row['ci95']:.1f}"


def span(values: pd.Series, digits: int = 1) -> str:
    """`+3.1 to +7.8`."""
    return f"{signed(min(values), digits)} to {signed(max(values), digits)}"


def records(experiment: str = "*", method: str | None = None) -> list[dict]:
    """Committed records of an experiment's folder, and of a method."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(CPU.glob(f"records/{experiment}/*.json"))]
    return [record for record in found if method in (None, record["method"])]


def sequential_minus_joint() -> pd.DataFrame:
    """What sequential gradients bring over joint ones, in each setting that was measured (tables 2 to 4)."""
    joint = pd.concat([rows(f"table{i}", method="free", variant="joint gradients") for i in (2, 3, 4)])
    joint = joint[~joint["dataset"].str.contains("+", regex=False)]
    return joint.assign(gain=-joint["difference"], seed_gain=-joint["seed_difference"])


def lead_not_centred() -> pd.Series:
    """What the student is ahead of the pool's features where neither is centred, on photographs."""
    both = rows("beyond_the_paper_at_test", compared="not centred, minus Feature-ensemble prototypes not centred")
    return both[both["dataset"] != "glyphs"]["difference"]


def reliability() -> dict:
    """What the long tests counted last."""
    return json.loads((ROOT / "results/reliability.json").read_text(encoding="utf-8"))


def require(claim: bool) -> str:
    """Fails where the records no longer carry a sentence."""
    if not claim:
        raise ValueError("the records no longer carry a sentence of this page")
    return ""


def render(page: str) -> str:
    """A page with its numbers."""
    environment = Environment(
        loader=FileSystemLoader(ROOT / "docs/pages"), undefined=StrictUndefined, keep_trailing_newline=True,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    names = [rows, one, number, signed, accuracy, span, records, reliability, sequential_minus_joint, lead_not_centred]
    environment.globals.update({function.__name__: function for function in [*names, require]})
    return environment.get_template(page).render()


def main() -> int:
    """Writes the pages, or with --check says which are not up to date."""
    stale = [target for page, target in PAGES.items() if (ROOT / target).read_text(encoding="utf-8") != render(page)]
    if "--check" in sys.argv[1:]:
        sys.stderr.write("".join(f"{target} is not up to date: make pages\n" for target in stale))
        return len(stale)
    for page, target in PAGES.items():
        (ROOT / target).write_text(render(page), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

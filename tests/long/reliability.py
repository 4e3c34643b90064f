"""How long the long tests are, and the file that their figures go to."""

import json
import os
from pathlib import Path

KILLS, EXAMPLES, MINUTES = (int(os.environ.get(*x)) for x in (("KILLS", 20), ("EXAMPLES", 10_000), ("MINUTES", 30)))
FIGURES = Path(__file__).parents[2] / "results/reliability.json"


def keep(part: str, figures: object) -> None:
    """Puts what one test counted in the place of what was there."""
    there = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    FIGURES.write_text(json.dumps(there | {part: figures}, indent=1, sort_keys=True) + "\n", encoding="utf-8")

"""What a claim and its verdict are, and how verdicts follow from measured differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from freelib.tables import signed

HOLDS, HOLDS_IN_PART, FAILS, OPEN = "holds", "holds in part", "does not hold", "not measured yet"
SO_FAR, UNCLEAR = "holds so far", "not told apart"


@dataclass(frozen=True)
class Verdict:
    """A claim and what became of it.

    claim: in our words; ours: asked by this project, not claimed by the paper
    verdict: `HOLDS`; `SO_FAR` (in all that is measured, not all is); `HOLDS_IN_PART` (in some settings);
      `UNCLEAR` (no difference that the intervals tell from zero); `FAILS`; `OPEN` (no records)
    finding: in one line; numbers: everything behind it, with intervals; missing: what is not measured
    notebooks: those that show it, and make its records
    """

    claim: str
    verdict: str
    finding: str = ""
    numbers: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    notebooks: tuple[str, ...] = ()
    ours: bool = False


@dataclass(frozen=True)
class Cell:
    """A paired difference in one setting of a table, in points, with its 95 % interval's half-width.

    seeds: mean and half-width over the seeds, where there are several; a claim then has to stand both tests
    """

    setting: str
    other: str
    difference: float
    half_width: float
    seeds: tuple[float, float] | None = None

    @property
    def sign(self) -> int:
        """1 where the whole interval is above zero, −1 where it is below, else 0."""
        pairs = [(self.difference, self.half_width), *([self.seeds] if self.seeds else [])]
        signs = {(mean > width) - (mean < -width) for mean, width in pairs}
        return signs.pop() if len(signs) == 1 else 0

    def __str__(self) -> str:
        text = f"{self.setting}: {signed(self.difference, self.half_width)} against {self.other}"
        return text + (f"; over seeds {signed(*self.seeds)}" if self.seeds else "")


def judged(signs: Sequence[int], *, missing: bool = False) -> str:
    """The verdict over several settings, each 1 (as claimed), 0 (not told apart) or −1 (against it)."""
    if not signs:
        return OPEN
    if all(sign > 0 for sign in signs):
        return SO_FAR if missing else HOLDS
    if any(sign > 0 for sign in signs):
        return HOLDS_IN_PART
    return FAILS if any(sign < 0 for sign in signs) else UNCLEAR


def span(cells: Sequence[Cell]) -> str:
    """`+1.2 ± 0.3 points`, or `+1.2 to +3.4 points` of several."""
    if len(cells) == 1:
        return f"{signed(cells[0].difference, cells[0].half_width)} points"
    low, high = (f"{pick(c.difference for c in cells):+.1f}".replace("-", "−") for pick in (min, max))
    return f"{low} to {high} points"

"""What a claim and its verdict are, and how verdicts follow from measured differences."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from freelib.show.tables import signed

HOLDS, HOLDS_IN_PART, FAILS, OPEN = "holds", "holds in part", "does not hold", "not measured yet"
SO_FAR, UNCLEAR, ONE_SEED = "holds so far", "not told apart", "one seed"
FAILS_SO_FAR = "does not hold so far"
ENOUGH = 4  # degrees of freedom that a standard deviation over seeds needs to be worth something


@dataclass(frozen=True)
class Verdict:
    """A claim and what became of it.

    claim: in our words; ours: asked by this project, not claimed by the paper
    verdict: `HOLDS`, `FAILS`; `SO_FAR`, `FAILS_SO_FAR` (in all that is measured, not all is); `HOLDS_IN_PART`
      (in some settings); `UNCLEAR` (no difference that the intervals tell from zero); `ONE_SEED` (what would
      tell is an interval over seeds, and there is one); `OPEN` (no records)
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

    seeds: mean and half-width (NaN for one) over the seeds, where the claim has to stand that test too
    rivals: the same against others, none of which may do better for the claim to stand
    floor: half-width of the 95 % interval of one seed's difference, in points, see `one_seed_half_width`; 0
      where it is not known. With one seed a smaller difference is none, whatever its interval over episodes
    """

    setting: str
    other: str
    difference: float
    half_width: float
    seeds: tuple[float, float] | None = None
    rivals: tuple[Cell, ...] = ()
    floor: float = 0.0

    @property
    def over_seeds(self) -> tuple[float, float] | None:
        """Mean and half-width of the interval over seeds, None where there are not several."""
        return None if self.seeds is None or math.isnan(self.seeds[1]) else self.seeds

    @property
    def drowned(self) -> bool:
        """Whether it rests on one seed and is smaller than the half-width of one seed's interval."""
        return self.over_seeds is None and abs(self.difference) < self.floor

    @property
    def sign(self) -> int | None:
        """1 where all its intervals are above zero, −1 where all are below, None where one lacks, else 0.

        With rivals, the least of all the signs.
        """
        pairs = [(self.difference, self.half_width), *([self.seeds] if self.seeds else [])]
        signs = {sign_of(mean, width) for mean, width in pairs}
        own = None if None in signs else signs.pop() if len(signs) == 1 and not self.drowned else 0
        every = [own, *(rival.sign for rival in self.rivals)]
        return None if None in every else min(sign for sign in every if sign is not None)

    @classmethod
    def of(
        cls,
        where: str,
        row: Mapping[Hashable, Any],
        other: str = "",
        *,
        by_seed: bool = False,
        floor: float = 0.0,
    ) -> Cell:
        """The reference method minus that of a row of `accuracy_rows`.

        other: its words, its title if empty; by_seed: one seed alone decides nothing; floor: see `Cell`
        """
        seeds = (0.0 - row["seed_difference"], row["seed_difference_ci95"])
        known = seeds if by_seed or not math.isnan(seeds[1]) else None
        gap, width = 0.0 - row["difference"], row["difference_ci95"]
        return cls(where, other or row["title"], gap, width, known, floor=floor)

    def __str__(self) -> str:
        text = f"{self.setting}: {signed(self.difference, self.half_width)} against {self.other}"
        if self.over_seeds:
            return f"{text}; over seeds {signed(*self.over_seeds)}"
        return f"{text}, {too_small(self.floor) if self.drowned else 'one seed'}"


def too_small(floor: float) -> str:
    """What is said of a difference below the floor of a `Cell`."""
    return f"too small for one seed: below {floor:.1f} points"


def one_seed_half_width(spreads: Iterable[tuple[float, int]]) -> float:
    """Half-width of the 95 % interval of one seed's value, from the spread of others that have several seeds.

    spreads: standard deviation over seeds, and number of seeds, of each; those of one seed do not count
    Their variances are pooled, and the interval is Student's; 0 where they have few degrees of freedom.
    """
    from scipy.stats import t  # takes half a second to import

    several = [(spread, n) for spread, n in spreads if n > 1]
    freedom = sum(n - 1 for _, n in several)
    if freedom < ENOUGH:
        return 0.0
    pooled = math.sqrt(sum((n - 1) * spread**2 for spread, n in several) / freedom)
    return float(t.ppf(0.975, freedom)) * pooled


def sign_of(mean: float, half_width: float) -> int | None:
    """1 or −1 where the interval is above or below zero, 0 where it holds zero, None where there is none."""
    return None if math.isnan(half_width) else (mean > half_width) - (mean < -half_width)


def judged(signs: Sequence[int | None], *, missing: bool = False) -> str:
    """The verdict over settings: 1 (as claimed), 0 (not told apart), −1 (against it) or None (one seed)."""
    known = [sign for sign in signs if sign is not None]
    if not known:
        return ONE_SEED if signs else OPEN
    missing = missing or len(known) < len(signs)
    if all(sign > 0 for sign in known):
        return SO_FAR if missing else HOLDS
    if any(sign > 0 for sign in known):
        return HOLDS_IN_PART
    if any(sign < 0 for sign in known):
        return FAILS_SO_FAR if missing else FAILS
    return UNCLEAR


def span(cells: Sequence[Cell]) -> str:
    """`+1.2 ± 0.3 points over seeds`, of one `+1.2 ± 0.3 points`; of several cells `+1.2 to +3.4 points`."""
    if len(cells) == 1:
        if cells[0].over_seeds:
            return f"{signed(*cells[0].over_seeds)} points over seeds"
        return f"{signed(cells[0].difference, cells[0].half_width)} points"
    low, high = (f"{pick(c.difference for c in cells):+.1f}".replace("-", "−") for pick in (min, max))
    return f"{low} to {high} points"

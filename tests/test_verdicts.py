import math

import pytest

from freelib.experiments.verdicts import (
    FAILS,
    FAILS_SO_FAR,
    HOLDS,
    HOLDS_IN_PART,
    ONE_SEED,
    OPEN,
    SO_FAR,
    UNCLEAR,
    Cell,
    judged,
    one_seed_half_width,
    span,
)


@pytest.mark.parametrize(
    ("signs", "missing", "verdict"),
    [
        ([], False, OPEN),
        ([1, 1], False, HOLDS),
        ([1, 1], True, SO_FAR),
        ([1, 0], False, HOLDS_IN_PART),
        ([1, -1], True, HOLDS_IN_PART),
        ([0, 0], True, UNCLEAR),
        ([0, -1], False, FAILS),
        ([-1], True, FAILS_SO_FAR),
        ([None, None], True, ONE_SEED),
        ([1, None], False, SO_FAR),
        ([-1, None], False, FAILS_SO_FAR),
        ([0, None], False, UNCLEAR),
    ],
)
def test_the_verdict_over_several_settings(signs, missing, verdict):
    assert judged(signs, missing=missing) == verdict


def test_a_difference_must_stand_the_test_over_seeds_too():
    assert Cell("s", "x", 0.6, 0.5).sign == 1
    assert Cell("s", "x", 0.4, 0.5).sign == 0
    assert Cell("s", "x", -0.6, 0.5).sign == -1
    assert Cell("s", "x", 0.6, 0.5, seeds=(0.6, 0.9)).sign == 0
    assert Cell("s", "x", 0.6, 0.5, seeds=(0.6, 0.1)).sign == 1
    assert Cell("s", "x", 0.4, 0.5, seeds=(0.4, 0.1)).sign == 0
    level, behind = Cell("s", "y", 0.7, 4.0), Cell("s", "z", -0.9, 0.5)
    assert Cell("s", "x", 0.6, 0.5, rivals=(level,)).sign == 0  # its mean is lower, but it may be ahead
    assert Cell("s", "x", 0.6, 0.5, rivals=(level, behind)).sign == -1
    alone = Cell("s", "x", 0.6, 0.5, seeds=(0.6, math.nan))
    assert alone.sign is None
    assert str(alone) == "s: +0.6 ± 0.5 against x, one seed"


def test_what_is_within_one_seeds_interval_is_no_difference():
    assert Cell("s", "x", 1.6, 0.6, floor=1.9).sign == 0
    assert Cell("s", "x", -1.6, 0.6, floor=1.9).sign == 0
    assert Cell("s", "x", 2.0, 0.6, floor=1.9).sign == 1
    assert Cell("s", "x", 1.6, 0.6, seeds=(1.6, 0.5), floor=1.9).sign == 1  # its own interval tells
    assert Cell("s", "x", 1.6, 0.6, seeds=(1.6, math.nan), floor=1.9).sign is None
    words = "s: +1.6 ± 0.6 against x, too small for one seed: below 1.9 points"
    assert str(Cell("s", "x", 1.6, 0.6, floor=1.9)) == words


def test_cells_in_words():
    cells = [Cell("CUB, 1-shot", "OTA", -0.96, 0.5), Cell("s", "x", 2.0, 0.5, seeds=(2.0, 3.25))]
    assert str(cells[0]) == "CUB, 1-shot: −1.0 ± 0.5 against OTA, one seed"
    assert str(cells[1]) == "s: +2.0 ± 0.5 against x; over seeds +2.0 ± 3.2"
    assert span(cells[:1]) == "−1.0 ± 0.5 points"
    assert span(cells) == "−1.0 to +2.0 points"
    assert span(cells[1:]) == "+2.0 ± 3.2 points over seeds"  # not the narrower interval over episodes
    assert span([Cell("s", "x", 2.0, 0.5, seeds=(2.0, math.nan))]) == "+2.0 ± 0.5 points"


def test_one_seeds_interval_is_of_the_pooled_spread():
    """Variances 1 (three seeds) and 4 (three seeds): pooled 2.5 with four degrees of freedom."""
    assert one_seed_half_width([(1.0, 3), (2.0, 3)]) == pytest.approx(2.7764 * 2.5**0.5, rel=1e-4)
    alone = one_seed_half_width([(1.0, 3), (2.0, 3), (math.nan, 1)])
    assert alone == one_seed_half_width([(1.0, 3), (2.0, 3)])
    assert one_seed_half_width([(1.0, 3), (2.0, 2)]) == 0.0  # three are too few
    assert one_seed_half_width([]) == 0.0

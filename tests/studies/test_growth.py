"""What grows: the exponent by hand, and what a small measurement holds."""

import pytest

from studies.growth import STEPS, Setting, exponent, measure


def test_the_exponent_by_hand():
    assert exponent([10, 100, 1000], [3.0, 9.0, 300.0]) == pytest.approx(1)
    assert exponent([32**2, 64**2], [5.0, 5.0]) == 0


@pytest.mark.parametrize("method", STEPS)
def test_each_step_has_its_seconds(method):
    found = measure(method, Setting(members=4, image_size=16, classes=2, rounds=1, images=128))
    assert found["seconds"].keys() == set(STEPS[method])
    assert all(value > 0 for value in found["seconds"].values())
    assert 0.1 < found["peak_memory_gib"] < 4
    assert 0 < found["cpu_share"] <= 1.1

from dataclasses import dataclass, replace

import pytest
from fake_methods import TINY

from freelib.run.units import Unit, fitted, grid, make_config, parse_overrides, table_units, unit_config

DRIFTING = "fake_methods:Drifting"


@dataclass(frozen=True)
class Fading:
    rate: float = 1.0


def test_grid_is_the_product_in_order():
    units = grid("table1", ["a", "b"], ["d", "e"], [1, 5], [0, 1])
    assert len(units) == 16
    expected = [("a", "d", 1, 0), ("a", "d", 1, 1), ("a", "d", 5, 0), ("b", "e", 5, 1)]
    assert [*units[:3], units[-1]] == [Unit("table1", *each) for each in expected]
    profile = replace(TINY, seeds=(0, 1, 2), shots=(1, 5))
    units = table_units("table1", profile, ["free", "average"], n_query=3)
    assert len(units) == 12  # without a pool of all seeds' own, each seed has another pool
    units = table_units("table1", replace(profile, pool_seed=0), ["free", "average"], datasets=["cub"])
    assert [(u.method, u.n_shot, u.seed) for u in units] == [
        *(("free", n_shot, seed) for n_shot in (1, 5) for seed in (0, 1, 2)),
        ("average", 1, 0),
        ("average", 5, 0),
    ]


def test_a_unit_says_what_it_is_and_takes_profile_then_method_then_its_own():
    assert Unit("table1", "free", "glyphs", 1, 0).name == "table1: free on glyphs, 1-shot, seed 0"
    unit = Unit("table4", "free", "glyphs", 5, 2, {"rounds": 3, "k": 1}, selection="last")
    assert unit.name == "table4: free on glyphs, 5-shot, seed 2 (k=1, rounds=3, selection=last)"
    config = unit_config(Unit("t", DRIFTING, "cifar-fs", 5, 0), TINY)
    assert (config.n_shot, config.n_query, config.width, config.rounds, config.monitor_every) == (5, 3, 4, 4, 2)
    assert unit_config(Unit("t", DRIFTING, "cifar-fs", 5, 0, {"rounds": 9}), TINY).rounds == 9
    assert not hasattr(unit_config(Unit("t", "random", "cifar-fs", 1, 0), TINY), "monitor_every")  # which it lacks


@pytest.mark.parametrize(
    ("given", "stored"),
    [({"pause": 1}, 1.0), ({"fail_at": None}, None), ({"fail_at": 2}, 2), ({"scales": [1.0, 2.0]}, (1.0, 2.0))],
)
def test_values_are_fitted_to_the_field(given, stored):
    (name,) = given
    value = getattr(make_config(DRIFTING, given), name)
    assert value == stored
    assert type(value) is type(stored)


def test_overrides_from_words_and_records():
    words = ["rounds=3", "lr=1e-3", "arch=resnet10", "flag=true", "none=None", "nil=null", "list=[1, 2]", "text=a=b"]
    assert parse_overrides(words) == {
        "rounds": 3, "lr": 0.001, "arch": "resnet10", "flag": True, "none": None, "nil": None, "list": [1, 2],
        "text": "a=b",
    }  # fmt: skip
    assert fitted(Fading, {"rate": "-inf"}, "Fading").rate == float("-inf")
    with pytest.raises(ValueError, match="Fading: Expected `float`"):
        fitted(Fading, {"rate": "nan"}, "Fading")

"""Profiles and units: which settings a run has."""

from dataclasses import dataclass, replace

import pytest
from fake_methods import TINY

from freelib.run.profiles import PROFILES, Profile, get_profile
from freelib.run.units import Unit, fitted, grid, make_config, parse_overrides, table_units, unit_config

BFLOAT16 = ("purer", "bidf_mkd", "free", "oracle_protonet")


def test_a_profile_is_found_and_experiments_lay_their_settings_over_it(tmp_path):
    mine = Profile(name="mine", datasets=("glyphs",))
    assert get_profile(mine) is mine
    assert {get_profile(name).name for name in PROFILES} == set(PROFILES) == {"smoke", "cpu", "paper"}
    file = tmp_path / "mine.yaml"
    file.write_text("datasets: [glyphs]\nseeds: [4]\noverrides: {free: {align_lr: 1e-3}}")
    mine = get_profile(str(file))
    assert (mine.name, mine.seeds, mine.method_fields("free", 1)) == ("mine", (4,), {"align_lr": 0.001})
    profile = Profile(
        name="mine",
        datasets=("glyphs",),
        image_size=32,
        image_size_by_dataset={"cub": 84},
        overrides={"free": {"ngf": 8, "rounds": 9}, "dro": {"rounds": 2}},
        experiments={"table4": {"seeds": (1, 2), "overrides": {"free": {"rounds": 3}}}},
    )
    changed = get_profile(profile, "table4")
    assert (changed.name, changed.seeds) == ("mine", (1, 2))
    assert changed.overrides == {"free": {"ngf": 8, "rounds": 3}, "dro": {"rounds": 2}}
    assert get_profile(profile, "table1") == profile
    assert [profile.size_of(name) for name in ("glyphs", "cub")] == [32, 84]
    sections = {"a": {"shots": [1], "pool": {"epochs": 2}}, "b": {"extends": "a", "pool": {"width": 8}}}
    profile = Profile("mine", ("glyphs",), pool={"epochs": 9, "n_models": 3}, experiments=sections)
    found = get_profile(profile, "b")
    assert (found.shots, found.pool) == ((1,), {"epochs": 2, "n_models": 3, "width": 8})
    own = {"mymeth:Mine": {"rounds": 3}, "*": {"width": 8}}
    profile = Profile("mine", ("glyphs",), overrides=own, overrides_by_shots={5: {"mymeth:Mine": {"rounds": 2}}})
    assert [profile.method_fields("mymeth:Mine", n)["rounds"] for n in (1, 5)] == [3, 2]


def test_the_environment_says_how_many_processes(monkeypatch):
    profile = Profile(name="mine", datasets=("glyphs",), workers=3)
    assert profile.processes == 3
    monkeypatch.setenv("FREELIB_WORKERS", "1")
    assert profile.processes == 1
    for wrong in ("none", "0", "-2", "1.5"):
        monkeypatch.setenv("FREELIB_WORKERS", wrong)
        with pytest.raises(ValueError, match=f"FREELIB_WORKERS is '{wrong}'"):
            _ = profile.processes


@pytest.mark.parametrize("name", PROFILES)
def test_every_method_of_table1_has_a_config_that_fits(name):
    profile = get_profile(name)
    assert {"random", "ota", "dro", "purer", "bidf_mkd", "free", "oracle_maml"} < set(profile.methods)
    for method in profile.methods:
        config = unit_config(Unit("table1", method, profile.datasets[0], 1, 0), profile)
        assert config.precision == "bfloat16" or profile.name != "cpu" or method not in BFLOAT16


def test_budgets_of_the_profiles():
    """Passes of 80 to 100 images each, and the looks at the validation classes."""
    cpu = get_profile("cpu")

    def config(method, n_shot):
        return unit_config(Unit("table1", method, "cifar-fs", n_shot, 0), cpu)

    for n_shot in cpu.shots:
        free, bidf, purer = (config(method, n_shot) for method in ("free", "bidf_mkd", "purer"))
        passes = (free.warmup_rounds + free.rounds) * free.meta_batch * free.adapt_steps
        assert passes == 2200
        assert 2 * bidf.adapt_steps * bidf.rounds <= passes
        assert (purer.meta_batch, purer.lambda_bn) == (13, 0.01)  # as in its paper
        assert bidf.images_per_class == free.images_per_class
        assert purer.eci_start / purer.rounds == pytest.approx(0.4)  # 4,000 of PurerConfig's 10,000 batches
        assert bidf.adversarial_from / (bidf.rounds * bidf.replay_batches) == pytest.approx(0.4)
        for method in ("purer", "bidf_mkd", "oracle_maml", "oracle_protonet", "dro"):
            assert config(method, n_shot).rounds == 5 * config(method, n_shot).monitor_every
    assert config("purer", 5).rounds < config("purer", 1).rounds  # its episodes cost more
    paper = get_profile("paper")
    assert (paper.n_way, paper.n_query, paper.n_episodes, paper.shots) == (5, 15, 600, (1, 5))
    assert paper.pool_fields("cifar-fs")["n_models"] == 100
    assert paper.pool_fields("mini-imagenet")["epochs"] == 60
    assert paper.pool_fields("cub")["epochs"] == 100
    assert paper.image_size is None


DRIFTING = "fake_methods:Drifting"


@dataclass(frozen=True)
class Fading:
    rate: float = 1.0


def test_a_unit_takes_profile_then_method_then_its_own_settings():
    units = grid("table1", ["a", "b"], ["d", "e"], [1, 5], [0, 1])
    assert len(units) == 16
    expected = [("a", "d", 1, 0), ("a", "d", 1, 1), ("a", "d", 5, 0), ("b", "e", 5, 1)]
    assert [*units[:3], units[-1]] == [Unit("table1", *each) for each in expected]
    profile = replace(TINY, seeds=(0, 1, 2), shots=(1, 5))
    units = table_units("table1", profile, ["free", "average"], n_query=3)
    assert len(units) == 12  # without a pool of all seeds' own, each seed has another pool
    once = {"methods": ["free", "average"], "datasets": ["cub", "glyphs"], "shots": [1, 5], "seeds": [0, 1]}
    assert table_units("t", profile, **once) == table_units("t", profile, **{k: iter(v) for k, v in once.items()})
    units = table_units("table1", replace(profile, pool_seed=0), ["free", "average"], datasets=["cub"])
    assert [(u.method, u.n_shot, u.seed) for u in units] == [
        *(("free", n_shot, seed) for n_shot in (1, 5) for seed in (0, 1, 2)),
        ("average", 1, 0),
        ("average", 5, 0),
    ]
    assert Unit("table1", "free", "glyphs", 1, 0).name == "table1: free on glyphs, 1-shot, seed 0"
    unit = Unit("table4", "free", "glyphs", 5, 2, {"rounds": 3, "k": 1}, selection="last")
    assert unit.name == "table4: free on glyphs, 5-shot, seed 2 (k=1, rounds=3, selection=last)"
    config = unit_config(Unit("t", DRIFTING, "cifar-fs", 5, 0), TINY)
    assert (config.n_shot, config.n_query, config.width, config.rounds, config.monitor_every) == (5, 3, 4, 4, 2)
    assert unit_config(Unit("t", DRIFTING, "cifar-fs", 5, 0, {"rounds": 9}), TINY).rounds == 9
    assert not hasattr(unit_config(Unit("t", "random", "cifar-fs", 1, 0), TINY), "monitor_every")  # which it lacks
    wider = replace(TINY, overrides_by_shots={5: {"*": {"width": 8}}})
    assert [unit_config(Unit("t", "random", "cifar-fs", n, 0), wider).width for n in (1, 5)] == [4, 8]
    with pytest.raises(ValueError, match="oracle_maml learns from the images of one data set, not of cifar-fs"):
        unit_config(Unit("t", "oracle_maml", "cifar-fs+cub", 1, 0), TINY)
    words = ["rounds=3", "lr=1e-3", "arch=resnet10", "flag=true", "none=None", "nil=null", "list=[1, 2]", "text=a=b"]
    assert parse_overrides(words) == {
        "rounds": 3, "lr": 0.001, "arch": "resnet10", "flag": True, "none": None, "nil": None, "list": [1, 2],
        "text": "a=b",
    }  # fmt: skip
    assert fitted(Fading, {"rate": "-inf"}, "Fading").rate == float("-inf")
    with pytest.raises(ValueError, match="Fading: rate is a number"):
        fitted(Fading, {"rate": "nan"}, "Fading")


@pytest.mark.parametrize(
    ("given", "stored"),
    [({"pause": 1}, 1.0), ({"fail_at": None}, None), ({"fail_at": 2}, 2), ({"scales": [1.0, 2.0]}, (1.0, 2.0))],
)
def test_values_are_fitted_to_the_field(given, stored):
    (name,) = given
    value = getattr(make_config(DRIFTING, given), name)
    assert value == stored
    assert type(value) is type(stored)

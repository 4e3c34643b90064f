import pytest

from freelib.profiles import PROFILES, Profile, get_profile


def test_names():
    assert set(PROFILES) == {"smoke", "cpu", "paper"}
    assert all(get_profile(name).name == name for name in PROFILES)


def test_a_profile_of_ones_own_is_taken_as_it_is():
    mine = Profile(name="mine", datasets=("glyphs",))
    assert get_profile(mine) is mine


def test_unknown_profile():
    with pytest.raises(ValueError, match="smoke, cpu, paper"):
        get_profile("huge")


def test_paper_has_the_papers_numbers():
    paper = get_profile("paper")
    assert (paper.n_way, paper.n_query, paper.n_episodes, paper.shots) == (5, 15, 600, (1, 5))
    assert paper.pool_fields("cifar-fs")["n_models"] == 100
    assert paper.pool_fields("mini-imagenet")["epochs"] == 60
    assert paper.pool_fields("cub")["epochs"] == 100
    assert paper.image_size is None

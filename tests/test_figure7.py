from dataclasses import replace

import pytest
from fake_methods import TINY
from test_tables import record

from freelib.experiments import figure7
from freelib.run import grid

CONFIG = {"adapt_steps": 5, "meta_batch": 4, "images_per_class": 20}


def trained(episodes, *, take=None, seed=0, agreement=0.5, **changes):
    """FREE's record with some settings changed."""
    pool = {"config": {"n_models": 40}} | ({} if take is None else {"take": take})
    history = {"teacher_agreement": [0.0] + [agreement] * 5}
    return record("free", episodes, config=CONFIG | changes, pool=pool, history=history, seed=seed)


RECORDS = [
    trained([40.0, 50.0]),
    trained([44.0, 54.0], seed=1),
    trained([20.0, 22.0], adapt_steps=1, agreement=0.25),
    trained([40.0, 44.0], take=10),
]


def test_each_axis_has_the_base_and_its_own_points():
    table = figure7.rows(RECORDS)
    points = [tuple(row) for row in table[["axis", "value", "base"]].to_numpy().tolist()]
    assert points == [
        ("adapt_steps", 1, False),
        ("adapt_steps", 5, True),
        ("pool_size", 10, False),
        ("pool_size", 40, True),
        ("meta_batch", 4, True),
        ("images_per_class", 20, True),
    ]
    assert table["accuracy"].tolist() == pytest.approx([21, 47, 42, 47, 47, 47])
    assert table["ci95"][0] == pytest.approx(1.96)  # deviation √2 of two episodes
    assert table["agreement"].tolist() == [25, 50, 50, 50, 50, 50]
    assert table["n_seeds"].tolist() == [1, 2, 1, 2, 2, 2]
    cells = figure7.sensitivity_table(table).cells
    assert cells["value"].tolist()[:2] == ["1", "5 (base)"]
    # seed 0 alone has both: 20 − 40 and 22 − 50; deviation √32 of two episodes
    assert table["difference"][0] == pytest.approx(-24)
    assert table["difference_ci95"][0] == pytest.approx(1.96 * 4)
    assert table["difference"].isna().tolist() == table["base"].tolist()
    sentence = figure7.conclusion(table)
    assert sentence.startswith("The base reaches 47.0 ± ")
    assert (
        ", one seed: passes k (k − 1 updates): −24.0 ± 7.8 at 1 (base: 5); models in the pool: " in sentence
    )
    assert "models a round: nothing else (base: 4)" in sentence
    assert sentence.endswith("No k above 5 was tried: whether more steps bring more stays open.")
    assert not figure7.at_chance(table)


@pytest.mark.parametrize(("highest", "verb"), [(53.0, "do not measurably raise"), (90.0, "raise")])
def test_whether_more_steps_help_is_said(highest, verb):
    table = figure7.rows([*RECORDS, trained([highest - 1, highest], adapt_steps=20)])
    found = figure7.few_steps_suffice(table)
    assert found.startswith(f"More steps than k = 5 {verb} accuracy: at best ")
    assert found.endswith("at k = 20.")


def test_differences_below_what_rounding_does_are_named():
    table = figure7.rows(
        [*RECORDS[::2], trained([41.0, 50.5], adapt_steps=20), trained([39.0, 50.0], take=5)]
    )
    assert figure7.drowned(table, 0.5) == ""
    named = "are passes k (k − 1 updates): 20; models in the pool: 5."
    assert figure7.drowned(table, 1.5).endswith(named)
    assert figure7.conclusion(table, 1.5).endswith(named)
    assert "do not measurably raise" in figure7.few_steps_suffice(table, 1.5)
    assert "half-width of 1.5 points (table 4)" in figure7.drowned(table, 1.5)
    assert "half-width" not in figure7.conclusion(table)


def test_a_seed_that_the_base_lacks_is_refused():
    with pytest.raises(ValueError, match="the base has none of the seeds 3"):
        figure7.rows([RECORDS[0], trained([20.0, 22.0], adapt_steps=1, seed=3)])


def test_chance_is_called_chance():
    table = figure7.rows([trained([10.0, 30.0]), trained([20.0, 21.0], adapt_steps=1)])
    assert table["chance"].tolist() == [20] * len(table)
    assert figure7.at_chance(table)
    assert figure7.conclusion(table).endswith("at this size accuracy says nothing about them.")


def test_two_changes_at_once_are_refused():
    with pytest.raises(ValueError, match="adapt_steps, meta_batch"):
        figure7.rows([RECORDS[0], trained([1.0, 2.0], adapt_steps=1, meta_batch=2)])


def test_the_figure_draws_intervals():
    table = figure7.rows(RECORDS)
    axes = figure7.sensitivity_figure(table).axes
    assert len(axes) == 8
    assert axes[0].lines[0].get_ydata().tolist() == pytest.approx([21, 47])
    assert axes[0].lines[-1].get_ydata()[0] == 20
    segment = axes[0].containers[0].lines[2][0].get_segments()[0]
    assert segment[1, 1] - segment[0, 1] == pytest.approx(2 * 1.96)
    assert [label.get_text() for label in axes[4].get_xticklabels()] == ["1", "5"]


def test_what_is_run(monkeypatch, tmp_path):
    asked = []

    def fake_grid(units, profile, store, *, cache=None):
        asked.extend((unit, profile) for unit in units)
        return []

    monkeypatch.setattr(grid, "run_grid", fake_grid)
    points = {"adapt_steps": (1, 5), "pool_size": (1, 2), "meta_batch": (2, 4)}
    profile = replace(TINY, experiments={"figure7": {"sensitivity": points, "n_episodes": 4}})
    figure7.run(profile, results=tmp_path)
    changes = [{}, {"adapt_steps": 1}, {"meta_batch": 2}, {}]  # 5 steps and 4 models are the base
    assert [dict(unit.overrides) for unit, _ in asked] == changes
    assert all(p.n_episodes == 4 for _, p in asked)
    assert [p.pool_parts for _, p in asked] == [(), (), (), ({"take": 1},)]

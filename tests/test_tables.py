import math

import pandas as pd
import pytest
from test_records import fields

from freelib.experiments import table1
from freelib.run.accuracy_rows import REFERENCE, accuracy_rows, episode_means, reference_values
from freelib.run.records import complete
from freelib.run.report import markdown_html
from freelib.show.tables import ABSENT, UNKNOWN, Table, accuracy_table, plus_minus, signed


def record(method, episodes, **changes):
    """A record with these episode accuracies."""
    return complete(
        fields(
            **{
                "method": method,
                "dataset": "cifar-fs",
                "episode_accuracies": episodes,
                "n_episodes": len(episodes),
                "accuracy": sum(episodes) / len(episodes),
                "accuracy_last": 1.0,
                "seconds": {"training": 10.0},
                "passes": 4,
            }
            | changes
        )
    )


def two_methods():
    """FREE with two seeds, Random with one, on the same four episodes."""
    return [
        record("free", [40.0, 50.0, 60.0, 50.0]),
        record("free", [44.0, 54.0, 64.0, 54.0], seed=1, seconds={"training": 30.0}),
        record("random", [30.0, 41.0, 49.0, 40.0], history=None, passes=None),
    ]


def test_paired_difference_by_hand():
    rows = accuracy_rows(two_methods(), table="table1").set_index("method")
    free, random = rows.loc["free"], rows.loc["random"]
    # FREE, averaged over seeds: 42, 52, 62, 52. Mean 52, deviation sqrt(200 / 3)
    assert free["accuracy"] == pytest.approx(52)
    assert free["ci95"] == pytest.approx(1.96 * math.sqrt(200 / 3) / 2)
    assert free["seed_spread"] == pytest.approx(math.sqrt(8))  # of 50 and 54
    assert (free["n_seeds"], free["seconds"], free["passes"], free["models"]) == (2, 10, 4, 1)
    assert math.isnan(free["difference"])
    # Random minus FREE of the seed that both have: -10, -9, -11, -10. Mean -10, deviation sqrt(2 / 3)
    assert random["difference"] == pytest.approx(-10)
    assert random["difference_ci95"] == pytest.approx(1.96 * math.sqrt(2 / 3) / 2)
    assert math.isnan(random["seed_spread"])
    assert math.isnan(random["passes"])


def test_differences_are_over_the_seeds_that_both_have_where_chance_has_a_part():
    free = two_methods()[:2]
    for other, seed, difference in (("purer", 1, -14), ("purer", 2, math.nan), ("average", 1, -12)):
        rows = accuracy_rows([*free, record(other, [30.0, 40.0, 50.0, 40.0], seed=seed)], table="table1")
        assert rows.loc[1, "difference"] == pytest.approx(difference, nan_ok=True)


def test_differences_seed_by_seed_have_an_interval_of_their_own():
    free = two_methods()[:2]  # 50 and 54
    purer = [record("purer", [40.0, 40.0, 40.0, 40.0]), record("purer", [46.0, 46.0, 46.0, 46.0], seed=1)]
    row = accuracy_rows([*free, *purer], table="table1").loc[1]
    assert row["seed_difference"] == pytest.approx(-9)  # -10 and -8
    assert row["seed_difference_ci95"] == pytest.approx(12.7062 * 2**0.5 / 2**0.5, rel=1e-4)
    row = accuracy_rows([*free, purer[0]], table="table1").loc[1]
    assert math.isnan(row["seed_difference"])


def test_budget_is_training_without_the_monitor_and_models_at_test_are_counted():
    records = [record("pool_features", [50.0, 60.0], seconds={"training": 10.0, "monitor": 4.0})]
    (row,) = accuracy_rows(records, table="table1").to_dict("records")
    assert (row["seconds"], row["models"]) == (6, 2)  # of `fields`' pool of two
    (row,) = accuracy_rows([records[0] | {"seconds": None, "pool": None}], table="table1").to_dict("records")
    assert math.isnan(row["seconds"])
    assert math.isnan(row["models"])


def test_a_rows_time_is_the_processors_where_all_of_its_records_have_it():
    crowded = {"training": 100.0, "monitor": 75.0, "training_cpu": 40.0, "monitor_cpu": 10.0}
    quiet = {"training": 60.0, "monitor": 30.0, "training_cpu": 44.0, "monitor_cpu": 22.0}
    records = [record("free", [50.0, 60.0], seed=i, seconds=s) for i, s in enumerate((crowded, quiet))]
    (row,) = accuracy_rows(records, table="table1").to_dict("records")
    assert (row["seconds"], row["by_processor"]) == (22, True)  # of 30 and 22
    table = accuracy_table(accuracy_rows(records, table="table1"), "")
    assert table.cells["training, s"].tolist() == ["22"]
    assert "≤" not in table.note
    old = record("free", [50.0, 60.0], seed=2, seconds={"training": 80.0})
    table = accuracy_table(accuracy_rows([*records, old], table="table1"), "")
    assert table.cells["training, s"].tolist() == ["25†"]  # of 25, 30 and 80
    assert "†: by the wall's clock" in table.note


def test_processor_time_is_a_bound_where_that_of_the_looks_is_not_known():
    old = {"training": 1612.0, "monitor": 1044.0, "training_cpu": 612.0}
    rows = accuracy_rows([record("purer", [50.0, 60.0], seconds=old)], table="table1")
    table = accuracy_table(rows, "")
    assert table.cells["training, s"].tolist() == ["≤ 568"]  # a share of the wall's clock would say 216
    assert "≤: at most" in table.note
    new = record("purer", [50.0, 60.0], seed=1, seconds=old | {"monitor_cpu": 100.0})
    rows = accuracy_rows([record("purer", [50.0, 60.0], seconds=old), new], table="table1")
    assert accuracy_table(rows, "").cells["training, s"].tolist() == ["≤ 512"]


def test_what_is_not_drawn_by_chance_is_held_against_each_seed():
    student = [
        record("pool_distillation", [50.0 + gap] * 4, seed=seed) for seed, gap in enumerate((6, -3, 3))
    ]
    pool = record("pool_features", [50.0, 48.0, 52.0, 50.0])

    def over_seeds(*records, reference="pool_distillation"):
        rows = accuracy_rows(records, table="beyond", reference=reference).set_index("method")
        return tuple(rows.loc["pool_features", ["seed_difference", "seed_difference_ci95"]])

    assert over_seeds(*student, pool) == pytest.approx((-2, 11.384), rel=1e-3)  # 4.3027 * 4.583 / √3
    assert all(map(math.isnan, over_seeds(student[0], pool)))
    other = record("pool_features", [50.0, 48.0, 52.0, 50.0], pool={"seed": 9})
    assert all(map(math.isnan, over_seeds(*student, other)))  # each seed has a pool of its own


def test_pools_of_different_seeds_are_no_pair():
    free = record("free", [40.0, 50.0])
    for pool, difference in ((free["pool"], -3), ({"seed": 1}, math.nan)):
        average = record("average", [38.0, 46.0], seed=1, pool=pool)
        rows = accuracy_rows([free, average], table="table1")
        assert rows.loc[1, "difference"] == pytest.approx(difference, nan_ok=True)


def test_a_method_without_chance_has_no_seeds():
    records = [*two_methods(), record("average", [42.0, 52.0, 63.0, 51.0])]
    table = accuracy_table(accuracy_rows(records, table="table1"), "")
    assert table.cells["seeds"].tolist() == [2, 1, "–"]
    assert "Seeds –: nothing is drawn by chance." in table.note


def test_paper_values_come_with_their_cell():
    rows = accuracy_rows(two_methods(), table="table1").set_index("method")
    assert rows.loc["free", "paper"] == 39.13
    assert math.isnan(rows.loc["random", "paper"])
    assert math.isnan(accuracy_rows(two_methods(), table="table4").set_index("method").loc["free", "paper"])


def test_reference_file_has_the_known_cells_and_places_for_all_others():
    values = reference_values("table1")
    assert {key: value for key, (value, _) in values.items()} == {
        ("cifar-fs", "free", 1): 39.13,
        ("mini-imagenet", "free", 5): 45.45,
    }
    cells = pd.read_csv(REFERENCE)
    assert len(cells[cells["table"] == "table1"]) == 3 * 7 * 2
    assert cells[cells["value"].notna()]["source"].notna().all()


def test_variants_are_rows_of_their_own():
    records = [
        record("pool_features", [50.0, 60.0]),
        record("pool_features", [40.0, 50.0], config={"centre": "none"}),
    ]
    with pytest.raises(ValueError, match="two records"):
        accuracy_rows(records, table="table1")
    words = {True: "not centred", False: ""}
    rows = accuracy_rows(records, table="table1", variant=lambda r: words[r["config"] == {"centre": "none"}])
    assert rows["method"].tolist() == ["pool_features", "pool_features (not centred)"]
    assert rows["title"].tolist() == ["Pool features", "Pool features, not centred"]


def test_records_of_other_episodes_are_not_averaged():
    with pytest.raises(ValueError, match="different sets of episodes"):
        episode_means([record("free", [1.0, 2.0]), record("free", [1.0, 2.0], data_digest="other")])


def test_cells():
    table = accuracy_table(table1.rows(two_methods()), "A caption.", note="A note.")
    assert table.caption == "A caption. Mean ± 95 % interval over 4 episodes."
    assert table.note.startswith("A note. Differences are over the same episodes and the seeds that both")
    cells = table.cells.set_index("method")
    assert cells.loc["FREE", "accuracy, %"] == "**52.0 ± 8.0**"
    assert cells.loc["Random", "accuracy, %"] == "40.0 ± 7.6"
    assert cells.loc["Random", "minus FREE, same episodes"] == "−10.0 ± 0.8"
    assert cells.loc["FREE", "minus FREE, same episodes"] == ""
    assert cells.loc["FREE", "spread over seeds"] == "2.8"
    assert cells.loc["FREE", "reported, %"] == "39.13"
    assert cells.loc["Random", "reported, %"] == UNKNOWN
    assert cells.loc["Random", "passes"] == ""
    ours = [r | {"dataset": "glyphs"} for r in two_methods()]
    assert set(accuracy_table(table1.rows(ours), "").cells["reported, %"]) == {ABSENT}


def test_an_oracle_is_marked_and_never_the_best():
    records = [*two_methods(), record("fake_methods:Colour", [99.0, 98.0, 99.0, 99.0])]
    cells = accuracy_table(accuracy_rows(records, table="table1"), "").cells.set_index("method")
    assert cells.loc["Colour (sees the real images)", "accuracy, %"] == "98.8 ± 0.5"
    assert cells.loc["FREE", "accuracy, %"].startswith("**")


def test_files(tmp_path):
    table = Table(
        "Caption", pd.DataFrame({"a": [1.23456789, None]}), pd.DataFrame({"a": ["**1.2**", "<x>"]}), "Note"
    )
    table.save(tmp_path, "t")
    assert (tmp_path / "t.md").read_text() == "Caption\n\n| a |\n| --- |\n| **1.2** |\n| <x> |\n\nNote\n"
    assert (tmp_path / "t.csv").read_text() == 'a\n1.23457\n""\n'
    assert "<td><b>1.2</b></td>" in table.html()
    assert "<td>&lt;x&gt;</td>" in table.html()
    assert table.html().endswith("</table>\n<p>Note</p>")
    assert table._repr_html_() == table.html()


def test_bars_in_cells_are_escaped_and_the_page_takes_them_back():
    table = Table("Caption", pd.DataFrame(), pd.DataFrame({"φ(u)": ["u + |u|^2.5"], "n": [2]}))
    assert table.markdown().splitlines()[-1] == r"| u + \|u\|^2.5 | 2 |"
    assert "<td>u + |u|^2.5</td>" in markdown_html(table.markdown())


def test_formats():
    assert plus_minus(31.25, 0.84) == "31.2 ± 0.8"
    assert signed(1.0, 0.5) == "+1.0 ± 0.5"
    assert signed(-0.04, 0.5) == "+0.0 ± 0.5"
    assert signed(0.25, float("nan"), 2) == "+0.25"  # one seed
    assert plus_minus(float("nan"), 1.0) == signed(float("nan"), 1.0) == ""


def test_the_table_says_what_its_spread_and_its_episodes_are():
    alike = accuracy_table(table1.rows(two_methods()), "A caption.")
    assert "Spread over seeds: the standard deviation of the seeds' accuracies, in points." in alike.note
    assert alike.caption == "A caption. Mean ± 95 % interval over 4 episodes."
    assert "episodes" not in alike.cells
    short = record("free", [40.0, 50.0], dataset="cub")
    table = accuracy_table(table1.rows([*two_methods(), short]), "A caption.")
    assert table.caption == "A caption. Mean ± 95 % interval over the row's episodes."
    assert table.cells["episodes"].tolist() == [4, 4, 2]
    assert "standard deviation" not in accuracy_table(table1.rows([short]), "A caption.").note

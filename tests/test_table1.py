from dataclasses import replace

import pytest
from fake_methods import TINY
from test_tables import record, two_methods

from freelib.experiments import table1


def test_rows_of_table1_are_sorted_and_claims_follow_the_intervals():
    rows = table1.rows(two_methods())
    assert rows["method"].tolist() == ["random", "free"]
    assert not table1.above(rows, "free", "random")  # 52 ± 8.0 against 40 ± 7.6
    near = [record("free", [51.0, 52.0, 53.0]), record("random", [40.0, 41.0, 42.0])]
    assert table1.above(table1.rows(near), "free", "random")
    assert not table1.above(table1.rows(near), "random", "free")


def test_conclusion_says_what_the_numbers_say():
    close = record("average", [42.0, 52.0, 63.0, 51.0])
    sentence = table1.conclusion(table1.rows([*two_methods(), close]))
    assert sentence == (
        "On CIFAR-FS, 5-way 1-shot, FREE reaches 52.0 ± 8.0 % (reported: 39.13 %, at the paper's sizes), "
        "10.0 ± 0.8 points above the untrained student, and not told apart from the best of the others, "
        "Average (+0.0 ± 0.8 points)."
    )


def test_where_the_papers_order_holds_and_where_not():
    assert table1.against_the_paper(table1.rows(two_methods())) == (
        "CIFAR-FS, 1-shot: FREE is 10.0 ± 0.8 points above the strongest of the other 1, Random.\n"
        "FREE is above every one of them in 1 of 1 columns."
    )
    records = [
        *two_methods(),
        record("ota", [43.0, 53.5, 63.0, 53.0]),
        record("average", [42.0, 52.0, 63.0, 51.0]),
    ]
    records.append(record("best_teacher", [90.0, 91.0, 92.0, 93.0]))  # not in the paper: no contradiction
    assert table1.against_the_paper(table1.rows(records)) == (
        "CIFAR-FS, 1-shot: FREE is 1.1 ± 0.2 points below the strongest of the other 3, OTA; "
        "against the published order, above FREE: OTA (+1.1 ± 0.2).\n"
        "FREE is above every one of them in 0 of 1 columns."
    )


def test_published_methods_that_are_worse_than_the_untrained_student_are_named():
    others = [
        record("average", [25.0, 26.0, 24.0, 25.0]),
        record("dro", [30.0, 40.0, 49.0, 40.0]),  # of a lower mean, 39.75, but within its interval
        record("best_teacher", [20.0, 20.0, 20.0, 20.0]),  # not in the paper
    ]
    found = table1.against_the_paper(table1.rows([*two_methods(), *others]))
    assert found.splitlines()[0].endswith(
        ", Random; worse than the untrained student (40.0 %): Average (25.0 ± 0.8 %)."
    )


def test_who_trained_longer_is_told_by_the_shortest_seed_and_the_processor_where_both_have_it():
    looks = {"validation_round": [1.0, 2.0], "validation_accuracy": [20.0, 21.0]}
    free = [
        record(
            "free", [40.0, 50.0], seed=seed, seconds={"training": wall, "training_cpu": 90.0}, history=looks
        )
        for seed, wall in enumerate((100.0, 300.0))
    ]
    others = [
        record("purer", [40.0, 50.0], seconds={"training": 120.0}, history=None),
        record("dro", [40.0, 50.0], seconds={"training": 400.0, "training_cpu": 80.0}, history=None),
        record("ota", [40.0, 50.0], seconds={"training": 400.0, "training_cpu": 9.0}, history=None),
        record("average", [40.0, 50.0], seconds={"training": 0.1}, history=None),
        record("oracle_maml", [40.0, 50.0], seconds={"training": 95.0, "training_cpu": 95.0}, history=None),
    ]
    assert table1.budgets([*free, *others]) == (
        "CIFAR-FS, 1-shot: trained longer than FREE, by the shortest seeds: "
        "PURER (120 s against 100 s by the wall's clock), MAML (95 s against 90 s of processor time); "
        "less than half as long: OTA (9 s, 10 %).\n"
        "Looks at the validation classes: FREE 2; the others none."
    )


def test_oracles_are_the_last_rows_and_are_named():
    records = [record("oracle_maml", [10.0, 10.0, 10.0, 11.0]), *two_methods()]
    rows = table1.rows(records)
    assert rows["method"].tolist() == ["random", "free", "oracle_maml"]


def test_a_run_has_every_method_and_pool_features_twice(tiny_world, tmp_path):
    records = table1.run(TINY, results=tmp_path, methods=["random", "pool_features"])
    assert [(r["method"], r["config"].get("centre")) for r in records] == [
        ("random", None),
        ("pool_features", "episode"),
        ("pool_features", "none"),
    ]
    assert len(list((tmp_path / "tiny" / "records" / "table1").glob("*.json"))) == 3
    assert set(table1.rows(records)["title"]) == {"Random", "Pool features", "Pool features, not centred"}
    with pytest.raises(ValueError, match="Unknown method"):
        table1.run(TINY, results=tmp_path, methods=["nonsense"])


def test_what_draws_nothing_runs_with_one_seed_where_all_learn_from_one_pool():
    methods = ["best_teacher", "random"]
    both = replace(TINY, seeds=(3, 4), seeds_by_dataset={"cub": (5,)})
    shared = replace(both, pool_seed=0)
    seeds = {
        profile: [(unit.method, unit.seed) for unit in table1.units(profile, methods=methods)]
        for profile in (both, shared)
    }
    assert seeds[both] == [("best_teacher", 3), ("best_teacher", 4), ("random", 3), ("random", 4)]
    assert seeds[shared] == [("best_teacher", 3), ("random", 3), ("random", 4)]
    assert [unit.seed for unit in table1.units(both, ["cub"], methods=["random"])] == [5]

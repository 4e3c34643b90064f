"""Beyond the paper: the units, the variants and what is said of them."""

from __future__ import annotations

from dataclasses import fields, replace

import pandas as pd
import pytest
from fake_methods import TINY
from test_tables import record

from freelib.experiments import adapting, beyond, beyond_words
from freelib.methods.pool_distillation import PoolDistillationConfig
from freelib.run.profiles import get_profile

SMALL = {
    "recovered": 16, "procedural": 32, "mixed": 16, "warmup_rounds": 1, "meta_batch": 1, "adapt_steps": 1,
    "images_per_class": 4, "ngf": 4, "z_dim": 8, "epochs": 1, "batch_size": 4, "embedding": 8, "width": 4,
}  # fmt: skip


def test_a_variant_changes_fields_that_there_are():
    known = {item.name for item in fields(PoolDistillationConfig)}
    variants = beyond.variants(1000, 32)
    assert variants[0].fields == {}
    assert all(variant.fields and set(variant.fields) <= known for variant in variants[1:])
    assert [variant.label for variant in variants if variant.real] == [beyond.REAL]
    sizes = [{**{"recovered": 500, "procedural": 500, "mixed": 0}, **variant.fields} for variant in variants]
    totals = [size["recovered"] + size["procedural"] + size["mixed"] for size in sizes]
    assert sorted(set(totals)) == [250, 1000]


def test_the_ablation_measures_every_variant_once(tiny_world, tmp_path, monkeypatch):
    wanted = beyond.variants(16, 4)
    chosen = [wanted[0], wanted[5], wanted[8]]
    monkeypatch.setattr(beyond, "variants", lambda n, width: chosen if (n, width) == (16, 4) else None)
    profile = replace(TINY, overrides={"pool_distillation": SMALL})
    records = beyond.ablation(profile, results=tmp_path)
    assert [r["config"]["label"] for r in records] == [variant.label for variant in chosen]
    rows = beyond.ablation_rows(records)
    n_shot = TINY.shots[0]
    assert rows[f"{n_shot} difference"][0] == 0
    assert rows[f"{n_shot} accuracy"][1] == pytest.approx(records[1]["extra"][f"{n_shot} episode"], abs=0.01)
    monkeypatch.setattr(beyond, "_train", lambda *_, **__: pytest.fail("trained again"))
    assert beyond.ablation(profile, results=tmp_path) == records
    monkeypatch.setattr(beyond, "variants", lambda *_: chosen)
    newer = records[1] | {"started": "2999-01-01T00:00:00+00:00"}
    assert beyond.latest_ablation([*reversed(records), newer]) == [records[0], newer, records[2]]
    elsewhere = newer | {"dataset": "cub", "config": records[2]["config"]}  # of another data set: no pair
    assert beyond.latest_ablation([*records, elsewhere]) == records
    assert beyond.latest_ablation(records[1:]) == []  # without the first there is nothing to compare with
    more = replace(profile, n_episodes=profile.n_episodes + 1)
    with pytest.raises(BaseException, match="trained again"):  # other episodes: not the same measurement
        beyond.ablation(more, results=tmp_path)
    table = beyond.ablation_table(rows, "Variants.")
    assert table.cells["label"].tolist() == [
        chosen[0].label,
        "real only (sees the real images)",  # as oracles are marked in every table
        chosen[2].label,
    ]
    assert table.cells["group"].tolist() == ["base", "images", "teacher"]
    assert beyond_words.needs(rows).count("\n") == 1


def test_the_conclusion_follows_the_paired_differences():
    near = record("pool_distillation", [50.0, 52.0, 54.0]), record("best_teacher", [40.0, 41.0, 45.0])
    rows = beyond.rows(near)
    assert beyond.beats(rows, "best_teacher")
    assert not beyond.beats(rows, "free")
    assert beyond.conclusion(rows) == (
        "CIFAR-FS, 5-way 1-shot: one student reaches 52.0 ± 2.3 % (one seed): +10.0 ± 1.1 against Best "
        "teacher."
    )
    elsewhere = record("best_teacher", [40.0], dataset="cub"), record("free", [40.0], dataset="glyphs")
    order = beyond.rows([*near, elsewhere[1], elsewhere[0]])["dataset"]
    assert list(dict.fromkeys(order)) == ["cifar-fs", "glyphs", "cub"]
    alone = beyond.rows([record("best_teacher", [40.0, 41.0, 45.0])])
    assert beyond.conclusion(alone) == ""
    rows = beyond.rows([record("pool_distillation", [40.0, 44.0]), record("best_teacher", [41.0, 40.0])])
    assert not beyond.beats(rows, "best_teacher")


def two_seeds(*means):
    """Pool distillation with a seed for each mean, on the same episodes."""
    return [
        record("pool_distillation", [mean - 1, mean, mean + 1], seed=seed) for seed, mean in enumerate(means)
    ]


def test_seeds_and_chance_have_their_say():
    teacher = record("best_teacher", [49.0, 50.0, 51.0])
    close, apart = (beyond.rows([*two_seeds(*means), teacher]) for means in ((52.0, 53.0), (52.0, 52.1)))
    assert not beyond.beats(close, "best_teacher")  # +2.5 over episodes, but over seeds ± 6.4
    assert beyond.beats(apart, "best_teacher")
    assert beyond.conclusion(close) == (
        "CIFAR-FS, 5-way 1-shot: one student reaches 52.5 ± 1.1 % (2 seeds): +2.5 ± 0.0 (over seeds +2.5 ± "
        "6.4) against Best teacher."
    )
    trained = beyond.rows([record("pool_distillation", [51.0, 52.0]), record("free", [50.0, 51.0])])
    assert beyond.beats(trained, "free")
    assert beyond.beats(trained, "free", floor=0.9)
    assert not beyond.beats(trained, "free", floor=1.1)
    by_nothing = beyond.rows(
        [record("pool_distillation", [51.0, 52.0]), record("best_teacher", [50.0, 51.0])]
    )
    assert beyond.beats(by_nothing, "best_teacher", floor=1.1)  # the floor is of two trained methods


def test_the_verdict_asks_the_seeds_and_leaves_means_out():
    rivals = [record("best_teacher", [40.0, 40.0, 40.0]), record("pool_features", [49.0, 50.0, 51.0])]
    rows = beyond.rows([*two_seeds(52.0, 53.0), *rivals])
    lines = beyond_words.verdict(rows).splitlines()
    assert lines[0].endswith(
        "not told apart from all models' features (+2.5 ± 0.0 points, over seeds +2.5 ± 6.4)."
    )
    assert lines[1].endswith("in 0 of 1 columns.")
    rows = beyond.rows([*two_seeds(52.0, 52.1), *rivals])
    assert beyond_words.verdict(rows).endswith("in 1 of 1 columns.")
    lines = beyond_words.verdict(rows.assign(joined=True)).splitlines()
    assert lines[0].startswith("CIFAR-FS, 1-shot (not counted): one student is above")
    assert lines[1].endswith("in 0 of 0 columns.")
    higher = record("pool_features", [52.0, 53.0, 54.0], config={"centre": "none"})
    rows = beyond.rows([*two_seeds(52.0, 52.1), *rivals, higher])  # the other is below, this one is not
    assert beyond_words.verdict(rows).endswith("in 0 of 1 columns.")


def test_each_kind_alone_is_held_against_half_of_each():
    labels = ["half recovered, half procedural", "recovered only", "procedural only"]
    numbers = {"1 difference": [0.0, -1.6, -1.4], "1 difference_ci95": [0.0, 0.5, 0.4]}
    rows = pd.DataFrame({"label": labels, **numbers})
    assert beyond_words.either(rows) == (
        "Recovered images alone: −1.6 ± 0.5 (1-shot) points; procedural images alone: −1.4 ± 0.4 (1-shot) "
        "points; both against as many images, half of each kind. One seed, intervals over episodes."
    )
    assert beyond_words.either(rows[:2]) == ""


def test_the_verdict_is_held_against_one_model_and_against_all():
    own = record("pool_distillation", [50.0, 52.0, 54.0])
    rivals = [record("best_teacher", [40.0, 41.0, 45.0]), record("pool_features", [50.0, 52.5, 53.0])]
    assert beyond_words.verdict(beyond.rows([own, *rivals])) == (
        "CIFAR-FS, 1-shot: one student is above one model's features (+10.0 ± 1.1 points, one "
        "seed), not told apart from all models' features (+0.2 ± 0.9 points, one seed).\n"
        "One student beats the features of all its teachers in 0 of 1 columns."
    )
    lower = record("pool_features", [45.0, 46.0, 48.0])
    assert beyond_words.verdict(beyond.rows([own, rivals[0], lower])).endswith("in 1 of 1 columns.")
    assert beyond_words.verdict(beyond.rows([own])).endswith("in 0 of 0 columns.")


def test_shares_of_the_images_come_from_the_config():
    whole = record("pool_distillation", [50.0], config={"recovered": 10, "procedural": 40, "mixed": 50})
    base = {"config": {"recovered": 5, "procedural": 5, "mixed": 0}}
    assert beyond_words.images([whole]) == "100 images: 10% recovered, 40% procedural, 50% mixtures."
    assert beyond_words.variants_images([whole], [base]) == (
        "The base has 10 images, 10% of the method's 100: 50% recovered, 50% procedural, 0% mixtures."
    )


def test_without_centring_every_number_of_shots_is_named():
    found = {"1 none": 35.1, "5 none": 50.0, "1 episodes": [], "5 episodes": []}
    (words,) = adapting.uncentred([{"dataset": "glyphs", "extra": found}])
    assert words.endswith("35.1 % with 1 shot, 50.0 % with 5 shots.")


def test_the_cpu_profile_adds_glyphs_and_keeps_each_data_sets_seeds():
    profile = get_profile("cpu").for_experiment("beyond")
    found = {(unit.dataset, unit.seed) for unit in beyond.units(profile) if unit.method == beyond.METHOD}
    assert found == {("cifar-fs", 0), ("cifar-fs", 1), ("cifar-fs", 2)} | {
        (name, 0) for name in ("mini-imagenet", "cub", "glyphs")
    }
    assert get_profile("cpu").datasets == ("cifar-fs", "mini-imagenet", "cub")

"""Each claim on accuracies, on records that would make it true, false or unclear; nothing is trained."""

from dataclasses import replace

from made_records import CLAIMED, FREE, MIXED, by_method

from freelib.experiments.claims import CLAIMS, QUESTIONS, SOURCES, all_verdicts
from freelib.experiments.claims_accuracy import beats_published
from freelib.experiments.verdicts import FAILS, FAILS_SO_FAR, HOLDS, HOLDS_IN_PART, OPEN, SO_FAR, UNCLEAR
from freelib.run.units import Unit


def test_without_records_nothing_is_claimed(evidence):
    verdicts = all_verdicts(evidence())
    assert {verdict.verdict for verdict in verdicts.values()} == {OPEN}
    assert all(verdict.notebooks for verdict in verdicts.values())
    assert len(verdicts) == len(CLAIMS)
    assert {name for names in QUESTIONS.values() for name in names} <= set(verdicts)
    assert set(SOURCES) == {name for name, verdict in verdicts.items() if not verdict.ours}
    alone = evidence(table1=by_method(free=0))
    assert beats_published(alone).verdict == OPEN


def test_a_claim_holds_where_the_paired_interval_is_above_zero(evidence):
    def accuracies(unit):
        if unit.method == "ota":
            return [48.0, 49.5, 50.0, 48.5]
        if unit.method == "best_teacher":
            return [51.5, 51.5, 52.5, 52.5]
        return by_method(free=0, random=-9, pool_features=5)(unit)

    found = all_verdicts(evidence(table1=accuracies))
    published = found["beats_published"]
    assert published.verdict == SO_FAR
    measured = "1 of 1 columns measured, 1 of them not with all methods and seeds"
    assert published.finding == f"FREE minus OTA: +3.0 ± 0.4 points; {measured}; one seed in 1 of 1"
    assert published.numbers[2:4] == (
        "The order is judged, not the margin. The paper's, over the strongest: 1.42 to 4.78 points; here "
        f"FREE minus OTA: +3.0 ± 0.4 points; {measured}; one seed in 1 of 1.",
        "CIFAR-FS, 1-shot: trained longer than FREE, by the shortest seeds: none; "
        "less than half as long: none.",
    )
    assert published.missing == ("CIFAR-FS, 1-shot: Average, DRO, PURER, BiDf-MKD",)
    assert published.numbers[0].startswith("CIFAR-FS, 1-shot: FREE is 3.0 ± 0.4 points above the strongest")
    assert found["beats_best_teacher"].verdict == UNCLEAR  # +0.0
    assert found["beats_pool_features"].verdict == FAILS
    assert found["beats_pool_features"].numbers == (
        "FREE, points: CIFAR-FS, 1-shot: −5.0 ± 0.0 against Pool features, one seed",
    )


def test_the_releases_settings_stand_beside_the_others_with_both_trainings_seconds(evidence):
    def released(unit):
        together = unit.overrides.get("memory_tasks") == "last" and "distillation" in unit.overrides
        full = not unit.overrides and unit.selection == "validation"
        return [v - 6 for v in FREE] if together else FREE if full else None

    found = beats_published(evidence(table1=by_method(free=0, purer=-3), table4=released))
    assert "; with the release's settings (table 4: " in found.finding
    assert (
        "CIFAR-FS, 1-shot: FREE 46.0 ± 0.8 % (trained 10 s by the wall's clock), PURER in table 1 49.0"
        in (found.finding)
    )
    assert found.finding.endswith("% (trained 10 s by the wall's clock)")


def test_a_setting_without_records_is_named(evidence):
    """One of two data sets: what holds there holds only so far."""
    profile = replace(CLAIMED, datasets=("cifar-fs", "cub"))

    def accuracies(unit):
        return None if unit.dataset == "cub" else [v - 3 * (unit.method != "free") for v in FREE]

    found = all_verdicts(evidence(profile, table1=accuracies))
    assert found["beats_published"].verdict == SO_FAR
    assert found["beats_published"].missing == ("CUB, 1-shot: all",)
    assert "1 of 2 columns" in found["beats_published"].finding


def test_columns_with_every_rival_are_told_from_those_without(evidence):
    profile = replace(CLAIMED, datasets=("cifar-fs", "cub"))

    def accuracies(unit):
        if unit.dataset == "cub" and unit.method == "purer":
            return None
        lower = 0 if unit.method == "free" else 3 if unit.dataset == "cifar-fs" else 8
        return [v - lower for v in FREE]

    finding = all_verdicts(evidence(profile, table1=accuracies))["beats_published"].finding
    assert ": +3.0 to +8.0 points; 2 of 2 columns" in finding
    assert finding.endswith(" (with all methods 1: +3.0 ± 0.0 points); one seed in 2 of 2")


def test_a_claim_on_another_method_is_held_against_that_method(evidence):
    found = all_verdicts(
        evidence(table1=by_method(pool_distillation=7, pool_features=5, best_teacher=8, oracle_protonet=20))
    )
    assert found["beats_pool_features"].verdict == OPEN  # FREE was not run
    assert found["distilled_beats_pool"].verdict == HOLDS
    assert found["distilled_beats_pool"].finding.startswith("Pool distillation minus Pool features: +2.0")
    assert found["distilled_beats_best_teacher"].verdict == FAILS
    assert found["distilled_beats_oracle"].verdict == FAILS


def test_a_claim_holds_where_all_is_measured(evidence):
    lower = dict.fromkeys(("random", "average", "ota", "dro", "purer", "bidf_mkd"), -3)
    verdict = beats_published(evidence(table1=by_method(free=0, **lower)))
    assert (verdict.verdict, verdict.missing) == (HOLDS, ())


def test_a_column_against_a_claim_that_holds_elsewhere_is_named(evidence):
    profile = replace(CLAIMED, datasets=("cifar-fs", "cub"))

    def accuracies(unit):
        gap = {"pool_distillation": 0, "pool_features": -2 if unit.dataset == "cifar-fs" else 5}
        return by_method(**gap)(unit)

    verdict = all_verdicts(evidence(profile, table1=accuracies))["distilled_beats_pool"]
    assert verdict.verdict == HOLDS_IN_PART
    assert verdict.finding.endswith("; for it: 1 of 2 columns; against it: CUB, 1-shot −5.0")


def test_a_rival_of_a_lower_mean_may_still_be_level(evidence):
    def accuracies(unit):
        noisy = [v + gap for v, gap in zip(FREE, (-9, 9, -9, 4.5), strict=True)]
        return noisy if unit.method == "dro" else by_method(free=0, ota=-1)(unit)

    verdict = beats_published(evidence(table1=accuracies))
    assert verdict.verdict == UNCLEAR
    level = [text for text in verdict.numbers if text.startswith("Not told apart, though of a lower mean: ")]
    assert [text.endswith("against DRO, one seed") for text in level] == [True]


def test_a_mixed_pool_is_held_against_what_was_run_on_it(evidence):
    found = all_verdicts(
        evidence(
            table2=by_method(free=0, random=-2, pool_features=9),
            table3=by_method(free=0, random=2, pool_features=9),
        )
    )
    domains = found["beats_on_mixed_domains"]
    assert domains.claim.endswith("FREE is ahead on each of them (of Random)")  # what the profile runs there
    assert domains.verdict == SO_FAR
    judged = [text for text in domains.numbers if not text.startswith("Not judged")]
    assert [text.split(",")[1] for text in judged] == [
        f" points: {name}" for name in ("CIFAR-FS", "mini-ImageNet", "CUB")
    ]
    mean = (
        "Not judged, as its data sets are: FREE, points: mean of the three, 1-shot: +2.0 ± 0.0 against Random"
    )
    assert domains.numbers[3].startswith(mean)
    pool = "Not judged, the pool itself: CIFAR-FS, 1-shot: −9.0 ± 0.0 against Pool features, one seed"
    assert domains.numbers[4] == pool
    assert domains.missing == ("not among this profile's runs: Average, OTA, DRO, PURER, BiDf-MKD",)
    architectures = found["beats_on_mixed_architectures"]
    assert architectures.verdict == FAILS_SO_FAR
    assert architectures.finding == "FREE minus Random: −2.0 ± 0.0 points; one seed in 1 of 1"
    assert "OTA" not in architectures.missing[0]  # it can't use such a pool


def test_the_mean_of_a_mixed_pool_is_no_column_of_its_own(evidence):
    """Level with the features on each data set, by intervals that their mean is too narrow for."""

    def accuracies(unit):
        wide = [v + gap for v, gap in zip(FREE, (-5, 5.5, -5, 5.5), strict=True)]
        return {"pool_distillation": [v + 3 for v in FREE], "pool_features": wide}.get(unit.method)

    profile = replace(
        CLAIMED,
        experiments={"table2": {"datasets": (MIXED,), "methods": ("pool_distillation", "pool_features")}},
    )
    found = all_verdicts(evidence(profile, table2=accuracies))["distilled_beats_mixed_pools"]
    assert found.verdict == UNCLEAR
    assert [text.startswith("Not judged") for text in found.numbers] == [False, False, False, True]


def test_one_seed_has_to_reach_what_the_methods_own_seeds_tell(evidence):
    """FREE's accuracy moves by a point over seeds where there are three; the pool's features by none."""
    profile = replace(CLAIMED, datasets=("cifar-fs", "cub"), shots=(1, 5), seeds=(0, 1, 2), pool_seed=0)

    def accuracies(lead):
        def of(unit):
            if unit.method not in ("free", "best_teacher") or (unit.dataset == "cub" and unit.seed):
                return None
            ahead = lead if unit.dataset == "cub" else 9
            return [v + (unit.method == "free") * (ahead + unit.seed % 3 - 1) for v in FREE]

        return of

    level = all_verdicts(evidence(profile, table1=accuracies(3.5)))["beats_best_teacher"]
    assert level.verdict == HOLDS_IN_PART
    small = "CUB, 1-shot: +2.5 ± 0.0 against Best teacher, too small for one seed: below 2.8 points"
    assert f"FREE, points: {small}" in level.numbers
    clear = all_verdicts(evidence(profile, table1=accuracies(4.0)))["beats_best_teacher"]
    assert clear.verdict == SO_FAR


def test_units_of_the_test_are_those_of_table_1(evidence):
    there = evidence(table1=by_method(random=0))
    assert there.runs("table1").records[0]["experiment"] == "table1"
    assert Unit("table1", "free", "cifar-fs", 1, 0) in there.runs("table1").missing

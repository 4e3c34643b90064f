"""Each claim on parts and theory, on records that would make it true, false or unclear."""

from dataclasses import replace

import pytest
from made_records import CLAIMED, FREE, MIXED, made
from test_tables import record

from freelib.experiments.claims import all_verdicts
from freelib.experiments.evidence import PLANS
from freelib.experiments.verdicts import HOLDS, ONE_SEED, OPEN, SO_FAR, UNCLEAR


def test_a_part_helps_where_episodes_and_seeds_say_so(evidence):
    """Without alignment 2 points less in each seed; without replay less in one seed, more in another."""

    def accuracies(unit):
        if unit.overrides == {"alignment": "summed"}:
            return [v - 2 - 0.1 * unit.seed for v in FREE]
        if unit.overrides == {"replay_scope": "none"}:
            return [v - (1, -3, 5)[unit.seed] for v in FREE]
        if unit.overrides == {"replay_scope": "within"}:
            return FREE
        if unit.overrides.get("align_optimizer") and unit.seed < 2:
            return [v - 1 for v in FREE]
        return FREE if not unit.overrides and unit.selection == "validation" else None

    found = all_verdicts(evidence(table4=accuracies))
    helps = found["alignment_helps"]
    assert helps.verdict == SO_FAR
    assert (
        helps.finding
        == "aligned minus summed: +1.0 to +2.1 points; told from zero, and above it, in 2 of 2 comparisons"
    )
    assert helps.numbers[1] == (
        "CIFAR-FS, 1-shot, summed gradients: lower by 2.1 ± 0.0 points, "
        "over seeds −2.1 ± 0.2; by seed −2.0, −2.1, −2.2"
    )
    assert helps.numbers[2].startswith("CIFAR-FS, 1-shot, plain steps inside BelL: lower by 1.0 ± 0.0 points")
    assert helps.numbers[3].startswith(
        "On CIFAR-FS, 1-shot, summed gradients in place of aligned plain steps: lower by 1.0 ± 0.0 points"
    )
    assert [text.partition(":")[0] for text in helps.missing] == ["table 4", "table 2", "table 3"]
    assert helps.missing[0].endswith("align_inner_lr = 0.1 (seed 2)")
    assert found["replay_helps"].verdict == UNCLEAR  # the seeds do not agree
    assert found["five_helps"].verdict == OPEN
    assert found["replay_helps"].missing == ()
    mixing = found["mixing_helps"]
    assert mixing.verdict == UNCLEAR
    assert mixing.finding == "FREE minus FREE with replay within models: +0.0 ± 0.0 points over seeds"
    replay = found["replay_helps"].finding
    assert replay == "FREE minus FREE with no replay: +1.0 ± 9.9 points over seeds"


def test_parts_are_held_against_the_full_method_of_their_seed(evidence):
    def accuracies(unit):
        summed = unit.overrides == {"alignment": "summed"}
        full = not unit.overrides and unit.selection == "validation" and unit.seed == 1
        return FREE if full else [v - 2 for v in FREE] if summed else None

    helps = all_verdicts(evidence(table4=accuracies))["alignment_helps"]
    assert helps.numbers[1:] == ("CIFAR-FS, 1-shot, summed gradients: lower by 2.0 ± 0.0 points, one seed",)
    assert helps.missing[0].startswith(
        "table 4: CIFAR-FS, 1-shot: FREE (seeds 0, 2), FREE with align_optimizer"
    )
    assert (helps.verdict, helps.finding) == (ONE_SEED, "aligned minus summed: +2.0 ± 0.0 points, one seed")


def test_alignment_raises_agreement_by_the_interval_over_seeds(evidence):
    def agreement(aligned, seeds=(0, 1, 2)):
        records = []
        for profile, units in PLANS["figure5"](CLAIMED):
            for unit in units:
                value = aligned if not unit.overrides else 0.1
                columns = {
                    "teacher_agreement": [0.5, 0.6],
                    "measured_round": [1.0],
                    "cosine": [value + 0.001 * unit.seed],
                    "inner_product": [value],
                }
                if "+" not in unit.dataset and unit.seed in seeds:
                    records.append(made(unit, profile, FREE, history=columns))
        return records

    alone = all_verdicts(evidence(CLAIMED, *agreement(0.3, (0,))))["alignment_raises_agreement"]
    assert alone.verdict == ONE_SEED  # no interval, so nothing that could hold zero
    verdict = all_verdicts(evidence(CLAIMED, *agreement(0.3)))["alignment_raises_agreement"]
    assert verdict.verdict == SO_FAR
    assert verdict.missing == ("mean of the three, 1-shot: all",)
    assert "alignment raises the cosine" in verdict.finding
    assert "over 3 seeds" in verdict.finding
    assert "; aligned 0.301, summed 0.101)" in verdict.finding
    assert verdict.finding.endswith(". Measured in 1 rounds of each run")
    assert verdict.numbers[0].startswith("CIFAR-FS, cosine: aligned 0.301, summed 0.101, difference +0.200")
    assert len(verdict.numbers) == 2


def test_agreement_that_was_measured_beside_figure_5_is_shown(evidence):
    """Plain aligned steps of table 4 and the students of table 3, each with its pair of summed gradients."""
    records = []
    for name, chosen in (("table4", "sgd_inside"), ("table3", "adam")):
        for profile, units in PLANS[name](CLAIMED):
            for unit in units:
                summed = unit.overrides.get("alignment") == "summed"
                plain = unit.overrides.get("align_optimizer", "adam") == chosen
                kept = summed or plain or not unit.overrides
                if unit.method == "free" and unit.selection == "validation" and kept:
                    history = {
                        "teacher_agreement": [0.5, 0.6],
                        "measured_round": [1.0],
                        "inner_product": [1.0],
                    }
                    value = 0.1 if summed else 0.4 + 0.1 * unit.seed
                    records.append(made(unit, profile, FREE, history={**history, "cosine": [value]}))
    numbers = all_verdicts(evidence(CLAIMED, *records))["alignment_raises_agreement"].numbers
    beside = [text for text in numbers if text.startswith("Not judged, beside figure 5: ")]
    assert beside[0].endswith(
        "table 4, plain steps inside BelL: CIFAR-FS, cosine: aligned 0.5, summed 0.1, "
        "difference +0.400 ± 0.248 over 3 seeds"
    )
    assert beside[1].startswith("Not judged, beside figure 5: table 3, mixed architectures, student Conv4: ")
    assert beside[1].endswith("from one seed")


def test_lemma_and_distances_are_read_from_their_records(evidence):
    rates = [0.01, 0.02]
    rows = {"activation": ["tanh"] * 2, "n_tasks": [2] * 2, "seed": [0] * 2, "rate": rates}
    lemma = record("expansion", [1.0], extra=rows | {"residual": [r**3 for r in rates]})
    sums = {"sequential": [0.75, 0.755], "summed": [0.25, 0.245]}
    rows = {
        "seed": [0, 1],
        "round": [1, 1],
        **sums,
        "difference": [0.5, 0.51],
        "difference_cosine": [0.2, 0.2],
    }
    theorem = record("training", [1.0], extra=rows)
    near, far = [[0, 3], [3, 0]], [[0.01, 0.9], [0.9, 0.02]]
    extra = {"kinds": near, "distances": far, "accuracies": [0.8, 0.9], "domains": ["a", "b"]}
    spread = record("spread", [1.0], dataset=MIXED, extra=extra)
    found = all_verdicts(evidence(CLAIMED, lemma, theorem, spread))
    assert found["lemma_holds"].verdict == HOLDS
    assert "power of 3.00 to 3.00" in found["lemma_holds"].finding
    assert found["theorem_is_seen"].verdict == HOLDS
    assert found["theorem_is_seen"].finding == "+0.505 ± 0.064, cosine +0.200 ± 0.000, over 2 random problems"
    assert found["theorem_is_seen"].numbers == (
        "higher in 2 of 2 problems: from +0.500 to +0.510, means over training",
        "round 1: aligned 0.752, summed 0.247",
    )
    distances = found["pool_is_heterogeneous"]
    assert distances.verdict == UNCLEAR  # one pair
    assert distances.finding == (
        "energy distance of two tasks, different domains: +0.885 (one pair) against the same model, twice"
    )


@pytest.mark.parametrize(
    ("offsets", "order", "alignment"),
    [((-2,), SO_FAR, ONE_SEED), ((-2, -2.1, -1.9), SO_FAR, SO_FAR), ((1, -6, -1), UNCLEAR, UNCLEAR)],
)
def test_seeds_that_disagree_tell_no_methods_apart(evidence, offsets, order, alignment):
    """FREE against Random, whose chance is its own, and with summed gradients, in a mixed pool."""
    seeds = tuple(range(len(offsets)))
    profile = replace(CLAIMED, seeds=seeds, pool_seed=0)

    def accuracies(unit):
        if unit.method == "pool_features":
            return None
        full = unit.method == "free" and not unit.overrides
        return FREE if full else [value + offsets[unit.seed] for value in FREE]

    found = all_verdicts(evidence(profile, table2=accuracies))
    assert found["beats_on_mixed_domains"].verdict == order
    assert found["alignment_helps"].verdict == alignment

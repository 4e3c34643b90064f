from dataclasses import replace

import pytest
import torch
from fake_methods import TINY
from test_tables import record

from freelib.experiments import table4
from freelib.methods.free import FreeConfig
from freelib.run.profiles import get_profile
from freelib.run.units import make_config, unit_config
from freelib.storage import plain

FULL = FreeConfig(kd_heads="per_model", align_sweeps=3, lambda_bn=0.05)


def run_of(fields, accuracies, *, agreement=(0.0, 0.4, 0.6), **changes):
    """A record of FREE with some fields of its config set."""
    made = record("free", accuracies)
    history = {"teacher_agreement": list(agreement)}
    config = plain(replace(FULL, **fields))
    return {**made, "config": config, "selection": "validation", "history": history, **changes}


def test_variants_change_something_and_release_defaults_drop_what_they_already_are():
    changed = table4.variants(FULL)
    assert len(changed) == 16
    assert all(replace(FULL, **fields) != FULL for fields in changed.values())
    assert changed["generator from scratch, equal passes"]["scratch_steps"] == FULL.adapt_steps
    assert changed["without λ_bn"] == {"lambda_bn": 0.0}
    assert changed["recovery in bfloat16"] == {"precision": "bfloat16"}
    together = replace(FULL, **changed[table4.TOGETHER])
    assert (together.kd_heads, together.align_sweeps, together.distillation) == ("shared", 1, "release")
    release = table4.variants(FreeConfig())
    assert table4.variants(replace(FULL, precision="bfloat16"))["recovery in float32"] == {
        "precision": "float32"
    }
    assert "one align sweep" not in release  # one is what it takes
    assert release["a head for each model"] == {"kd_heads": "per_model"}
    assert release["with λ_bn"] == {"lambda_bn": 0.05}
    assert "cross-entropy alone" not in release  # that is without λ_adv, where there is no λ_bn


def test_units_are_the_full_method_its_variants_and_its_selections():
    profile = get_profile("cpu").for_experiment("table4")
    units = table4.units(profile, ["cifar-fs"], [1], [0, 1])
    # the second seed: the paper's three parts, plain steps, replay within models, the precision
    assert len(units) == (1 + 16 + 2) + (1 + 6)
    again = {str(unit_config(unit, profile)) for unit in units[19:]}
    assert again < {str(unit_config(unit, profile)) for unit in units[:19]}
    assert (units[0].overrides, units[0].selection) == ({}, "validation")
    assert [unit.selection for unit in units[17:19]] == ["test", "last"]
    configs = [unit_config(unit, profile) for unit in units[:17]]
    assert len({str(config) for config in configs}) == 17
    assert configs[0].rounds == 50


def test_rows_know_their_variant_their_difference_and_their_agreement():
    records = [
        run_of({}, [50.0, 60.0, 70.0]),
        run_of({}, [50.0, 60.0, 70.0], seed=1),
        run_of({"alignment": "summed"}, [40.0, 50.0, 60.0], agreement=(1.0, 0.3)),
        run_of({"alignment": "summed"}, [46.0, 56.0, 66.0], seed=1, agreement=(1.0, 0.5)),
        run_of({}, [51.0, 61.0, 71.0], selection="test"),
        run_of({}, [51.0, 61.0, 71.0], seed=1, selection="test"),
    ]
    rows = table4.rows(records)
    assert rows["variant"].tolist() == ["the full method", "summed gradients", "selected on the test classes"]
    assert rows["by_seed"].tolist() == [[0.0, 0.0], [-10.0, -4.0], [1.0, 1.0]]
    assert rows["difference"].tolist()[1:] == pytest.approx([-7.0, 1.0])
    assert rows["agreement"].tolist() == pytest.approx([50.0, 40.0, 50.0])
    assert table4.missing_parts(rows) == ["generator from scratch, equal passes", "no replay"]
    assert table4.claim(rows) == (
        "not judged while these are not measured: generator from scratch, equal passes; no replay"
    )
    made = table4.table(rows, "Table 4.")
    assert made.cells["by seed"].tolist() == ["", "−10.0, −4.0", "+1.0, +1.0"]
    assert "summed gradients: not told apart (−7.0 ± 0.0, over seeds −7.0 ± 38.1)." in made.note
    assert all(cell.endswith("†") for cell in made.cells["training, s"])
    assert made.note.endswith("†: by the wall's clock, where a run's processor time is not known.")


def test_the_claim_needs_every_part_measured_and_worse():
    settings = table4.variants(FULL)
    seeds = (0, 1)

    def both(fields, accuracies):
        return [run_of(fields, accuracies, seed=seed) for seed in seeds]

    full = both({}, [50.0, 60.0, 70.0])
    parts = [both(settings[words], [40.0, 51.0, 60.0]) for words in table4.PARTS]
    assert table4.claim(table4.rows(sum(parts, full))) == "holds"
    assert table4.every_part_helps(table4.rows(sum(parts, full)))
    first = [record for record in sum(parts, full) if record["seed"] == 0]
    assert table4.claim(table4.rows(first)) == "one seed"
    parts[1] = both(settings[table4.PARTS[1]], [52.0, 63.0, 70.0])
    assert table4.claim(table4.rows(sum(parts, full))) == "holds in part"
    assert not table4.every_part_helps(table4.rows(sum(parts, full)))


def test_what_chance_moves_warns_of_rows_with_one_seed():
    settings = table4.variants(FULL)
    (rounded,) = (fields for words, fields in settings.items() if words in table4.ROUNDING)
    records = [
        run_of({}, [50.0, 60.0, 70.0]),
        run_of({}, [50.0, 60.0, 70.0], seed=1),
        run_of(rounded, [51.0, 61.0, 71.0]),
        run_of(rounded, [47.5, 57.5, 67.5], seed=1),
    ]
    records.append(run_of({"alignment": "summed"}, [47.0, 57.0, 67.0]))
    few = table4.rows(records)
    assert table4.of_one_seed(few) == ""  # one degree of freedom
    (summed,) = few[few["variant"] == "summed gradients"].to_dict("records")
    assert table4.verdict(summed) == "lower by 3.0 ± 0.0 points, one seed"
    for seed, values in enumerate(([48.0, 58.0, 68.0], [50.5, 60.5, 70.5], [49.5, 59.5, 69.5])):
        records += [run_of({}, [50.0, 60.0, 70.0], seed=seed + 2)]
        records += [run_of(rounded, values, seed=seed + 2)]
    values = torch.tensor([1.0, -2.5, -2.0, 0.5, -0.5])  # four degrees of freedom
    assert table4.moved_by_chance(table4.rows(records)) == pytest.approx(
        2.776 * float(values.std()), rel=1e-3
    )
    words = "has a half-width of 4.2 points, by the spread over seeds of the rows that have several"
    assert words in table4.of_one_seed(table4.rows(records))
    (summed,) = (row for row in table4.rows(records).to_dict("records") if row["variant"] == table4.PARTS[1])
    assert table4.verdict(summed) == "not told apart (−3.0 ± 0.0, too small for one seed: below 4.2 points)"
    assert "summed gradients: not told apart" in table4.conclusion(table4.rows(records))
    assert not {"floor", "by_seed"} & set(table4.table(table4.rows(records), "").rows.columns)
    assert table4.of_one_seed(table4.rows(records[:4])) == ""  # every row has two


def test_a_selection_of_the_same_round_is_called_the_same():
    full = run_of({}, [50.0, 60.0, 70.0])
    same, other = ({**full, "selection": selection} for selection in ("test", "last"))
    other["episode_accuracies"] = [50.0, 60.0, 71.0]
    words = "For *selected on the test classes* the round is the full method's own: these rows are the same"
    assert table4.same_round(table4.rows([full, same, other])).startswith(words)
    assert table4.same_round(table4.rows([full, other])) == ""


def test_plain_aligned_steps_are_held_against_summed_gradients():
    plain_steps = table4.variants(FULL)[table4.PLAIN]
    full, other = run_of({}, [70.0, 70.0, 70.0]), run_of({"memory_tasks": "last"}, [10.0, 10.0, 10.0])
    summed = run_of({"alignment": "summed"}, [49.0, 60.0, 68.0])
    assert table4.plain_sentences([full, other, summed]) == ""
    aligned = run_of(plain_steps, [50.0, 61.0, 69.0])
    assert table4.variant(aligned, FULL) == table4.PLAIN
    assert table4.plain_sentences([full, other, summed, aligned]) == (
        "On CIFAR-FS, 1-shot, summed gradients in place of aligned plain steps: lower by 1.0 ± 0.0 points, "
        "one seed."
    )
    later = [
        run_of({"alignment": "summed"}, [50.0, 61.0, 69.0], seed=1),
        run_of(plain_steps, [50.0] * 3, seed=1),
    ]
    assert "not told apart (+4.5 ± " in table4.plain_sentences([summed, aligned, *later])


def test_a_record_of_something_else_is_refused():
    with pytest.raises(ValueError, match="none of the ablation's variants"):
        table4.variant(run_of({"ngf": 7}, [50.0]), FULL)


def test_verdicts():
    def said(*values):
        names = ("difference", "difference_ci95", "seed_difference", "seed_difference_ci95")
        return table4.verdict({"title": "FREE", **dict(zip(names, values, strict=True))})

    one = (float("nan"), float("nan"))
    assert said(-1.25, 0.4, *one) == "lower by 1.2 ± 0.4 points, one seed"
    assert said(2.0, 0.4, *one) == "higher by 2.0 ± 0.4 points, one seed"
    assert said(0.3, 0.4, *one) == "not told apart (+0.3 ± 0.4, one seed)"
    assert said(-0.4, 0.3, -0.4, 0.2) == "lower by 0.4 ± 0.3 points, over seeds −0.4 ± 0.2"
    assert said(-0.4, 0.3, -0.4, 0.6) == "not told apart (−0.4 ± 0.3, over seeds −0.4 ± 0.6)"


def test_a_run_makes_a_record_for_every_row(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(table4, "run_grid", lambda units, *_, **__: asked.extend(units) or [])
    table4.run(TINY, results=tmp_path, seeds=[3])
    assert len(asked) == 1 + len(table4.variants(make_config("free", {}))) + 2
    assert {(unit.experiment, unit.seed) for unit in asked} == {("table4", 3)}

import math

import pandas as pd
import pytest
from test_recovery_cost import curves
from test_tables import record

from freelib.experiments import table5


def costs():
    """One task: FIve in 2 passes, the others in 6."""
    return curves(
        {"five": [0.5, 0.8], "scratch": [0.2, 0.4, 0.6, 0.8, 0.9, 1.0], "pixels": [0.1] * 6},
        {"five": 4.0, "scratch": 12.0, "pixels": 6.0},
    )


def learners():
    """FREE whole and with generators from scratch, and PURER; BiDf-MKD was not run."""
    base = {"dataset": "glyphs"}
    return [
        record("free", [30.0, 32.0], config={"recovery": "meta", "warmup_rounds": 5}, **base),
        record("free", [20.0, 24.0], config={"recovery": "scratch", "warmup_rounds": 0}, **base),
        record("purer", [21.0, 23.0], config={}, **base),
    ]


def test_each_way_has_its_cost_and_its_learner():
    rows = table5.rows(costs(), learners())
    assert rows["way"].tolist() == [
        "FIve, warm",
        "a generator from scratch, as many passes",
        "a generator from scratch",
        "pixels, as PURER's",
    ]
    assert rows["passes"].tolist() == [2, 2, 6, 6]
    assert rows["seconds"].tolist() == pytest.approx([4, 4, 12, 6])
    assert rows["agreement"].tolist() == pytest.approx([80, 40, 100, 10])
    assert rows["learner"].tolist() == ["FREE", "FREE, generators from scratch", "", "PURER"]
    assert rows["accuracy"].tolist()[:2] == [31, 22]
    assert math.isnan(rows["accuracy"][2])


def test_our_own_method_stands_beside_the_images_that_it_has_a_part_of():
    ours = record("pool_distillation", [40.0, 42.0], config={}, dataset="glyphs")
    rows = table5.rows(costs(), [*learners(), ours])
    assert rows["learner"].tolist()[:2] == ["FREE", "Pool distillation"]
    assert (
        rows[["way", "passes", "seconds"]].iloc[0].tolist()
        == rows[["way", "passes", "seconds"]].iloc[1].tolist()
    )
    table = table5.cost_table(rows, "smoke", 50)
    assert table.cells["learner"].tolist()[1] == "Pool distillation‡"
    assert "‡: Pool distillation learns from FIve's images of all models and, in the main" in table.note
    assert table5.worth(rows, [*learners(), ours]) == table5.worth(
        table5.rows(costs(), learners()), learners()
    )


def test_bidf_mkd_stands_beside_the_passes_that_its_generators_had():
    def of_scratch(adapt_steps):
        bidf = record("bidf_mkd", [25.0, 27.0], config={"adapt_steps": adapt_steps}, dataset="glyphs")
        rows = table5.rows(costs(), [*learners(), bidf])
        own = rows[rows["way"] == "a generator from scratch"]
        return list(zip(own["passes"], own["learner"], strict=True))

    assert of_scratch(6) == [(6, "BiDf-MKD")]
    assert of_scratch(4) == [(4, "BiDf-MKD"), (6, "")]
    assert of_scratch(200) == [(6, "")]  # figure 1 has not so many


def test_table_for_readers():
    table = table5.cost_table(table5.rows(costs(), learners()), "smoke", 50)
    assert "a task of 50 images" in table.caption
    assert "(how many: glyphs 1); the learner's, of the first seed, mean" in table.caption
    assert table.cells["teacher agreement, % (lowest to highest)"].tolist()[0] == "80.0 (80.0 to 80.0)"
    assert table.cells["images through the model"].tolist() == [100, 100, 300, 300]
    learners_shown = ["FREE", "FREE, generators from scratch", "–", "PURER‡"]
    assert table.cells["learner"].tolist() == learners_shown
    assert table.cells["its accuracy, %"].tolist()[2:] == ["–", "22.0 ± 1.5"]
    assert table.note == (
        "‡: PURER was not trained on images recovered as in this row: it learned one set of pixels for the "
        "whole pool. –: no learner here was trained on such images."
    )
    bidf = record("bidf_mkd", [25.0, 27.0], config={"adapt_steps": 6}, dataset="glyphs")
    whole = table5.cost_table(table5.rows(costs(), [*learners(), bidf]), "smoke", 50)
    assert "BiDf-MKD and PURER are trained in their papers' own ways" in whole.note
    assert "–" not in whole.note
    assert table.cells["data set"].tolist() == ["glyphs"] * 4


def test_when_the_meta_generator_has_paid_off():
    measured = [{"dataset": "glyphs", "extra": {"before": {"seconds": 40.0, "passes": 20}}}]
    start = "On glyphs the meta-generator's own training took 20 passes (40 s) before. "
    assert table5.conclusion(costs(), measured) == (
        start
        + "FIve takes 2 a task, a generator from scratch 4 to the same agreement: that saves 2, and has "
        "paid off after 10 tasks."
    )
    early = costs().query("way != 'scratch'")
    # as many passes, though they took longer: the clock is no saving
    second = (
        costs().query("way == 'scratch'").assign(agreement=lambda t: 100.0 * (t["step"] > 1), seconds=99.0)
    )
    assert table5.conclusion(pd.concat([early, second]), measured) == (
        start + "FIve takes 2 a task, a generator from scratch 2 to the same agreement: that saves none, and "
        "its training is not paid back by later tasks."
    )
    never = costs().query("way != 'scratch' or step < 3")
    assert table5.conclusion(never, measured) == (
        start + "In most tasks a generator from scratch does not reach FIve's agreement."
    )


def test_what_the_images_are_worth_with_equal_passes():
    words = table5.worth(table5.rows(costs(), learners()), learners())
    assert words == (
        "On glyphs, with 2 passes each: FIve takes 4.00 s a task and reaches an agreement of 80.0 %, a "
        "generator from scratch 4.00 s and 40.0 %. The learner on FIve's images is better than the one on "
        "those. FREE, 1-shot, points: +9.0 ± 2.0 against FREE, generators from scratch, one seed."
    )
    drowned = table5.worth(table5.rows(costs(), learners()), learners(), floor=9.5)
    assert "can't be told apart from the one on those" in drowned
    assert "9.5" in drowned
    assert "is better than" in table5.worth(table5.rows(costs(), learners()), learners(), floor=8.5)
    free, scratch, _ = learners()
    worse = [free, {**scratch, "episode_accuracies": [40.0, 41.0]}]
    assert "is worse than" in table5.worth(table5.rows(costs(), worse), worse)
    close = [free, {**scratch, "episode_accuracies": [29.0, 33.0]}]
    assert "can't be told apart from" in table5.worth(table5.rows(costs(), close), close)
    assert table5.worth(table5.rows(costs(), [free]), [free]).endswith("no verdict on the images.")

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


def test_table_for_readers():
    table = table5.cost_table(table5.rows(costs(), learners()), "smoke", 50)
    assert "a task of 50 images" in table.caption
    assert "over 1 tasks" in table.caption
    assert table.cells["images through the model"].tolist() == [100, 100, 300, 300]
    assert table.cells["its accuracy, %"].tolist()[2] == ""
    assert table.cells["data set"].tolist() == ["glyphs"] * 4


def test_when_the_meta_generator_has_paid_off():
    measured = [{"dataset": "glyphs", "extra": {"before": {"seconds": 40.0}}}]
    assert table5.conclusion(costs(), measured) == (
        "On glyphs the meta-generator's own training took 40 s before; at equal agreement it saves 4.0 s a "
        "task, and pays off after 10 of them."
    )
    early = costs().query("way != 'scratch'")
    quick = costs().query("way == 'scratch'").assign(agreement=100.0)
    assert table5.conclusion(pd.concat([early, quick]), measured).endswith(
        "before; at equal agreement it saves nothing against a generator from scratch."
    )
    never = costs().query("way != 'scratch' or step < 3")
    assert table5.conclusion(never, measured) == (
        "On glyphs the meta-generator's own training took 40 s before."
    )

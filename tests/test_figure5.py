import numpy as np
import pytest
from test_tables import record

from freelib.experiments import figure5


def trained(alignment, seed, cosines):
    """A record with the agreement in rounds 2, 4, …; the inner products are twice the cosines."""
    rounds = [2.0 * (i + 1) for i in range(len(cosines))]
    columns = {"measured_round": rounds, "cosine": cosines, "inner_product": [2 * c for c in cosines]}
    config = {"alignment": alignment}
    return record("free", [1.0, 2.0], seed=seed, history=columns, config=config)


RECORDS = [
    trained("sequential", 0, [0.1, 0.3]),
    trained("sequential", 1, [0.2, 0.4]),
    trained("summed", 0, [0.1, 0.1]),
    trained("summed", 1, [0.1, 0.2]),
]


def test_rows_and_rounds():
    table = figure5.rows(RECORDS)
    assert len(table) == 8
    found = figure5.by_round(table, "cosine")
    assert found.loc[("sequential", 2.0)].tolist() == pytest.approx([0.1, 0.2])  # a seed each
    together = figure5.by_round(table, "cosine", windows=1)
    assert together.loc[("sequential", 3.0)].tolist() == pytest.approx([0.2, 0.3])
    with pytest.raises(ValueError, match="measure_every"):
        figure5.rows([record("free", [1.0, 2.0])])


def test_differences_are_paired_by_seed():
    found = figure5.differences(figure5.rows(RECORDS)).set_index("measure")
    gaps = np.array([0.1, 0.15])
    assert found.loc["cosine", "difference"] == pytest.approx(gaps.mean())
    assert found.loc["cosine", "ci95"] == pytest.approx(12.7062 * gaps.std(ddof=1) / 2**0.5, rel=1e-4)
    assert found.loc["inner_product", "difference"] == pytest.approx(2 * gaps.mean())
    assert not found.loc["cosine", "raises"]
    cells = figure5.difference_table(found.reset_index()).cells
    assert cells["aligned − summed"].tolist() == ["+0.125 ± 0.318", "+0.250 ± 0.635"]
    sentence = figure5.conclusion(found.reset_index())
    assert sentence.startswith("On CIFAR-FS alignment does not measurably change the cosine")
    assert "; aligned 0.250, summed 0.125: the interval is wider than the cosine itself" in sentence


def test_a_clear_difference_is_called_so():
    clear = [trained("sequential", s, [0.5 + 0.01 * s]) for s in range(3)]
    clear += [trained("summed", s, [0.1]) for s in range(3)]
    found = figure5.differences(figure5.rows(clear))
    assert found["raises"].all()
    assert "raises the cosine" in figure5.conclusion(found)


def test_one_seed_has_no_interval_and_no_verdict():
    found = figure5.differences(figure5.rows([trained("sequential", 0, [0.5]), trained("summed", 0, [0.1])]))
    assert not found["raises"].any()
    sentence = figure5.conclusion(found)
    assert sentence.endswith(
        "a difference in the cosine of the tasks' gradients (+0.400, one seed: no interval)."
    )
    assert figure5.difference_table(found).cells["aligned − summed"].tolist() == ["+0.400", "+0.800"]


def test_the_figure_has_a_line_a_kind():
    figure = figure5.agreement_figure(figure5.rows(RECORDS))
    left, right = figure.axes
    assert left.lines[0].get_ydata().tolist() == pytest.approx([0.1, 0.3])  # a seed, then the other
    assert left.lines[2].get_ydata().tolist() == pytest.approx([0.15, 0.35])  # their mean
    assert right.lines[5].get_ydata().tolist() == pytest.approx([0.2, 0.3])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(figure5.KINDS.values())
    assert figure.legends[0].get_title().get_text() == "mean of 2 seeds; thin lines: single seeds"


@pytest.mark.parametrize("measured", [1, 2, 5])
def test_rounds_are_whole_numbers(measured):
    records = [trained(kind, s, [0.1] * measured) for kind in figure5.KINDS for s in (0, 1)]
    for axis in figure5.agreement_figure(figure5.rows(records)).axes:
        low, high = axis.get_xlim()
        ticks = [tick for tick in axis.get_xticks() if low <= tick <= high]
        assert ticks
        assert all(tick == round(tick) for tick in ticks)

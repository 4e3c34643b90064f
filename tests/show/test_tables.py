import math

import pandas as pd

from freelib.show.tables import plus_minus, rounded, save_table, signed


def test_numbers_as_text():
    assert plus_minus([31.24, 5.0, math.nan], [0.75, math.nan, 1.0]) == ["31.2 ± 0.8", "5.0", ""]
    assert signed([1.24, -0.04, -2.0, math.nan], [0.5, math.nan, 0.06, 1.0]) == ["+1.2 ± 0.5", "+0.0", "−2.0 ± 0.1", ""]
    assert signed([0.1234], [0.01], 3) == ["+0.123 ± 0.010"]
    assert rounded([1.26, math.nan], 1) == ["1.3", ""]


def test_a_table_is_shown_as_markdown_and_saved_with_its_numbers(tmp_path):
    cells = pd.DataFrame({"method": ["a|b", "<img\n>"], "accuracy, %": ["31.2 ± 0.8", "1"]})
    numbers = pd.DataFrame({"accuracy": [31.2345678, 1.0]})
    table = save_table(cells, tmp_path, "cpu", "t", rows=numbers)
    shown = table._repr_markdown_()
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown.replace("\\|", "/").splitlines()]
    assert lines[0] == ["method", "accuracy, %"]
    assert lines[2:] == [["a/b", "31.2 ± 0.8"], ["&lt;img &gt;", "1"]]
    assert (tmp_path / "cpu/tables/t.md").read_text() == shown + "\n"
    assert (tmp_path / "cpu/tables/t.csv").read_text() == "accuracy\n31.2346\n1\n"
    assert repr(table).split()[:6] == ["method", "accuracy,", "%", "a|b", "31.2", "±"]

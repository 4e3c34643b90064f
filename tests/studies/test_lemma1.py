from itertools import permutations

import numpy as np
import pandas as pd
import pytest
import torch

from studies import lemma1

RATES = (0.002, 0.005, 0.01)


def gradient(heads, task):
    """∇L_KD(θ; task) of a student with tanh, from the formulas: by name, encoder and head."""
    weights = {name: p.detach() for name, p in heads.learner.params.items()}
    x = task.images.flatten(1)
    hidden = torch.tanh(x @ weights["encoder.weight"].T + weights["encoder.bias"])
    given = (hidden @ weights["head.weight"].T + weights["head.bias"]).softmax(1)
    error = (given - task.teacher_logits.softmax(1)) / len(x)  # the gradient of KL by the student's logits
    back = (error @ weights["head.weight"]) * (1 - hidden**2)
    parts = {"encoder.weight": back.T @ x, "encoder.bias": back.sum(0)}
    parts |= {"head.weight": error.T @ hidden, "head.bias": error.sum(0)}
    return torch.cat([parts[name].flatten() for name in weights])


def test_the_terms_by_hand():
    heads, tasks = lemma1.small_problem("tanh", seed=3)
    total, ascent = lemma1.predicted_terms(heads, tasks)
    gradients = [gradient(heads, task) for task in tasks]
    torch.testing.assert_close(total, sum(gradients))
    # Σ_{i<j} g_i · g_j = (‖Σ g_i‖² − Σ ‖g_i‖²) / 2: its gradient by central differences along one direction
    direction = torch.randn(len(total), generator=torch.Generator().manual_seed(0)).double()

    def pairs(step):
        moved, start = lemma1.small_problem("tanh", seed=3)[0], 0
        with torch.no_grad():
            for p in moved.learner.params.values():
                p += step * direction[start : start + p.numel()].view(p.shape)
                start += p.numel()
        found = [gradient(moved, task) for task in tasks]
        return (sum(found).square().sum() - sum(g.square().sum() for g in found)) / 2

    assert float(ascent @ direction) == pytest.approx(float(pairs(1e-5) - pairs(-1e-5)) / 2e-5, rel=1e-6)


def test_the_expected_displacement_is_the_mean_over_all_orders():
    heads, tasks = lemma1.small_problem("tanh", seed=1)
    moves = []
    for order in permutations(tasks):
        moving, _ = lemma1.small_problem("tanh", seed=1)
        start = torch.cat([p.detach().flatten().clone() for p in moving.learner.params.values()])
        for task in order:
            step, at = gradient(moving, task), 0
            with torch.no_grad():
                for p in moving.learner.params.values():
                    p -= 0.1 * step[at : at + p.numel()].view(p.shape)
                    at += p.numel()
        moves.append(start - torch.cat([p.detach().flatten() for p in moving.learner.params.values()]))
    torch.testing.assert_close(lemma1.expected_displacement(heads, tasks, 0.1), sum(moves) / 6)


@pytest.mark.parametrize(("activation", "expected"), lemma1.EXPECTED_SLOPES.items())
def test_slope_is_3_only_where_the_hessian_is_lipschitz(activation, expected):
    heads, tasks = lemma1.small_problem(activation, seed=0)
    found = lemma1.slope(RATES, lemma1.residuals(heads, tasks, RATES))
    assert found == pytest.approx(expected, abs=0.1)


def test_the_smooth_part_bends_the_line_where_the_rates_are_large():
    """Of all random problems the one that bends most: why `run` keeps to small α."""
    heads, tasks = lemma1.small_problem("u + |u|^2.5", seed=6, n_tasks=2)
    large, small = (0.005, 0.01, 0.02), (1e-4, 5e-4, 2e-3)
    assert lemma1.slope(large, lemma1.residuals(heads, tasks, large)) > 2.6
    assert lemma1.slope(small, lemma1.residuals(heads, tasks, small)) == pytest.approx(2.5, abs=0.05)


def test_slope_of_a_power():
    assert lemma1.slope(RATES, [7 * rate**2.5 for rate in RATES]) == pytest.approx(2.5)


def test_tables_and_figures_show_the_rows(tmp_path):
    rows, training = lemma1.run(results=tmp_path, seeds=2, n_tasks=(2,), rates=RATES, training_seeds=3, rounds=5)
    assert len(rows) == 3 * 2 * 3
    table = lemma1.slope_table(rows)
    assert table.cells["slope expected"].tolist() == ["3", "2.5 (Hessian not Lipschitz)", "2 (Hessian not Lipschitz)"]
    assert "only those rows test it" in table.note
    assert table.rows["mean"].to_numpy() == pytest.approx([3, 2.5, 2], abs=0.1)
    (axis,) = lemma1.expansion_figure(rows).axes
    assert (axis.get_xscale(), len(axis.lines)) == ("log", 3)
    tanh = rows[(rows["activation"] == "tanh") & (rows["rate"] == 0.002)]["residual"]
    assert axis.lines[0].get_ydata()[0] == pytest.approx(np.sqrt(tanh.prod()))
    figure = lemma1.training_figure(training)
    assert figure.get_suptitle() == "3 tasks, α = 0.2"
    left, _, cosines = figure.axes
    assert -1 <= cosines.lines[0].get_ydata().min() <= cosines.lines[0].get_ydata().max() <= 1
    first = training[training["round"] == 1]["sequential"].mean()
    assert left.lines[0].get_ydata()[0] == pytest.approx(first)
    again = lemma1.run(results=tmp_path, seeds=2, n_tasks=(2,), rates=RATES, training_seeds=3, rounds=5)
    pd.testing.assert_frame_equal(again[0], rows)


def test_alignment_raises_the_inner_product():
    """What Theorem 1 is about: at equal numbers of plain steps the tasks' gradients agree more."""
    mean, half_width = lemma1.mean_difference(lemma1.training(seeds=range(8), rate=0.2, rounds=30))
    assert mean - half_width > 0

"""Lemma 1's terms and the training beside it, against formulas by hand and loops."""

from itertools import permutations

import pytest
import torch

from studies import lemma

RATES = (0.002, 0.005, 0.01)
ORDERS = {"tanh": 3.0, "u + |u|^2.5": 2.5, "u + u|u|": 2.0}


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


@torch.no_grad()
def move(heads, step):
    """θ ← θ + step, a vector; gives θ."""
    start = 0
    for p in heads.learner.params.values():
        p += step[start : start + p.numel()].view(p.shape)
        start += p.numel()
    return torch.cat([p.flatten() for p in heads.learner.params.values()])


def test_the_terms_and_the_expected_displacement_by_hand():
    heads, tasks = lemma.small_problem("tanh", seed=3)
    total, ascent = lemma.predicted_terms(heads, tasks)
    torch.testing.assert_close(total, sum(gradient(heads, task) for task in tasks))
    # Σ_{i<j} g_i · g_j = (‖Σ g_i‖² − Σ ‖g_i‖²) / 2: its gradient by central differences along one direction
    direction = torch.randn(len(total), generator=torch.Generator().manual_seed(0)).double()

    def pairs(step):
        moved, _ = lemma.small_problem("tanh", seed=3)
        move(moved, step * direction)
        found = [gradient(moved, task) for task in tasks]
        return (sum(found).square().sum() - sum(g.square().sum() for g in found)) / 2

    assert float(ascent @ direction) == pytest.approx(float(pairs(1e-5) - pairs(-1e-5)) / 2e-5, rel=1e-6)
    heads, tasks = lemma.small_problem("tanh", seed=1)
    moves = []
    for order in permutations(tasks):
        moving, _ = lemma.small_problem("tanh", seed=1)
        start = move(moving, torch.zeros(100))
        for task in order:
            end = move(moving, -0.1 * gradient(moving, task))
        moves.append(start - end)
    torch.testing.assert_close(lemma.expected_displacement(heads, tasks, 0.1), sum(moves) / 6)


@pytest.mark.parametrize(("activation", "expected"), ORDERS.items())
def test_slope_is_3_only_where_the_hessian_is_lipschitz(activation, expected):
    heads, tasks = lemma.small_problem(activation, seed=0)
    found = lemma.slope(RATES, lemma.residuals(heads, tasks, RATES))
    assert found == pytest.approx(expected, abs=0.1)


def test_the_smooth_part_bends_the_line_where_the_rates_are_large():
    """Of all random problems the one that bends most: why the notebook keeps to small α."""
    heads, tasks = lemma.small_problem("u + |u|^2.5", seed=6, n_tasks=2)
    large, small = (0.005, 0.01, 0.02), (1e-4, 5e-4, 2e-3)
    assert lemma.slope(large, lemma.residuals(heads, tasks, large)) > 2.6
    assert lemma.slope(small, lemma.residuals(heads, tasks, small)) == pytest.approx(2.5, abs=0.05)
    assert lemma.slope(RATES, [7 * rate**2.5 for rate in RATES]) == pytest.approx(2.5)
    rows = lemma.expansion(n_seeds=2, n_tasks=(2, 3), rates=RATES)
    assert len(rows) == len(rows.drop(columns="residual").drop_duplicates()) == 3 * 2 * 2 * 3
    one = rows.query("activation == 'tanh' and n_tasks == 3 and seed == 1")
    assert one["residual"].tolist() == lemma.residuals(*lemma.small_problem("tanh", seed=1), RATES)


def test_rounds_of_sequential_and_joint_steps_by_a_loop():
    """With one order drawn a round, as `align` draws it."""
    rng, curves = torch.Generator().manual_seed(4), {"sequential": [], "summed": []}
    sequential, tasks = lemma.small_problem("tanh", seed=4)
    joint, _ = lemma.small_problem("tanh", seed=4)
    for _ in range(3):
        for i in torch.randperm(3, generator=rng).tolist():
            move(sequential, -0.2 * gradient(sequential, tasks[i]))
        move(joint, -0.2 * sum(gradient(joint, task) for task in tasks))
        for heads, curve in ((sequential, curves["sequential"]), (joint, curves["summed"])):
            a, b, c = (gradient(heads, task) for task in tasks)
            curve.append(float(a @ b + a @ c + b @ c) / 3)
    rows = lemma.training(n_seeds=5, rate=0.2, rounds=3, n_tasks=3).query("seed == 4")
    for kind, curve in curves.items():
        assert rows[kind].tolist() == pytest.approx(curve, rel=1e-9)
    assert rows["difference"].tolist() == pytest.approx((rows["sequential"] - rows["summed"]).tolist())
    assert rows[["sequential_cosine", "summed_cosine"]].abs().max(axis=None) <= 1
    # what Theorem 1 is about: after equal numbers of plain steps the tasks' gradients agree more
    gaps = lemma.training(n_seeds=8, rate=0.2, rounds=30, n_tasks=3).groupby("seed")["difference"].mean()
    assert gaps.mean() > 2.5 * gaps.sem()  # beyond the 95 % interval of Student's t with 7 degrees of freedom

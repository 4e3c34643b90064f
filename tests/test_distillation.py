import math

import pytest
import torch
from tiny_models import rng

from freelib.distillation import at_least_float32, kl_divergence, release_divergence


def test_kl_of_two_coins():
    teacher, student = torch.tensor([[0.25, 0.75]]).log(), torch.tensor([[0.5, 0.5]]).log()
    assert float(kl_divergence(teacher, student)) == pytest.approx(
        0.25 * math.log(0.5) + 0.75 * math.log(1.5), abs=1e-7
    )
    # the other way round it is another number: KL(student ‖ teacher)
    assert float(kl_divergence(student, teacher)) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-7)


def test_kl_is_zero_where_both_agree_and_above_zero_elsewhere():
    logits = torch.randn(50, 5, generator=rng(), dtype=torch.float64)
    assert kl_divergence(logits, logits + 3.0).abs().max() < 1e-12  # logits count up to a constant
    other = torch.randn(50, 5, generator=rng(1), dtype=torch.float64)
    assert kl_divergence(logits, other).min() > 1e-3


def test_kl_is_finite_for_a_certain_teacher_and_a_certain_student():
    sure = torch.tensor([[1000.0, -1000.0]])
    assert float(kl_divergence(sure, sure)) == 0
    assert float(kl_divergence(sure, -sure)) == pytest.approx(2000.0)


def test_the_releases_form_is_not_zero_where_both_agree():
    p = torch.tensor([[0.25, 0.75]])
    expected = 0.25 * (math.log(0.25) - 0.25) + 0.75 * (math.log(0.75) - 0.75)
    assert float(release_divergence(p.log(), p.log())) == pytest.approx(expected, abs=1e-6)
    assert expected < -1


def test_half_types_are_raised_and_double_stays():
    kinds = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
    raised = [at_least_float32(torch.ones(1, dtype=kind)).dtype for kind in kinds]
    assert raised == [torch.float32, torch.float32, torch.float32, torch.float64]

"""L_KD: the Kullback-Leibler divergence from a teacher's to a student's class probabilities (brief, part 2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def kl_divergence(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """KL(softmax teacher ‖ softmax student) of each image: `(n, n_way)` twice -> `(n,)`, in nats, at least 0."""
    teacher = F.log_softmax(teacher_logits.float(), 1)
    student = F.log_softmax(student_logits.float(), 1)
    return (teacher.exp() * (teacher - student)).sum(1)


def release_divergence(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """What the public release computes in its place: the student's *probabilities* stand where log-probabilities belong.

    Σ_c p_c (log p_c − q_c), `(n,)`. Not a divergence: it is not 0 where teacher and student agree. For the ablation.
    """
    teacher = F.log_softmax(teacher_logits.float(), 1)
    return (teacher.exp() * (teacher - F.softmax(student_logits.float(), 1))).sum(1)


DISTILLATION_LOSSES = {"kl": kl_divergence, "release": release_divergence}

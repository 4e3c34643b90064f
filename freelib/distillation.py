"""L_KD: the Kullback-Leibler divergence between a teacher's and a student's predictions (paper, part 2)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Half types as float32, for sums and logarithms; float32 and float64 stay."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def kl_divergence(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """KL(softmax teacher ‖ softmax student) of each image: `(n, n_way)` twice -> `(n,)`, in nats, at least 0.

    >>> kl_divergence(torch.zeros(1, 2), torch.zeros(1, 2))
    tensor([0.])
    """
    teacher = F.log_softmax(at_least_float32(teacher_logits), 1)
    student = F.log_softmax(at_least_float32(student_logits), 1)
    return (teacher.exp() * (teacher - student)).sum(1)


def release_divergence(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """The public release's form: the student's *probabilities* stand where log-probabilities belong.

    Σ_c p_c (log p_c − q_c), `(n,)`. No divergence: it is not 0 where the two agree. For the ablation.
    """
    teacher = F.log_softmax(at_least_float32(teacher_logits), 1)
    return (teacher.exp() * (teacher - F.softmax(at_least_float32(student_logits), 1))).sum(1)


DISTILLATION_LOSSES = {"kl": kl_divergence, "release": release_divergence}

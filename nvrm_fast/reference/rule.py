"""The update rules of torch.optim in one fixed order of operations, products and sums rounded apart.

Tensors are float32 (or float64 for float64 parameters). Scalars are combined in float64 and rounded once, by
`rounded`; the kernels do the same, so a whole step has the same bits everywhere. Add a rule here, in
csrc/optim/rule.h, and to the operators.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .elementary import power, rounded, square_root


def sgd(
    x: Tensor, g: Tensor, momentum_buffer: Tensor | None, *, is_first: bool, lr: float, momentum: float,
    dampening: float, weight_decay: float, nesterov: bool, maximize: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """torch.optim.SGD on clean weights x: the new weights and the new momentum buffer.

    is_first: the buffer holds nothing yet and becomes the gradient, without dampening.
    """
    r = lambda value: rounded(value, x.dtype)  # noqa: E731
    if maximize:
        g = -g
    if weight_decay != 0:
        g = g + r(weight_decay) * x
    if momentum != 0:
        if is_first or momentum_buffer is None:
            momentum_buffer = g
        else:
            momentum_buffer = r(momentum) * momentum_buffer + r(1 - dampening) * g
        g = g + r(momentum) * momentum_buffer if nesterov else momentum_buffer
    return x - r(lr) * g, momentum_buffer


def adam_scalars(step: int, lr: float, beta1: float, beta2: float) -> tuple[float, float]:
    """Adam's step_size = lr / (1 - beta1^step) and root_scale = 1 / sqrt(1 - beta2^step); step counts from 1."""
    return lr / (1 - power(beta1, step)), 1 / math.sqrt(1 - power(beta2, step))


def adam(
    x: Tensor, g: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, max_exp_avg_sq: Tensor | None, *, step: int, lr: float,
    beta1: float, beta2: float, eps: float, weight_decay: float, decoupled_weight_decay: bool, maximize: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:  # fmt: skip
    """torch.optim.Adam or AdamW (decoupled_weight_decay) on clean weights x, with amsgrad if max_exp_avg_sq is given.

    step counts from 1. Returns the new x, exp_avg, exp_avg_sq and max_exp_avg_sq.
    """
    r = lambda value: rounded(value, x.dtype)  # noqa: E731
    if maximize:
        g = -g
    shrink = r(1 - lr * weight_decay) if decoupled_weight_decay else 1.0
    if shrink != 1:
        x = x * shrink
    if weight_decay != 0 and not decoupled_weight_decay:
        g = g + r(weight_decay) * x
    exp_avg = r(beta1) * exp_avg + r(1 - beta1) * g
    exp_avg_sq = r(beta2) * exp_avg_sq + (r(1 - beta2) * g) * g
    second_moment = exp_avg_sq
    if max_exp_avg_sq is not None:
        max_exp_avg_sq = torch.where(max_exp_avg_sq >= exp_avg_sq, max_exp_avg_sq, exp_avg_sq)
        second_moment = max_exp_avg_sq
    step_size, root_scale = adam_scalars(step, lr, beta1, beta2)
    denominator = square_root(second_moment) * r(root_scale) + r(eps)
    return x - r(step_size) * (exp_avg / denominator), exp_avg, exp_avg_sq, max_exp_avg_sq

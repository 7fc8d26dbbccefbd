"""The update rules, in the order of operations of csrc/math/update_rule.h.

Everything is computed in the dtype of the clean weights x: float32, or float64 for float64 parameters. Hyper-parameters
are combined in float64 and rounded to that dtype once, before they meet a tensor. A function takes the state that its
specification (contract/rules.py) names and returns the new weights and the new state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..contract import rules
from .special_functions import power, rounded, square_root


def sgd(
    x: Tensor, g: Tensor, momentum_buffer: Tensor | None = None, *, is_first: bool, step: int, lr: float,
    momentum: float, dampening: float, weight_decay: float, nesterov: float, maximize: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    """torch.optim.SGD; without a momentum buffer there is no momentum.

    is_first: the buffer holds nothing yet and becomes the gradient, without dampening.
    """
    r = lambda value: rounded(value, x.dtype)  # noqa: E731
    if maximize:
        g = -g
    if weight_decay != 0:
        g = g + r(weight_decay) * x
    if momentum_buffer is None:
        return (x - r(lr) * g,)
    momentum_buffer = g if is_first else r(momentum) * momentum_buffer + r(1 - dampening) * g
    g = g + r(momentum) * momentum_buffer if nesterov else momentum_buffer
    return x - r(lr) * g, momentum_buffer


def adam(
    x: Tensor, g: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, max_exp_avg_sq: Tensor | None = None, *,
    is_first: bool, step: int, lr: float, beta1: float, beta2: float, eps: float, weight_decay: float,
    decoupled_weight_decay: float, maximize: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    """torch.optim.Adam or AdamW (decoupled_weight_decay), with amsgrad if max_exp_avg_sq is given.

    step counts from 1.
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
    step_size = r(lr / (1 - power(beta1, step)))
    root_scale = r(1 / math.sqrt(1 - power(beta2, step)))
    denominator = square_root(second_moment) * root_scale + r(eps)
    x = x - step_size * (exp_avg / denominator)
    return (x, exp_avg, exp_avg_sq) if max_exp_avg_sq is None else (x, exp_avg, exp_avg_sq, max_exp_avg_sq)


def lion(
    x: Tensor, g: Tensor, exp_avg: Tensor, *, is_first: bool, step: int, lr: float, beta1: float, beta2: float,
    weight_decay: float, maximize: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Lion (Chen et al. 2023, arXiv 2302.06675, algorithm 2): the sign of an interpolation, with decoupled decay."""
    r = lambda value: rounded(value, x.dtype)  # noqa: E731
    if maximize:
        g = -g
    shrink = r(1 - lr * weight_decay)
    if shrink != 1:
        x = x * shrink
    update = r(beta1) * exp_avg + r(1 - beta1) * g
    return x - r(lr) * update.sign(), r(beta2) * exp_avg + r(1 - beta2) * g


#: The function of each rule, by its code.
BY_CODE: dict[int, Callable[..., Any]] = {
    rules.SGD.code: sgd,
    rules.SGD_MOMENTUM.code: sgd,
    rules.ADAM.code: adam,
    rules.ADAM_AMSGRAD.code: adam,
    rules.LION.code: lion,
}

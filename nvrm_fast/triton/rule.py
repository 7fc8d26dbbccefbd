"""The update rules, one element at a time, in the order of operations of csrc/math/update_rule.h.

A rule gets the clean weight x, the gradient g, the state and the hyper-parameters, and returns the new weight and
state. Hyper-parameters are scalars of the type in which the rule computes, combined in float64 on the host and rounded
once.
"""

import triton
import triton.language as tl

from .elementary import divide, square_root


@triton.jit
def sgd(
    x, g, buffer, lr, momentum, one_minus_dampening, weight_decay, is_first, WITH_MOMENTUM: tl.constexpr,
    WITH_DECAY: tl.constexpr, NESTEROV: tl.constexpr, MAXIMIZE: tl.constexpr,
):  # fmt: skip
    """torch.optim.SGD. is_first: the buffer holds nothing yet and becomes the gradient."""
    if MAXIMIZE:
        g = -g
    if WITH_DECAY:
        g = g + weight_decay * x
    if WITH_MOMENTUM:
        buffer = tl.where(is_first, g, momentum * buffer + one_minus_dampening * g)
        if NESTEROV:
            g = g + momentum * buffer
        else:
            g = buffer
    return x - lr * g, buffer


@triton.jit
def adam(
    x, g, exp_avg, exp_avg_sq, max_exp_avg_sq, beta1, one_minus_beta1, beta2, one_minus_beta2, eps, weight_decay,
    shrink, step_size, root_scale, AMSGRAD: tl.constexpr, WITH_DECAY: tl.constexpr, DECOUPLED: tl.constexpr,
    MAXIMIZE: tl.constexpr,
):  # fmt: skip
    """torch.optim.Adam and AdamW. shrink = 1 - lr * weight_decay, step_size = lr / (1 - beta1^t) and
    root_scale = 1 / sqrt(1 - beta2^t)."""
    if MAXIMIZE:
        g = -g
    if WITH_DECAY:
        if DECOUPLED:
            x = x * shrink
        else:
            g = g + weight_decay * x
    exp_avg = beta1 * exp_avg + one_minus_beta1 * g
    exp_avg_sq = beta2 * exp_avg_sq + (one_minus_beta2 * g) * g
    second_moment = exp_avg_sq
    if AMSGRAD:
        max_exp_avg_sq = tl.where(max_exp_avg_sq >= exp_avg_sq, max_exp_avg_sq, exp_avg_sq)
        second_moment = max_exp_avg_sq
    denominator = square_root(second_moment) * root_scale + eps
    return x - step_size * divide(exp_avg, denominator), exp_avg, exp_avg_sq, max_exp_avg_sq

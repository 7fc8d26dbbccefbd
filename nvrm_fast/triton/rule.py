"""The update rules, one element at a time, in the order of operations of csrc/math/update_rule.h.

`combine` makes the numbers that a rule's formula needs out of its hyper-parameters and its step, in float64; they are
rounded once. `update` gets them, the clean weight x, the gradient g and the state, and returns the new weight and
state. No option is compiled in: a hyper-parameter may lie on the device and change within a captured graph.
"""

import triton
import triton.language as tl

from ..contract import rules
from .special_functions import divide, power, square_root

NO_RULE = tl.constexpr(-1)
SGD = tl.constexpr(rules.SGD.code)
SGD_MOMENTUM = tl.constexpr(rules.SGD_MOMENTUM.code)
ADAM = tl.constexpr(rules.ADAM.code)
ADAM_AMSGRAD = tl.constexpr(rules.ADAM_AMSGRAD.code)
LION = tl.constexpr(rules.LION.code)


@triton.jit
def combine(h0, h1, h2, h3, h4, h5, h6, step, RULE: tl.constexpr):
    """Ten float64 numbers for `update`; h0 to h6 are the rule's hyper-parameters in the order of its specification,
    step counts from 1."""
    if RULE == SGD or RULE == SGD_MOMENTUM:
        return combine_sgd(h0, h1, h2, h3, h4, h5)
    elif RULE == LION:
        return combine_lion(h0, h1, h2, h3, h4)
    else:
        return combine_adam(h0, h1, h2, h3, h4, h5, h6, step)


@triton.jit
def update(x, g, s0, s1, s2, is_first, c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, RULE: tl.constexpr):
    """New x and state; numbers c are those of `combine`, in the type in which the rule computes."""
    if RULE == SGD or RULE == SGD_MOMENTUM:
        x, s0 = sgd(x, g, s0, is_first, c0, c1, c2, c3, c4, c5, RULE == SGD_MOMENTUM)
    elif RULE == LION:
        x, s0 = lion(x, g, s0, c0, c1, c2, c3, c4, c5, c6)
    else:
        x, s0, s1, s2 = adam(x, g, s0, s1, s2, c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, RULE == ADAM_AMSGRAD)
    return x, s0, s1, s2


@triton.jit
def combine_sgd(lr, momentum, dampening, weight_decay, nesterov, maximize):
    zero = lr * 0.0
    return lr, momentum, 1.0 - dampening, weight_decay, nesterov, 1.0 - 2.0 * maximize, zero, zero, zero, zero


@triton.jit
def sgd(
    x, g, buffer, is_first, lr, momentum, one_minus_dampening, weight_decay, nesterov, sign, WITH_MOMENTUM: tl.constexpr
):  # fmt: skip
    """torch.optim.SGD. is_first: the buffer holds nothing yet and becomes the gradient. sign: -1 to maximize."""
    g = g * sign
    g = tl.where(weight_decay != 0, g + weight_decay * x, g)
    if WITH_MOMENTUM:
        buffer = tl.where(is_first, g, momentum * buffer + one_minus_dampening * g)
        g = tl.where(nesterov != 0, g + momentum * buffer, buffer)
    return x - lr * g, buffer


@triton.jit
def combine_adam(lr, beta1, beta2, eps, weight_decay, decoupled, maximize, step):
    """shrink = 1 - lr * weight_decay, step_size = lr / (1 - beta1^t) and root_scale = 1 / sqrt(1 - beta2^t)."""
    one = lr * 0.0 + 1.0
    shrink = tl.where(decoupled != 0, one - lr * weight_decay, one)
    coupled_decay = tl.where(decoupled != 0, 0.0, weight_decay)
    step_size = lr / (one - power(beta1, step))
    root_scale = one / tl.sqrt(one - power(beta2, step))
    sign = one - 2.0 * maximize
    return beta1, one - beta1, beta2, one - beta2, eps, coupled_decay, shrink, step_size, root_scale, sign


@triton.jit
def adam(
    x, g, exp_avg, exp_avg_sq, max_exp_avg_sq, beta1, one_minus_beta1, beta2, one_minus_beta2, eps, weight_decay,
    shrink, step_size, root_scale, sign, AMSGRAD: tl.constexpr,
):  # fmt: skip
    """torch.optim.Adam and AdamW; weight_decay is 0 and shrink is not 1 where it is decoupled."""
    g = g * sign
    x = x * shrink
    g = tl.where(weight_decay != 0, g + weight_decay * x, g)
    exp_avg = beta1 * exp_avg + one_minus_beta1 * g
    exp_avg_sq = beta2 * exp_avg_sq + (one_minus_beta2 * g) * g
    second_moment = exp_avg_sq
    if AMSGRAD:
        max_exp_avg_sq = tl.where(max_exp_avg_sq >= exp_avg_sq, max_exp_avg_sq, exp_avg_sq)
        second_moment = max_exp_avg_sq
    denominator = square_root(second_moment) * root_scale + eps
    return x - step_size * divide(exp_avg, denominator), exp_avg, exp_avg_sq, max_exp_avg_sq


@triton.jit
def combine_lion(lr, beta1, beta2, weight_decay, maximize):
    one = lr * 0.0 + 1.0
    zero = lr * 0.0
    shrink = one - lr * weight_decay
    return lr, beta1, one - beta1, beta2, one - beta2, shrink, one - 2.0 * maximize, zero, zero, zero


@triton.jit
def lion(x, g, exp_avg, lr, beta1, one_minus_beta1, beta2, one_minus_beta2, shrink, sign):
    """Lion (Chen et al. 2023): the sign of an interpolation; the sign of 0 and of NaN is 0."""
    g = g * sign
    x = x * shrink
    update = beta1 * exp_avg + one_minus_beta1 * g
    update = tl.where(update > 0, 1.0, tl.where(update < 0, -1.0, 0.0)).to(x.dtype)
    return x - lr * update, beta2 * exp_avg + one_minus_beta2 * g

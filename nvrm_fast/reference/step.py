"""The fused step: coat off, rule on the clean weights, coat on (NVRM paper, section 3, algorithm 1).

    clean  = p - b_prev * eps(step)
    clean' = rule(clean, grad, state)
    p      = clean' + b_now * eps(step + 1)

Arguments of the operators are documented in nvrm_fast/ops.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .checks import check_code, check_length, check_step
from .distribution import BY_CODE
from .noise import add_noise
from .rule import adam, sgd


def _take_off(param: Tensor, seed: int, distribution: int, scale: float, where: dict) -> Tensor:
    """Clean weights in the dtype in which the rule computes."""
    wide = param.to(torch.float64 if param.dtype == torch.float64 else torch.float32)
    return add_noise(wide, seed=seed, distribution=distribution, scale=-scale, **where)


def _step_(
    params: list[Tensor], grads: list[Tensor], states: dict[str, list[Tensor]], masters: list[Tensor],
    steps: list[Tensor], streams: list[int], offsets: list[int], scales: list[float], seed: int, distribution: int,
    coat_scales: list[float], coat_seed: int, coat_distribution: int, keep_noise: bool, rule: Callable,
) -> None:  # fmt: skip
    """rule(i, step, x, g, state tensors...) -> new x, new state tensors..."""
    check_step(
        params, grads, states, masters, steps,
        streams=streams, offsets=offsets, scales=scales, coat_scales=coat_scales,
    )  # fmt: skip
    check_code(distribution, BY_CODE, "distribution")
    check_code(coat_distribution, BY_CODE, "coat_distribution")
    for i, (param, grad) in enumerate(zip(params, grads)):
        step = int(steps[i])
        where = dict(stream=streams[i], offset=offsets[i])
        if masters:
            x = masters[i]
        else:
            worn = 0.0 if keep_noise else coat_scales[i]
            x = _take_off(param, coat_seed, coat_distribution, worn, {**where, "step": step})
        old = [state[i] for state in states.values()]
        x, *new = rule(i, step + 1, x, grad.to(x.dtype), *(state.to(x.dtype) for state in old))
        noisy = add_noise(x, seed=seed, step=step + 1, distribution=distribution, scale=scales[i], **where)
        for state, value in zip(old, new):
            state.copy_(value)
        if masters:
            masters[i].copy_(noisy if keep_noise else x)
        param.copy_(noisy)
        steps[i].add_(1)


def sgd_step_(
    params, grads, momentum_buffers, masters, steps, streams, offsets, scales, seed, distribution, coat_scales,
    coat_seed, coat_distribution, keep_noise, is_first, lr, momentum, dampening, weight_decay, nesterov, maximize,
) -> None:  # fmt: skip
    def rule(i, step, x, g, buffer=None):
        x, buffer = sgd(
            x, g, buffer, is_first=is_first[i], lr=lr, momentum=momentum, dampening=dampening,
            weight_decay=weight_decay, nesterov=nesterov, maximize=maximize,
        )  # fmt: skip
        return x, buffer

    check_length(len(is_first), len(params), "is_first")
    states = {"momentum_buffers": momentum_buffers} if momentum != 0 else {}
    _step_(
        params, grads, states, masters, steps, streams, offsets, scales, seed, distribution, coat_scales, coat_seed,
        coat_distribution, keep_noise, rule,
    )  # fmt: skip


def adam_step_(
    params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, masters, steps, streams, offsets, scales, seed,
    distribution, coat_scales, coat_seed, coat_distribution, keep_noise, lr, beta1, beta2, eps, weight_decay, amsgrad,
    decoupled_weight_decay, maximize,
) -> None:  # fmt: skip
    def rule(i, step, x, g, exp_avg, exp_avg_sq, max_exp_avg_sq=None):
        return adam(
            x, g, exp_avg, exp_avg_sq, max_exp_avg_sq, step=step, lr=lr, beta1=beta1, beta2=beta2, eps=eps,
            weight_decay=weight_decay, decoupled_weight_decay=decoupled_weight_decay, maximize=maximize,
        )  # fmt: skip

    states = {"exp_avgs": exp_avgs, "exp_avg_sqs": exp_avg_sqs}
    if amsgrad:
        states["max_exp_avg_sqs"] = max_exp_avg_sqs
    _step_(
        params, grads, states, masters, steps, streams, offsets, scales, seed, distribution, coat_scales, coat_seed,
        coat_distribution, keep_noise, rule,
    )  # fmt: skip


def change_coat_(
    params, masters, steps, streams, offsets, scales, seed, distribution, coat_scales, coat_seed, coat_distribution,
) -> None:  # fmt: skip
    check_step(
        params, params, {}, masters, steps,
        streams=streams, offsets=offsets, scales=scales, coat_scales=coat_scales,
    )  # fmt: skip
    check_code(distribution, BY_CODE, "distribution")
    check_code(coat_distribution, BY_CODE, "coat_distribution")
    for i, param in enumerate(params):
        where = dict(stream=streams[i], offset=offsets[i], step=int(steps[i]))
        x = masters[i] if masters else _take_off(param, coat_seed, coat_distribution, coat_scales[i], where)
        param.copy_(add_noise(x, seed=seed, distribution=distribution, scale=scales[i], **where))

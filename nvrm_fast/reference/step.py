"""The fused step: coat off, rule on the clean weights, coat on (NVRM paper, section 3, algorithm 1).

    clean  = p - b_prev * eps(step)
    clean' = rule(clean, grad, state)
    p      = clean' + b_now * eps(step + 1)

Arguments of the operators are documented in nvrm_fast/ops/step.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .arguments import AdamStep, ChangeCoat, SgdStep, Step
from .checks import check_step
from .noise import add_noise
from .rule import adam, sgd


def _place(a: Step, i: int) -> dict[str, int]:
    """Where the noise of parameter i begins, and how it runs on."""
    runs = dict(run_length=a.run_lengths[i], run_stride=a.run_strides[i]) if a.run_lengths else {}
    return dict(stream=a.streams[i], offset=a.offsets[i], **runs)


def _coat_off(a: Step, i: int, step: int, worn: float) -> Tensor:
    """Clean weights in the dtype in which the rule computes."""
    if a.masters:
        return a.masters[i]
    wide = a.params[i].to(torch.float64 if a.params[i].dtype == torch.float64 else torch.float32)
    return add_noise(
        wide, seed=a.coat_seed, step=step, distribution=a.coat_distribution, scale=-worn, **_place(a, i)
    )  # fmt: skip


def _coat_on(a: Step, i: int, step: int, x: Tensor) -> Tensor:
    return add_noise(x, seed=a.seed, step=step, distribution=a.distribution, scale=a.scales[i], **_place(a, i))


def _step_(a: SgdStep | AdamStep, rule: Callable) -> None:
    """rule(i, step, x, g, state tensors...) -> new x, new state tensors..."""
    check_step(a)
    if a.found_inf is not None and bool(a.found_inf != 0):
        return
    for i, (param, grad) in enumerate(zip(a.params, a.grads)):
        step = int(a.steps[i])
        x = _coat_off(a, i, step, 0.0 if a.keep_noise else a.coat_scales[i])
        g = grad.to(x.dtype)
        if a.grad_scale is not None:
            g = g / a.grad_scale.reshape(()).to(x.dtype)
        old = [state[i] for state in a.states.values()]
        x, *new = rule(i, step + 1, x, g, *(state.to(x.dtype) for state in old))
        noisy = _coat_on(a, i, step + 1, x)
        for state, value in zip(old, new):
            state.copy_(value)
        if a.masters:
            a.masters[i].copy_(noisy if a.keep_noise else x)
        param.copy_(noisy)
        a.steps[i].add_(1)


def sgd_step_(*args: Any) -> None:
    a = SgdStep(*args)

    def rule(i, step, x, g, buffer=None):
        return sgd(
            x, g, buffer, is_first=a.is_first[i], lr=a.lr, momentum=a.momentum, dampening=a.dampening,
            weight_decay=a.weight_decay, nesterov=a.nesterov, maximize=a.maximize,
        )  # fmt: skip

    _step_(a, rule)


def adam_step_(*args: Any) -> None:
    a = AdamStep(*args)

    def rule(i, step, x, g, exp_avg, exp_avg_sq, max_exp_avg_sq=None):
        return adam(
            x, g, exp_avg, exp_avg_sq, max_exp_avg_sq, step=step, lr=a.lr, beta1=a.beta1, beta2=a.beta2, eps=a.eps,
            weight_decay=a.weight_decay, decoupled_weight_decay=a.decoupled_weight_decay, maximize=a.maximize,
        )  # fmt: skip

    _step_(a, rule)


def change_coat_(*args: Any) -> None:
    a = ChangeCoat(*args)
    check_step(a)
    for i, param in enumerate(a.params):
        step = int(a.steps[i])
        param.copy_(_coat_on(a, i, step, _coat_off(a, i, step, a.coat_scales[i])))

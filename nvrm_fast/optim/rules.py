"""The rules that noise is added to, as torch.optim's optimizers have them (specified in contract/rules.py)."""

from __future__ import annotations

from typing import Any

from ..contract import rules
from ..contract.rules import Rule
from .base import NoisyOptimizer


def refuse_differentiable(differentiable: bool) -> None:
    """foreach and fused change nothing here: the step is always fused. This one would."""
    if differentiable:
        raise ValueError("differentiable=True is not supported: the fused step writes in place; use torch.optim")


class SgdRule(NoisyOptimizer):
    """State `momentum_buffer`; options lr, momentum, dampening, weight_decay, nesterov, maximize."""

    def _rule(self, group: dict[str, Any]) -> Rule:
        return rules.SGD_MOMENTUM if group["momentum"] != 0 else rules.SGD

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")


class AdamRule(NoisyOptimizer):
    """State `exp_avg`, `exp_avg_sq`, `max_exp_avg_sq`; options lr, betas, eps, weight_decay, amsgrad, maximize,
    decoupled_weight_decay."""

    def _rule(self, group: dict[str, Any]) -> Rule:
        return rules.ADAM_AMSGRAD if group["amsgrad"] else rules.ADAM


class LionRule(NoisyOptimizer):
    """State `exp_avg`; options lr, betas, weight_decay (decoupled), maximize."""

    def _rule(self, group: dict[str, Any]) -> Rule:
        return rules.LION

"""The rules that noise is added to: arguments, state and operator of SGD and Adam, as torch.optim has them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import ops
from .base import Bucket, NoisyOptimizer, check_number
from .memory import allocate


def refuse_differentiable(differentiable: bool, capturable: bool = False) -> None:
    """foreach and fused change nothing here (the step is always fused); these two would, and are not to be had."""
    if differentiable:
        raise ValueError("differentiable=True is not supported: the fused step writes in place; use torch.optim")
    if capturable:
        raise ValueError("capturable=True is not supported in this version: leave it out")


class SgdRule(NoisyOptimizer):
    """State `momentum_buffer`; options lr, momentum, dampening, weight_decay, nesterov, maximize."""

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        check_number(group["lr"], "learning rate")
        check_number(group["momentum"], "momentum")
        check_number(group["dampening"], "dampening", low=float("-inf"))
        check_number(group["weight_decay"], "weight_decay")
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")

    def _init_state(self, group: dict[str, Any], param: Tensor, state: dict[str, Any], like: Tensor) -> None:
        # An absent buffer means: the first gradient becomes the buffer. It is put into the state after the step.
        if state.get("momentum_buffer") is None:
            state.pop("momentum_buffer", None)

    def _apply(self, group: dict[str, Any], bucket: Bucket, noise_args: tuple) -> None:
        momentum = float(group["momentum"])
        buffers: list[Tensor] = []
        is_first = ["momentum_buffer" not in state for state in bucket.states]
        if momentum != 0:
            like = bucket.masters or bucket.params
            buffers = [state.get("momentum_buffer") for state in bucket.states]
            buffers = [b if b is not None else allocate(x) for b, x in zip(buffers, like)]
        ops.sgd_step_(
            bucket.params, bucket.grads, buffers, *noise_args, is_first, float(group["lr"]), momentum,
            float(group["dampening"]), float(group["weight_decay"]), group["nesterov"], group["maximize"],
            backend=group["backend"],
        )  # fmt: skip
        for state, buffer in zip(bucket.states, buffers):
            state["momentum_buffer"] = buffer


class AdamRule(NoisyOptimizer):
    """State `exp_avg`, `exp_avg_sq`, `max_exp_avg_sq`; options lr, betas, eps, weight_decay, amsgrad, maximize,
    decoupled_weight_decay."""

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        check_number(group["lr"], "learning rate")
        check_number(group["eps"], "epsilon")
        for index, beta in enumerate(group["betas"]):
            check_number(beta, f"beta parameter at index {index}", high=1.0)
        check_number(group["weight_decay"], "weight_decay")

    def _init_state(self, group: dict[str, Any], param: Tensor, state: dict[str, Any], like: Tensor) -> None:
        for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq"):
            if key not in state:
                state[key] = allocate(like).zero_()

    def _apply(self, group: dict[str, Any], bucket: Bucket, noise_args: tuple) -> None:
        beta1, beta2 = (float(beta) for beta in group["betas"])
        amsgrad = bool(group["amsgrad"])
        ops.adam_step_(
            bucket.params,
            bucket.grads,
            [state["exp_avg"] for state in bucket.states],
            [state["exp_avg_sq"] for state in bucket.states],
            [state["max_exp_avg_sq"] for state in bucket.states] if amsgrad else [],
            *noise_args, float(group["lr"]), beta1, beta2, float(group["eps"]), float(group["weight_decay"]),
            amsgrad, bool(group["decoupled_weight_decay"]), group["maximize"], backend=group["backend"],
        )  # fmt: skip

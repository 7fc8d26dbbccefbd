"""The rules that noise is added to: arguments, state and operator of SGD and Adam, as torch.optim has them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..ops import step as ops
from .base import NoisyOptimizer
from .bucket import Bucket
from .checks import check_number
from .memory import allocate
from .shards import local


def refuse_differentiable(differentiable: bool) -> None:
    """foreach, fused and capturable change nothing here: the step is always fused and, once there is state, always
    capturable. This one would."""
    if differentiable:
        raise ValueError("differentiable=True is not supported: the fused step writes in place; use torch.optim")


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

    def _init_state(self, group: dict[str, Any], state: dict[str, Any], like: Tensor) -> None:
        # An absent buffer means: the first gradient becomes the buffer. It is put into the state after the step.
        if state.get("momentum_buffer") is None:
            state.pop("momentum_buffer", None)

    def _init_first_state(self, group: dict[str, Any], state: dict[str, Any], like: Tensor) -> None:
        if group["momentum"] != 0:
            state["momentum_buffer"] = allocate(like).zero_()

    def _apply(
        self, group: dict[str, Any], bucket: Bucket, noise_arguments: tuple[Any, ...], last_arguments: tuple[Any, ...]
    ) -> None:
        momentum = float(group["momentum"])
        buffers: list[Tensor] = []
        is_first = ["momentum_buffer" not in state for state in bucket.states]
        if momentum != 0:
            for member, state, first in zip(bucket.members, bucket.states, is_first):
                like = state.get("master_param", member.param)
                buffers.append(allocate(like) if first else state["momentum_buffer"])
        ops.sgd_step_(
            bucket.data, bucket.grads, [local(buffer) for buffer in buffers], *noise_arguments, is_first,
            float(group["lr"]), momentum, float(group["dampening"]), float(group["weight_decay"]), group["nesterov"],
            group["maximize"], *last_arguments, backend=group["backend"],
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

    def _init_state(self, group: dict[str, Any], state: dict[str, Any], like: Tensor) -> None:
        for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if group["amsgrad"] else ("exp_avg", "exp_avg_sq"):
            if key not in state:
                state[key] = allocate(like).zero_()

    def _apply(
        self, group: dict[str, Any], bucket: Bucket, noise_arguments: tuple[Any, ...], last_arguments: tuple[Any, ...]
    ) -> None:
        beta1, beta2 = (float(beta) for beta in group["betas"])
        amsgrad = bool(group["amsgrad"])
        ops.adam_step_(
            bucket.data, bucket.grads, bucket.tensors("exp_avg"), bucket.tensors("exp_avg_sq"),
            bucket.tensors("max_exp_avg_sq") if amsgrad else [], *noise_arguments, float(group["lr"]), beta1, beta2,
            float(group["eps"]), float(group["weight_decay"]), amsgrad, bool(group["decoupled_weight_decay"]),
            group["maximize"], *last_arguments, backend=group["backend"],
        )  # fmt: skip

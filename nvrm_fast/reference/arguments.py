"""The step operators' arguments, in the order of their schemas (nvrm_fast/ops/step.py, where they are explained)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class SgdStep(NamedTuple):
    params: list[Tensor]
    grads: list[Tensor]
    momentum_buffers: list[Tensor]
    masters: list[Tensor]
    steps: list[Tensor]
    streams: list[int]
    offsets: list[int]
    scales: list[float]
    seed: int
    distribution: int
    coat_scales: list[float]
    coat_seed: int
    coat_distribution: int
    keep_noise: bool
    is_first: list[bool]
    lr: float
    momentum: float
    dampening: float
    weight_decay: float
    nesterov: bool
    maximize: bool
    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None
    run_lengths: list[int] = []
    run_strides: list[int] = []

    @property
    def states(self) -> dict[str, list[Tensor]]:
        return {"momentum_buffers": self.momentum_buffers} if self.momentum != 0 else {}


class AdamStep(NamedTuple):
    params: list[Tensor]
    grads: list[Tensor]
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]
    max_exp_avg_sqs: list[Tensor]
    masters: list[Tensor]
    steps: list[Tensor]
    streams: list[int]
    offsets: list[int]
    scales: list[float]
    seed: int
    distribution: int
    coat_scales: list[float]
    coat_seed: int
    coat_distribution: int
    keep_noise: bool
    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    amsgrad: bool
    decoupled_weight_decay: bool
    maximize: bool
    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None
    run_lengths: list[int] = []
    run_strides: list[int] = []

    @property
    def states(self) -> dict[str, list[Tensor]]:
        states = {"exp_avgs": self.exp_avgs, "exp_avg_sqs": self.exp_avg_sqs}
        return {**states, "max_exp_avg_sqs": self.max_exp_avg_sqs} if self.amsgrad else states


class ChangeCoat(NamedTuple):
    params: list[Tensor]
    masters: list[Tensor]
    steps: list[Tensor]
    streams: list[int]
    offsets: list[int]
    scales: list[float]
    seed: int
    distribution: int
    coat_scales: list[float]
    coat_seed: int
    coat_distribution: int
    run_lengths: list[int] = []
    run_strides: list[int] = []

    # What a step has besides; no rule reads a gradient, the parameters stand in for it.
    @property
    def grad_scale(self) -> None:
        return None

    @property
    def found_inf(self) -> None:
        return None

    @property
    def grads(self) -> list[Tensor]:
        return self.params

    @property
    def states(self) -> dict[str, list[Tensor]]:
        return {}


Step = SgdStep | AdamStep | ChangeCoat

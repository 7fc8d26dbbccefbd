"""The published algorithm under torch.compile: what one gets by writing it as a function and letting it be fused.

Stored noise, as published.py, but one tensor of it: a fused step needs none for the fresh one. What changes from step
to step comes in as tensors, so that nothing is compiled twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

Tensors = list[Tensor]
#: The state in which the noise on the weights is kept.
OLD_NOISE = "noise"


def _change_noise(param: Tensor, clean_step: Tensor, old_noise: Tensor, variability: float) -> None:
    fresh = torch.randn_like(param) * variability
    param.copy_((param - clean_step) + (fresh - old_noise))
    old_noise.copy_(fresh)


def _sgd_step(
    params: Tensors, grads: Tensors, old_noise: Tensors, buffers: Tensors, first: Tensor, lr: float, momentum: float,
    variability: float,
) -> None:  # fmt: skip
    for param, grad, noise, buffer in zip(params, grads, old_noise, buffers):
        buffer.copy_(torch.where(first, grad, momentum * buffer + grad))
        _change_noise(param, lr * buffer, noise, variability)


def _adam_step(
    params: Tensors, grads: Tensors, old_noise: Tensors, averages: Tensors, squares: Tensors, step_size: Tensor,
    root_correction: Tensor, beta1: float, beta2: float, eps: float, variability: float,
) -> None:  # fmt: skip
    for param, grad, noise, average, square in zip(params, grads, old_noise, averages, squares):
        average.copy_(beta1 * average + (1 - beta1) * grad)
        square.copy_(beta2 * square + (1 - beta2) * grad * grad)
        denominator = square.sqrt() / root_correction + eps
        _change_noise(param, step_size * (average / denominator), noise, variability)


class _CompiledOptimizer(Optimizer):
    """Steps all parameters of one group by one compiled function."""

    states: tuple[str, ...] = (OLD_NOISE,)

    def __init__(self, params, defaults: dict[str, Any], function: Callable[..., None]) -> None:
        super().__init__(params, defaults)
        self._function = torch.compile(function)
        self._steps = 0

    def _arguments(self, options: dict[str, Any]) -> tuple:
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """The plain rule, then a change of noise."""
        self._steps += 1
        params = self.param_groups[0]["params"]
        for param in params:
            if not self.state[param]:
                self.state[param] = {name: torch.zeros_like(param) for name in self.states}
        states = [[self.state[param][name] for param in params] for name in self.states]
        self._function(params, [param.grad for param in params], *states, *self._arguments(self.param_groups[0]))


class CompiledSGD(_CompiledOptimizer):
    """SGD with momentum, with stored noise, compiled; arguments as PublishedSGD."""

    states = (OLD_NOISE, "momentum_buffer")

    def __init__(self, params, lr: float, momentum: float, variability: float = 0.01) -> None:
        super().__init__(params, dict(lr=lr, momentum=momentum, variability=variability), _sgd_step)

    def _arguments(self, options: dict[str, Any]) -> tuple:
        return torch.tensor(self._steps == 1), options["lr"], options["momentum"], options["variability"]


class CompiledAdam(_CompiledOptimizer):
    """Adam with stored noise, compiled; arguments as PublishedAdam."""

    states = (OLD_NOISE, "exp_avg", "exp_avg_sq")

    def __init__(self, params, lr: float, betas=(0.9, 0.999), eps: float = 1e-8, variability: float = 0.01) -> None:
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, variability=variability), _adam_step)

    def _arguments(self, options: dict[str, Any]) -> tuple:
        beta1, beta2 = options["betas"]
        step_size = torch.tensor(options["lr"] / (1 - beta1**self._steps))
        root_correction = torch.tensor(math.sqrt(1 - beta2**self._steps))
        return step_size, root_correction, beta1, beta2, options["eps"], options["variability"]

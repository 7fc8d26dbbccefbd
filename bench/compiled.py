"""The reference step under torch.compile: what a user gets who writes the same thing in plain torch and compiles it.

The noise and the rule are those of nvrm_fast/reference, drawn again and never stored; one graph covers all parameters.
What changes from step to step comes in as tensors, so that nothing is compiled twice.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from nvrm_fast.reference.elementary import rounded, square_root
from nvrm_fast.reference.noise import SUPERBLOCK, _superblocks

GAUSSIAN = 0
SEED = 0


def _coat(like: Tensor, stream: int, step: Tensor, scale: float) -> Tensor:
    """The reference's noise of one parameter, all superblocks at once."""
    count = -(-like.numel() // SUPERBLOCK)
    values = _superblocks(0, count, SEED, stream, step, GAUSSIAN, like.device)
    return (values[: like.numel()] * scale).view(like.shape)


def _sgd_step(
    params: list[Tensor], grads: list[Tensor], buffers: list[Tensor], step: Tensor, worn: Tensor, first: Tensor,
    lr: float, momentum: float, scale: float,
) -> None:  # fmt: skip
    for i, (param, grad, buffer) in enumerate(zip(params, grads, buffers)):
        clean = param - worn * _coat(param, i, step, scale)
        buffer.copy_(torch.where(first, grad, momentum * buffer + grad))
        param.copy_((clean - lr * buffer) + _coat(param, i, step + 1, scale))


def _adam_step(
    params: list[Tensor], grads: list[Tensor], averages: list[Tensor], squares: list[Tensor], step: Tensor,
    worn: Tensor, step_size: Tensor, root_scale: Tensor, betas: tuple[float, float, float, float], eps: float,
    scale: float,
) -> None:  # fmt: skip
    beta1, rest1, beta2, rest2 = betas
    for i, (param, grad, average, square) in enumerate(zip(params, grads, averages, squares)):
        clean = param - worn * _coat(param, i, step, scale)
        average.copy_(beta1 * average + rest1 * grad)
        square.copy_(beta2 * square + (rest2 * grad) * grad)
        denominator = square_root(square) * root_scale + eps
        param.copy_((clean - step_size * (average / denominator)) + _coat(param, i, step + 1, scale))


class _Compiled(Optimizer):
    """Steps all parameters of one group by one compiled function."""

    states: tuple[str, ...] = ()

    def __init__(self, params, defaults: dict[str, Any], function) -> None:
        super().__init__(params, defaults)
        self._function = torch.compile(function)
        self._steps = 0

    def _lists(self) -> tuple[list[Tensor], ...]:
        params = self.param_groups[0]["params"]
        for param in params:
            if not self.state[param]:
                self.state[param] = {name: torch.zeros_like(param) for name in self.states}
        grads = [param.grad for param in params]
        return params, grads, *([self.state[param][name] for param in params] for name in self.states)

    def _step(self, options: dict[str, Any], counted: tuple[Tensor, ...]) -> None:
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Coat off, rule, coat on."""
        # At first nothing is worn: times 0 is exact.
        counted = (torch.tensor(self._steps), torch.tensor(float(self._steps > 0)))
        self._step(self.param_groups[0], counted)
        self._steps += 1


class CompiledSGD(_Compiled):
    """NVRM-SGD in place, in plain torch under torch.compile; arguments as PublishedSGD."""

    states = ("momentum_buffer",)

    def __init__(self, params, lr: float, momentum: float, variability: float = 0.01) -> None:
        super().__init__(params, dict(lr=lr, momentum=momentum, variability=variability), _sgd_step)

    def _step(self, options: dict[str, Any], counted: tuple[Tensor, ...]) -> None:
        r = lambda value: rounded(value, torch.float32)  # noqa: E731
        first = torch.tensor(self._steps == 0)
        numbers = (r(options["lr"]), r(options["momentum"]), r(options["variability"]))
        self._function(*self._lists(), *counted, first, *numbers)


class CompiledAdam(_Compiled):
    """NVRM-Adam in place, in plain torch under torch.compile; arguments as PublishedAdam."""

    states = ("exp_avg", "exp_avg_sq")

    def __init__(self, params, lr: float, betas=(0.9, 0.999), eps: float = 1e-8, variability: float = 0.01) -> None:
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, variability=variability), _adam_step)

    def _step(self, options: dict[str, Any], counted: tuple[Tensor, ...]) -> None:
        r = lambda value: rounded(value, torch.float32)  # noqa: E731
        beta1, beta2 = options["betas"]
        step = self._steps + 1
        step_size = torch.tensor(r(options["lr"] / (1 - beta1**step)))
        root_scale = torch.tensor(r(1 / math.sqrt(1 - beta2**step)))
        betas = (r(beta1), r(1 - beta1), r(beta2), r(1 - beta2))
        numbers = (betas, r(options["eps"]), r(options["variability"]))
        self._function(*self._lists(), *counted, step_size, root_scale, *numbers)

"""The published algorithm (Xie et al. 2021) the way its authors' optimizers go about it, in eager torch.

The noise is a tensor: every parameter keeps the noise that it carries (`noise1`) and the noise that it is to carry next
(`noise2`). A step applies the plain rule tensor by tensor, draws fresh noise, adds the difference of the two and
remembers the new one. Written anew for the comparison, from that description.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class _PublishedOptimizer(Optimizer):
    def _apply_rule(self, group: dict[str, Any], param: Tensor, state: dict[str, Any]) -> None:
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """The plain rule, then a change of noise."""
        for group in self.param_groups:
            for param in group["params"]:
                state = self.state[param]
                if not state:
                    state["noise1"] = torch.zeros_like(param)
                    state["noise2"] = torch.zeros_like(param)
                self._apply_rule(group, param, state)
                state["noise2"] = torch.normal(torch.zeros_like(param), group["variability"])
                param.add_(state["noise2"] - state["noise1"])
                state["noise1"].copy_(state["noise2"])


class PublishedSGD(_PublishedOptimizer):
    """SGD with momentum, with stored noise.

    Args:
        params: parameters or groups.
        lr, momentum: as for torch.optim.SGD.
        variability: standard deviation of the noise, in the units of the weights.
    """

    def __init__(self, params, lr: float, momentum: float, variability: float = 0.01) -> None:
        super().__init__(params, dict(lr=lr, momentum=momentum, variability=variability))

    def _apply_rule(self, group: dict[str, Any], param: Tensor, state: dict[str, Any]) -> None:
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = param.grad.clone()
        else:
            state["momentum_buffer"].mul_(group["momentum"]).add_(param.grad)
        param.add_(state["momentum_buffer"], alpha=-group["lr"])


class PublishedAdam(_PublishedOptimizer):
    """Adam with stored noise.

    Args:
        params: parameters or groups.
        lr, betas, eps: as for torch.optim.Adam.
        variability: standard deviation of the noise, in the units of the weights.
    """

    def __init__(self, params, lr: float, betas=(0.9, 0.999), eps: float = 1e-8, variability: float = 0.01) -> None:
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, variability=variability))

    def _apply_rule(self, group: dict[str, Any], param: Tensor, state: dict[str, Any]) -> None:
        if "step" not in state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(param)
            state["exp_avg_sq"] = torch.zeros_like(param)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        state["exp_avg"].mul_(beta1).add_(param.grad, alpha=1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(param.grad, param.grad, value=1 - beta2)
        root_correction = math.sqrt(1 - beta2 ** state["step"])
        denominator = (state["exp_avg_sq"].sqrt() / root_correction).add_(group["eps"])
        step_size = group["lr"] / (1 - beta1 ** state["step"])
        param.addcdiv_(state["exp_avg"], denominator, value=-step_size)

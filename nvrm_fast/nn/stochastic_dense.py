"""A dense stochastic layer as one differentiable function: no views and no operators of autograd's between the product
and the pass, which a small layer would spend more time on than on the pass itself."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops import registry as backends
from ..ops import stochastic as stochastic_ops
from ..reference.stochastic import Settings


class DenseStochastic(torch.autograd.Function):
    """Activations and sums from x (objects, in), weight (2 neurons, in), bias (2 neurons,) or None, of one dtype.

    Keeps x, weight and the products, never noise. Differentiable twice: backward then makes the products again, with a
    graph.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, key: Tensor, settings: Settings
    ) -> tuple[Tensor, Tensor]:
        z = F.linear(x, weight, bias).unsqueeze(2)
        ctx.backend, ctx.settings = backends.choose(x.device), settings
        ctx.save_for_backward(x, weight, bias, key, z)
        y, sums = stochastic_ops.kernel_of("stochastic_activation", ctx.backend)(z, key, *settings)
        return y.squeeze(2), sums

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_sums: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, key, z = ctx.saved_tensors
        needs = ctx.needs_input_grad
        if torch.is_grad_enabled():
            z = F.linear(x, weight, bias).unsqueeze(2)
        dz = stochastic_ops.stochastic_activation_backward(
            grad.unsqueeze(2), grad_sums, z, key, ctx.settings, backend=ctx.backend
        ).squeeze(2)  # fmt: skip
        return (
            dz @ weight if needs[0] else None,
            dz.t() @ x if needs[1] else None,
            dz.sum(0) if needs[2] else None,
            None,
            None,
        )

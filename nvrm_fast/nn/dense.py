"""A dense layer with local sampling as one differentiable function: as few passes over weights and inputs as there are.

What autograd would do step by step with norms, products and the noisy pass, in closed form. Forward: a product, two
norms, the pass. Backward: the pass, then each product adds onto the norm's own part in place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..ops import direction as layer_ops
from ..reference.local import Settings
from .weight_norm import wide


def _products(x: Tensor, v: Tensor, directed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """s (objects, neurons, 1), |x|^2 (objects, 1, 1), empty where nothing is turned, and 1 / |v| (neurons,)."""
    dtype = wide(x.dtype)
    norm = torch.linalg.vector_norm(v, dim=1, dtype=dtype)
    scale = norm.clamp_min(torch.finfo(dtype).tiny).reciprocal()
    square = x.new_empty(0, dtype=dtype)
    if directed:
        square = torch.linalg.vector_norm(x, dim=1, dtype=dtype).square()[:, None, None]
    return (x @ v.t()).unsqueeze(2), square, scale


class DenseLocal(torch.autograd.Function):
    """y = local_noise(x @ v.T, |x|^2, 1 / |v|, ...): x (objects, in), v (neurons, in), of one dtype.

    Norms and the pass are in float32 (float64 for float64), whatever the dtype of x and v; the parameters come so.

    Keeps x, v and the products, never noise. Differentiable twice: backward then makes the products again, in a graph.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v: Tensor, gain: Tensor, spread: Tensor | None, bias: Tensor | None, first: Tensor | None,
        second: Tensor | None, constants: Tensor, key: Tensor, settings: Settings,
    ) -> Tensor:  # fmt: skip
        s, square, scale = _products(x, v, settings.direction != 0)
        ctx.save_for_backward(x, v, gain, spread, bias, first, second, constants, key, s, square, scale)
        ctx.settings = settings
        return layer_ops.local_noise(
            s, square, scale, gain, spread, bias, first, second, constants, key, settings
        ).squeeze(2)  # fmt: skip

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, v, gain, spread, bias, first, second, constants, key, s, square, scale = ctx.saved_tensors
        parameters = (gain, spread, bias, first, second)
        settings, needs = ctx.settings, ctx.needs_input_grad
        directed = settings.direction != 0
        if torch.is_grad_enabled():
            s, square, scale = _products(x, v, directed)
        found = layer_ops.local_noise_backward(
            grad.unsqueeze(2), s, square, scale, gain, spread, bias, first, second, constants, key, settings,
            needs[5] or needs[6],
        )  # fmt: skip
        ds, d_square, d_scale = found[0].squeeze(2), found[1], found[2]
        dx = dv = None
        if needs[0]:
            dx = ((2 * d_square.view(-1, 1)).to(x.dtype) * x).addmm_(ds, v) if directed else ds @ v
        if needs[1]:
            # d(1 / |v|) = -v / |v|^3
            dv = ((-d_scale * scale**3)[:, None].to(v.dtype) * v).addmm_(ds.t(), x)
        rest = [
            d if need and p is not None and d.shape == p.shape else None
            for p, d, need in zip(parameters, found[3:], needs[2:7])
        ]
        return dx, dv, *rest, None, None, None

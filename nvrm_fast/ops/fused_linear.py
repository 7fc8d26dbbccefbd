"""The product of a dense layer and its gradients in closed form, for the autograd functions of the layers' operators.

As few passes over weights and inputs as there are. What autograd would do step by step with norms, products and the
noisy pass: forward a product, two norms, the pass; backward the pass, then each product adds onto the norm's own part
in place.
"""

from __future__ import annotations

import torch
from torch import Tensor


def normalized_product(x: Tensor, v: Tensor, with_sq_norm: bool) -> tuple[Tensor, Tensor, Tensor]:
    """What direction_noise takes for a dense layer: x (objects, in) and v (neurons, in), of one dtype.

    Returns s = x v^T (objects, neurons, 1), |x|^2 (objects, 1, 1), empty where it is not wanted, and 1 / |v|
    (neurons,); norms in float32, or float64 for float64.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(v, dim=1, dtype=dtype)
    scale = norm.clamp_min(torch.finfo(dtype).tiny).reciprocal()
    sq_norm = x.new_empty(0, dtype=dtype)
    if with_sq_norm:
        sq_norm = torch.linalg.vector_norm(x, dim=1, dtype=dtype).square()[:, None, None]
    return (x @ v.t()).unsqueeze(2), sq_norm, scale


def input_gradient(x: Tensor, v: Tensor, ds: Tensor, d_sq_norm: Tensor | None) -> Tensor:
    """The gradient for x from those of s (objects, neurons) and |x|^2."""
    if d_sq_norm is None:
        return ds @ v
    return ((2 * d_sq_norm.view(-1, 1)).to(x.dtype) * x).addmm_(ds, v)


def weight_gradient(x: Tensor, v: Tensor, scale: Tensor, ds: Tensor, d_scale: Tensor) -> Tensor:
    """The gradient for v from those of s (objects, neurons) and 1 / |v|, whose derivative is -v / |v|^3."""
    return ((-d_scale * scale**3)[:, None].to(v.dtype) * v).addmm_(ds.t(), x)

"""The product of a dense layer and its gradients in closed form, for the autograd functions of the layers' operators.

As few passes over weights and inputs as there are. What autograd would do step by step with norms, products and the
noisy pass: forward a product, two norms, the pass; backward the pass, then each product adds onto the norm's own part
in place.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def normalized_product(x: Tensor, v: Tensor, with_sq_norm: bool) -> tuple[Tensor, Tensor, Tensor]:
    """What direction_noise takes for a dense layer: x (examples, in) and v (neurons, in), of one dtype.

    Returns s = x v^T (examples, neurons, 1), |x|^2 (examples, 1, 1), empty where it is not wanted, and 1 / |v|
    (neurons,), 0 for a vector of zeros, which has no direction; norms in float32, or float64 for float64.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    sq_norm = x.new_empty(0, dtype=dtype)
    if torch.is_grad_enabled():  # backward, which differentiates this
        scale = inverse_norms(v, dtype)
        if with_sq_norm:
            sq_norm = x.to(dtype).square().sum(dim=1).view(-1, 1, 1)
    else:  # without copies in dtype
        norm = torch.linalg.vector_norm(v, dim=1, dtype=dtype)
        scale = torch.threshold_(norm, torch.finfo(dtype).tiny, torch.inf).reciprocal_()
        if with_sq_norm:
            sq_norm = torch.linalg.vector_norm(x, dim=1, dtype=dtype).square_().view(-1, 1, 1)
    return (x @ v.t()).unsqueeze(2), sq_norm, scale


def beyond_float32(sums: Tensor) -> bool:
    """Whether sums of squares have left float32's range, as those of inputs of 1e25 or 1e-25 do: all too small, or one
    too large. Only on the CPU, where asking does not wait for a device; float64, compiled graphs and fake tensors,
    which have no values, are not asked."""
    if sums.dtype != torch.float32 or sums.device.type != "cpu" or sums.numel() == 0 or isinstance(sums, FakeTensor):
        return False
    total = (sums.detach() if sums.requires_grad else sums).sum().item()
    return not 1e-30 < total < 3e38


def inverse_norms(v: Tensor, dtype: torch.dtype) -> Tensor:
    """1 / the norm of each row of (neurons, in), in dtype, and 0 for a row of zeros: that vector has no direction, and
    no gradient of one, to any order (the gradient of torch's own norm has none at 0)."""
    # Squares at or below the least normal number become infinity, whose inverse is 0.
    return F.threshold(v.to(dtype).square().sum(dim=1), torch.finfo(dtype).tiny, torch.inf).rsqrt()


def input_gradient(x: Tensor, v: Tensor, ds: Tensor, d_sq_norm: Tensor | None) -> Tensor:
    """The gradient for x from those of s (examples, neurons) and |x|^2."""
    if d_sq_norm is None:
        return ds @ v
    return ((2 * d_sq_norm.view(-1, 1)).to(x.dtype) * x).addmm_(ds, v)


def weight_gradient(x: Tensor, v: Tensor, scale: Tensor, ds: Tensor, d_scale: Tensor) -> Tensor:
    """The gradient for v from those of s (examples, neurons) and 1 / |v|, whose derivative is -v / |v|^3."""
    return ((-d_scale * scale**3)[:, None].to(v.dtype) * v).addmm_(ds.t(), x)

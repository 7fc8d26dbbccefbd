"""The Gaussian dropout family that direction noise is compared with (thesis of P. Kirichenko, 2018, section 3.4)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _ntuple

from ..contract.laws import check_positive
from ..ops.fused_linear import beyond_float32
from ..ops.noise import gaussian_like
from ..ops.transforms import transformed
from .base import NoisyModule, wide


class _AddGaussian(torch.autograd.Function):
    """mean + deviation * N(0, 1); backward draws the noise again from the key."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, deviation: Tensor, key: Tensor, stream: int) -> Tensor:
        ctx.save_for_backward(key)
        ctx.stream, ctx.shape = stream, mean.shape
        noise = gaussian_like(mean, key, stream).to(deviation.dtype)
        return torch.addcmul(mean.to(deviation.dtype), deviation, noise).to(mean.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (key,) = ctx.saved_tensors
        # Batched gradients that need gradients cannot be detached.
        like = torch.empty((), device=key.device).expand(ctx.shape) if grad.requires_grad else grad
        noise = gaussian_like(like, key, ctx.stream)
        return grad, grad * noise, None, None


def _add_gaussian(mean: Tensor, deviation: Tensor, layer: NoisyModule) -> Tensor:
    key = layer._key(mean.device)
    if torch.compiler.is_compiling() or not transformed():
        return _AddGaussian.apply(mean, deviation, key, layer.stream)
    noise = gaussian_like(mean, key, layer.stream).to(deviation.dtype)
    return torch.addcmul(mean.to(deviation.dtype), deviation, noise).to(mean.dtype)


class GaussianDropout(NoisyModule):
    """x times N(1, alpha) noise, independent for each element: Gaussian noise on the input of a layer.

    alpha = (1 - p) / p has the variance of binary dropout that keeps with probability p. Shapes: any to the same.
    Source: Wang and Manning (2013); section 2.2 of the thesis.
    """

    def __init__(self, alpha: float) -> None:
        super().__init__()
        check_positive(alpha, "alpha")
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "mean":
            return x
        deviation = math.sqrt(self.alpha) * x.to(wide(x.dtype))
        return _add_gaussian(x, deviation, self)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


def _square(x: Tensor) -> Tensor:
    """x^2; of float16, which holds neither the square of 300 nor that of 1e-4, in float32."""
    return (x.float() if x.dtype == torch.float16 else x).square()


def _in_range(squares: Callable[..., Tensor], x: Tensor, w: Tensor, *geometry: Any) -> Tensor:
    """The product of squares, in float64 where float32 holds none of them or not all."""
    found = squares(x, w, *geometry)
    if torch.compiler.is_compiling() or not beyond_float32(found):
        return found
    return squares(x.double(), w.double(), *geometry)


class _LinearOfSquares(torch.autograd.Function):
    """x^2 @ (w^2)^T. Keeps x and w, which the layer keeps anyway, and squares them again for backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return F.linear(_square(x), _square(w))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        dx, dw = grad @ _square(w), grad.t() @ _square(x)
        return (2 * x * dx).to(x.dtype), (2 * w * dw).to(w.dtype)


class _ConvolutionOfSquares(torch.autograd.Function):
    """The convolution of x^2 with w^2; keeps x and w only."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int
    ) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.geometry = (stride, padding, dilation, groups)
        return torch.convolution(_square(x), _square(w), None, stride, padding, dilation, False, (0,), groups)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        dx, dw, _ = torch.ops.aten.convolution_backward(
            grad,
            _square(x),
            _square(w),
            None,
            stride,
            padding,
            dilation,
            False,
            [0] * len(stride),
            groups,
            [True, True, False],
        )
        return (2 * x * dx).to(x.dtype), (2 * w * dw).to(w.dtype), None, None, None, None


def _noisy(mean: Tensor, squares: Tensor, alpha: float, layer: NoisyModule) -> Tensor:
    dtype = torch.promote_types(wide(mean.dtype), squares.dtype)
    # The square root has no derivative where all inputs are 0; there the noise is 0 too.
    deviation = (alpha * squares.to(dtype)).clamp_min(torch.finfo(dtype).tiny).sqrt()
    return _add_gaussian(mean, deviation, layer)


class GaussianDropoutLinear(NoisyModule, nn.Linear):
    """nn.Linear with N(1, alpha) noise on every weight, drawn for each example by local reparameterization.

    y = N(x . w, alpha sum_k x_k^2 w_k^2) (equation 44, Kingma et al., 2015), exact for each example. Parameters and
    state_dict are those of nn.Linear.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        alpha: float,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        check_positive(alpha, "alpha")
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "mean":
            return super().forward(x)
        rows = x.reshape(-1, self.in_features)
        mean = F.linear(rows, self.weight, self.bias)
        with torch.autocast(x.device.type, enabled=False):
            x_w = rows.to(mean.dtype), self.weight.to(mean.dtype)
            if torch.compiler.is_compiling() or not transformed():
                squares = _in_range(_LinearOfSquares.apply, *x_w)
            else:
                squares = F.linear(*map(_square, x_w))
        return _noisy(mean, squares, self.alpha, self).view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, alpha={self.alpha}"


class _GaussianDropoutConv(NoisyModule):
    """A convolution with N(1, alpha) noise on every weight, by local reparameterization: exact at each output position;
    positions of one example, which share their weights' noise in weight space, are drawn independently here. Parameters
    and state_dict are those of torch.nn.ConvNd."""

    dimensions: int
    weight: Tensor
    bias: Tensor | None
    groups: int
    stride: Any
    padding: Any
    dilation: Any
    padding_mode: Any
    _reversed_padding_repeated_twice: list[int]

    def __init__(self, *args: Any, alpha: float, **kwargs: Any) -> None:
        check_positive(alpha, "alpha")
        super().__init__(*args, **kwargs)
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "mean":
            return super().forward(x)
        if x.dim() == self.dimensions + 1:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        if self.padding_mode != "zeros" or self.padding == "same":
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x = F.pad(x, self._reversed_padding_repeated_twice, mode=mode)
            padding = _ntuple(self.dimensions)(0)
        else:
            padding = _ntuple(self.dimensions)(0) if self.padding == "valid" else self.padding
        convolution: Any = (F.conv1d, F.conv2d, F.conv3d)[self.dimensions - 1]
        mean = convolution(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
        with torch.autocast(x.device.type, enabled=False):
            x_w, geometry = (x.to(mean.dtype), self.weight.to(mean.dtype)), (self.stride, padding, self.dilation)
            if not torch.compiler.is_compiling() and transformed():
                squares = convolution(*map(_square, x_w), None, *geometry, self.groups)
            else:
                squares = _in_range(_ConvolutionOfSquares.apply, *x_w, *geometry, self.groups)
        return _noisy(mean, squares, self.alpha, self)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, alpha={self.alpha}"


class GaussianDropoutConv1d(_GaussianDropoutConv, nn.Conv1d):
    __doc__ = str(_GaussianDropoutConv.__doc__)
    dimensions = 1


class GaussianDropoutConv2d(_GaussianDropoutConv, nn.Conv2d):
    __doc__ = str(_GaussianDropoutConv.__doc__)
    dimensions = 2


class GaussianDropoutConv3d(_GaussianDropoutConv, nn.Conv3d):
    __doc__ = str(_GaussianDropoutConv.__doc__)
    dimensions = 3

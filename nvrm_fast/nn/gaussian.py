"""The Gaussian dropout family that direction noise is compared with (thesis of P. Kirichenko, 2018, section 3.4)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _ntuple

from ..contract.laws import check_positive
from ..ops.noise import gaussian_like
from .base import NoisyModule, wide


class _AddGaussian(torch.autograd.Function):
    """mean + deviation * N(0, 1); backward draws the noise again from the key."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, deviation: Tensor, key: Tensor, stream: int) -> Tensor:
        ctx.save_for_backward(key)
        ctx.stream = stream
        noise = gaussian_like(mean, key, stream).to(deviation.dtype)
        return torch.addcmul(mean.to(deviation.dtype), deviation, noise).to(mean.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (key,) = ctx.saved_tensors
        noise = gaussian_like(grad, key, ctx.stream)
        return grad, grad * noise, None, None


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
        return _AddGaussian.apply(x, deviation, self._key(x.device), self.stream)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}"


class _LinearOfSquares(torch.autograd.Function):
    """x^2 @ (w^2)^T. Keeps x and w, which the layer keeps anyway, and squares them again for backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return F.linear(x.square(), w.square())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        return 2 * x * (grad @ w.square()), 2 * w * (grad.t() @ x.square())


class _ConvolutionOfSquares(torch.autograd.Function):
    """The convolution of x^2 with w^2; keeps x and w only."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int
    ) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.geometry = (stride, padding, dilation, groups)
        return torch.convolution(x.square(), w.square(), None, stride, padding, dilation, False, (0,), groups)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, w = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        dx, dw, _ = torch.ops.aten.convolution_backward(
            grad,
            x.square(),
            w.square(),
            None,
            stride,
            padding,
            dilation,
            False,
            [0] * len(stride),
            groups,
            [True, True, False],
        )
        return 2 * x * dx, 2 * w * dw, None, None, None, None


def _noisy(mean: Tensor, squares: Tensor, alpha: float, layer: NoisyModule) -> Tensor:
    dtype = wide(mean.dtype)
    # The square root has no derivative where all inputs are 0; there the noise is 0 too.
    deviation = (alpha * squares.to(dtype)).clamp_min(torch.finfo(dtype).tiny).sqrt()
    return _AddGaussian.apply(mean, deviation, layer._key(mean.device), layer.stream)


class GaussianDropoutLinear(NoisyModule, nn.Linear):
    """nn.Linear with N(1, alpha) noise on every weight, drawn for each object by local reparameterisation.

    y = N(x . w, alpha sum_k x_k^2 w_k^2) (equation 44, Kingma et al., 2015), exact for each object. Parameters and
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
            squares = _LinearOfSquares.apply(rows.to(mean.dtype), self.weight.to(mean.dtype))
        return _noisy(mean, squares, self.alpha, self).view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, alpha={self.alpha}"


class _GaussianDropoutConv(NoisyModule):
    """A convolution with N(1, alpha) noise on every weight, by local reparameterisation: exact at each output position;
    positions of one object, which share their weights' noise in weight space, are drawn independently here. Parameters
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
            squares = _ConvolutionOfSquares.apply(
                x.to(mean.dtype), self.weight.to(mean.dtype), self.stride, padding, self.dilation, self.groups
            )
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

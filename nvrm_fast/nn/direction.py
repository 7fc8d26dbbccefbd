"""Drop-in nn.Linear and nn.Conv1d, 2d, 3d with noise on the magnitude and direction of their weight vectors."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contract.laws import Direction, Magnitude
from ..ops.direction import dense_direction_noise
from ..ops.fused_linear import beyond_float32, inverse_norms
from ..ops.transforms import transformed
from . import weight_space_sampling
from .base import restored_generator, wide, with_values
from .conv_mixin import ConvMixin
from .weight_norm import WeightNormalized


class DirectionLinear(WeightNormalized):
    """A weight-normalized dense layer with noise on direction and magnitude: nn.Linear otherwise.

    sampling "local" gives each example and neuron noise of its own, exactly as if each had drawn a weight vector, for
    one matrix product and one pass (nvrm_fast/reference/direction_noise.py); "shared": the plane of rotation is drawn
    once for the mini-batch, the angle for each example (the thesis's equation 48); "batch": plane and angle once for
    the mini-batch (the thesis's experiments); "flipout" flips a shared draw by random signs of each example.

    Args:
        in_features, out_features, bias, device, dtype: as nn.Linear.
        direction: a noise such as nvrm_fast.nn.Projected(alpha=0.01), or None.
        magnitude: NormalMagnitude(alpha), GammaMagnitude(alpha) or None.
        sampling: "local", "shared", "batch" or "flipout".
        normalize: "output", a weight vector for each output unit, or "input", one for each input unit (section 4.3).

    Shapes: input (..., in_features), output (..., out_features), of the input's dtype (autocast's under autocast).

    Raises ValueError for a direction of a weight vector of one element, and for local sampling of the direction with
    normalize="input", which does not exist.

    Source: P. Kirichenko, thesis (2018), sections 3.2, 3.3, 4.2 and 4.3; local sampling of directions is ours.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        direction: Direction | None = None,
        magnitude: Magnitude | None = None,
        sampling: str = "local",
        normalize: str = "output",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self._set_noise(direction, magnitude, sampling, normalize)
        self._make_parameters((out_features, in_features), out_features if bias else None, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        if not self.noisy:
            return F.linear(x, self.mean_weight(), self.bias)
        rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
        key = self._key(x.device)
        if self.normalize == "input":
            y = weight_space_sampling.input_normalized(self, rows, key)
        elif self.sampling == "local" or self.direction is None:
            y = self._forward_local(rows, key)
        else:
            y = weight_space_sampling.dense(self, rows, key)
        return y if x.dim() == 2 else y.view(*x.shape[:-1], y.shape[1])

    def _forward_local(self, rows: Tensor, key: Tensor) -> Tensor:
        device = rows.device.type
        if torch.is_autocast_enabled(device) and rows.dtype != torch.float64:
            # Norms are then those of the rounded vectors, as the product is.
            dtype = torch.get_autocast_dtype(device)
            with torch.autocast(device, enabled=False):
                return self._dense(rows.to(dtype), self.weight_v.to(dtype), key)
        return self._dense(rows, self.weight_v, key)

    def _dense(self, rows: Tensor, v: Tensor, key: Tensor) -> Tensor:
        if rows.dtype == v.dtype and not torch.compiler.is_compiling() and not transformed():
            parameters = self._noise_parameters(wide(rows.dtype), self.bias, key)
            return dense_direction_noise(rows, v, parameters, self._settings(direction=self.direction))
        s = F.linear(rows, v)
        sq_norm = None
        if self.direction is not None:
            sq_norm = rows.to(wide(rows.dtype)).square().sum(dim=1)[:, None, None]
        scale = inverse_norms(v, wide(v.dtype))
        return self._noisy(s.unsqueeze(2), sq_norm, scale, self.bias, key).squeeze(2)

    @classmethod
    def from_linear(cls, linear: nn.Linear, **noise: Any) -> DirectionLinear:
        """A noisy layer whose mean weight is that of an nn.Linear; noise: the keyword arguments of this class."""
        weight = linear.weight
        with restored_generator(weight.device):
            new = cls(
                linear.in_features,
                linear.out_features,
                linear.bias is not None,
                device=weight.device,
                dtype=weight.dtype,
                **noise,
            )
        new._take_over(linear)
        return new.train(linear.training)

    @torch.no_grad()
    def to_linear(self) -> nn.Linear:
        """The deterministic layer with the mean weight."""
        v = self.weight_v
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, device=v.device, dtype=v.dtype)
        return with_values(plain, self.mean_weight(), self.bias).train(self.training)

    def extra_repr(self) -> str:
        features = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return f"{features}, {self._describe_noise()}"


class _DirectionConv(ConvMixin, WeightNormalized):
    """A weight-normalized convolution with noise on direction and magnitude; the subclasses say how many dimensions.

    Local sampling is exact at each output position. In weight space all positions of one example share a draw of the
    weights; here each has its own, so what is left out is the dependence between positions of one example and channel.

    Args:
        in_channels to padding_mode, device, dtype: as torch.nn.ConvNd.
        direction, magnitude, sampling: as DirectionLinear; weight vectors are the output channels' kernels.
    """

    _plain_replaces_all = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        direction: Direction | None = None,
        magnitude: Magnitude | None = None,
        sampling: str = "local",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        shape = self._set_geometry(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode
        )
        self._set_noise(direction, magnitude, sampling, "output")
        self._make_parameters(shape, out_channels if bias else None, device=device, dtype=dtype)

    def patch_sq_norms(self, x: Tensor, padding: Any) -> Tensor:
        """|x|^2 of the inputs that each output position sees: (batch, groups, *positions), at least float32."""
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self.patch_sq_norms(x, padding)
        squares = x.to(wide(x.dtype)).square()
        if self.groups == 1:
            squares = squares.sum(dim=1, keepdim=True)
        else:
            squares = squares.unflatten(1, (self.groups, -1)).sum(dim=2)
        ones = squares.new_ones(self.groups, 1, *self.kernel_size)
        # Fast convolutions may round a sum of squares below zero.
        return self._convolve(squares, ones, self.groups, padding).clamp_min(0)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == self.dimensions + 1:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        x, padding = self._padded(x)
        if not self.noisy:
            return self._convolve(x, self.mean_weight(), self.groups, padding, self.bias)
        key = self._key(x.device)
        if self.sampling != "local" and self.direction is not None:
            convolve = lambda x, weight: self._convolve(x, weight, self.groups, padding)  # noqa: E731
            return weight_space_sampling.convolution(self, convolve, self.groups, x, key)
        sq_norm = None if self.direction is None else self.patch_sq_norms(x, padding).flatten(2)
        eager = not torch.compiler.is_compiling() and not transformed()
        if sq_norm is not None and eager and beyond_float32(sq_norm):
            device = x.device.type
            dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
            with torch.autocast(device, enabled=False):
                return self._local(x.double(), self.weight_v.double(), padding, key).to(dtype)
        return self._local(x, self.weight_v, padding, key, sq_norm)

    def _local(self, x: Tensor, v: Tensor, padding: Any, key: Tensor, sq_norm: Tensor | None = None) -> Tensor:
        s = self._convolve(x, v, self.groups, padding)
        if sq_norm is None and self.direction is not None:
            sq_norm = self.patch_sq_norms(x, padding).flatten(2)
        return self._noisy(s.flatten(2), sq_norm, self.inverse_norms(), self.bias, key).view(s.shape)

    @torch.no_grad()
    def to_conv(self) -> nn.Module:
        """The deterministic layer with the mean weight."""
        return self._plain_layer(self.mean_weight(), self.bias).train(self.training)

    def extra_repr(self) -> str:
        return f"{self._describe_geometry()}, {self._describe_noise()}"


class DirectionConv1d(_DirectionConv):
    __doc__ = _DirectionConv.__doc__
    dimensions = 1
    plain = nn.Conv1d


class DirectionConv2d(_DirectionConv):
    __doc__ = _DirectionConv.__doc__
    dimensions = 2
    plain = nn.Conv2d


class DirectionConv3d(_DirectionConv):
    __doc__ = _DirectionConv.__doc__
    dimensions = 3
    plain = nn.Conv3d

"""What noisy convolutions share: nn.ConvNd's geometry, its padding, and the way from and to the plain layer."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.utils import _ntuple

from .base import restored_generator, with_values

if TYPE_CHECKING:
    from typing_extensions import Self


class ConvMixin:
    """Mixed into a module whose class says `dimensions` and the `plain` layer that it stands for, and has `_take_over`,
    which sets its parameters by a plain layer's."""

    dimensions: int
    plain: Any  # nn.Conv1d, nn.Conv2d or nn.Conv3d
    in_channels: int
    out_channels: int
    groups: int
    kernel_size: tuple[int, ...]
    stride: Any
    padding: Any
    dilation: Any
    padding_mode: str
    _padding_both_sides: list[int]

    def _set_geometry(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: int,
        bias: bool,
        padding_mode: str,
    ) -> tuple[int, ...]:
        """Keeps nn.ConvNd's attributes; returns the shape of its weight. Raises its errors."""
        # nn.ConvNd checks the arguments and works out paddings; its parameters are never made.
        geometry = self.plain(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device="meta",
        )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.padding = geometry.kernel_size, geometry.stride, geometry.padding
        self.dilation, self.padding_mode = geometry.dilation, padding_mode
        self._padding_both_sides = geometry._reversed_padding_repeated_twice
        return (out_channels, in_channels // groups, *self.kernel_size)

    def _padded(self, x: Tensor) -> tuple[Tensor, Any]:
        """x and the padding that is left to the convolution."""
        if self.padding_mode == "zeros":
            return x, self.padding
        return F.pad(x, self._padding_both_sides, mode=self.padding_mode), _ntuple(self.dimensions)(0)

    def _convolve(self, x: Tensor, weight: Tensor, groups: int, padding: Any, bias: Tensor | None = None) -> Tensor:
        convolution: Any = (F.conv1d, F.conv2d, F.conv3d)[self.dimensions - 1]
        return convolution(x, weight, bias, self.stride, padding, self.dilation, groups)

    #: Whether a plain layer's values replace all that a new layer draws, so that torch's generators stay as they were.
    _plain_replaces_all: bool

    @classmethod
    def from_conv(cls, conv: _ConvNd, **noise: Any) -> Self:
        """A noisy layer whose mean weight is that of an nn.ConvNd; noise: this class's own keyword arguments."""
        device = conv.weight.device
        with restored_generator(device) if cls._plain_replaces_all else contextlib.nullcontext():
            new = cls._like(conv, **noise)
        new._take_over(conv)
        return new.train(conv.training)

    @classmethod
    def _like(cls, conv: _ConvNd, **noise: Any) -> Any:
        """A new layer of an nn.ConvNd's geometry, device and dtype; its weight is not the nn.ConvNd's yet."""
        make: Any = cls  # the class that this one is mixed into
        return make(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            conv.bias is not None,
            conv.padding_mode,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
            **noise,
        )

    def _plain_layer(self, weight: Tensor, bias: Tensor | None) -> Any:
        """A plain layer of this geometry with these parameters, on the device and of the dtype of `weight`."""
        plain = self.plain(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            bias is not None,
            self.padding_mode,
            device=weight.device,
            dtype=weight.dtype,
        )
        return with_values(plain, weight, bias)

    def _describe_geometry(self) -> str:
        shape = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        return f"{shape}, padding={self.padding}, groups={self.groups}"

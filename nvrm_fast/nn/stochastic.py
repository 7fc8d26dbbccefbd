"""Stochastic layers: mean and standard deviation of every activation predicted from the input, in one product.

"Simple and Effective Stochastic Neural Networks" (SE-SNN), section 2: z ~ N(f_mean(h), f_deviation(h)^2), h' = psi(z),
the standard deviation by softplus. Plain torch makes two products, two softplus passes, noise, its storage and a pass
for the regularizer; here it is one product of doubled width and one pass, and backward draws the noise again.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..contract.layers import ACTIVATIONS, NOTHING, StochasticSettings
from ..ops.stochastic import dense_stochastic_activation, deviation, stochastic_activation
from ..ops.transforms import transformed
from .base import NoisyModule, with_values
from .conv_mixin import ConvMixin
from .entropy import MaxEntropy, StandardNormal
from .passes import ReplayedPass, in_checkpoint_backward, in_checkpoint_forward, is_open


class Stochastic(NoisyModule):
    """What stochastic layers share. Parameters: weight and bias of a plain layer with twice as many outputs, the means'
    first, then those of the raw standard deviations. Attributes: activation; regularizer (see set_regularizer)."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    regularizer: MaxEntropy | StandardNormal | None = None
    #: Whether passes count for the regularizer: not inside without_regularizer().
    _regularized: bool = True
    #: Sums of the passes that regularizer_loss has not seen yet, each with samples, neurons and positions.
    _passes: tuple[Any, ...] = ()
    #: Passes without a graph, of reentrant checkpoints, which make them again in backward.
    _replayed: tuple[ReplayedPass, ...] = ()

    def _make(
        self,
        shape: tuple[int, ...],
        bias: bool,
        activation: str | None,
        initial_deviation: float | None,
        **factory: Any,
    ) -> None:
        if activation is not None and activation not in ACTIVATIONS:
            raise ValueError(f"activation must be None or one of {', '.join(ACTIVATIONS)}; got {activation!r}")
        if initial_deviation is not None:
            if not (math.isfinite(initial_deviation) and initial_deviation > 0):
                raise ValueError(f"initial_deviation must be positive and finite, got {initial_deviation}")
            if not bias:
                raise ValueError("initial_deviation is set by the bias: it needs bias=True")
        self.activation = activation
        self.initial_deviation = initial_deviation
        self.weight = nn.Parameter(torch.empty(2 * shape[0], *shape[1:], **factory))
        if bias:
            self.bias = nn.Parameter(torch.empty(2 * shape[0], **factory))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    @property
    def neurons(self) -> int:
        """How many outputs (channels) the layer has: half as many as its product."""
        return self.weight.shape[0] // 2

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Both halves as the plain layer: uniform within 1 / sqrt(fan_in). With initial_deviation the second half is 0
        and its bias such that sigma is that number everywhere."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(max(self.weight[0].numel(), 1))
            nn.init.uniform_(self.bias, -bound, bound)
        if self.initial_deviation is not None and self.bias is not None:
            self.weight[self.neurons :].zero_()
            initial = self.initial_deviation
            self.bias[self.neurons :].fill_(initial + math.log(-math.expm1(-initial)))  # softplus, the other way

    def mean_parameters(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the mean: views, of the plain layer's shapes."""
        n = self.neurons
        return self.weight[:n], None if self.bias is None else self.bias[:n]

    def _activated(self, y: Tensor) -> Tensor:
        return F.relu(y) if self.activation == "relu" else y

    def _settings(self) -> StochasticSettings:
        """What the operator takes; sums only in passes that count."""
        code = ACTIVATIONS[self.activation or "identity"]
        counts = self.regularizer is not None and self._regularized and self.training
        if self.regularizer is None or not counts or not (torch.is_grad_enabled() or in_checkpoint_forward()):
            return StochasticSettings(self.stream, 0, 0, code, NOTHING, 0.0)
        return StochasticSettings(self.stream, 0, 0, code, self.regularizer.sums, self.regularizer.margin)

    def _keep(self, sums: Tensor, settings: StochasticSettings, *sizes: int) -> None:
        """Remembers a pass's sums, with samples, neurons and positions, for regularizer_loss."""
        if settings.sums == NOTHING or self.regularizer is None:
            return
        if torch.compiler.is_compiling():
            self._passes = (*self._passes, (sums, *sizes))
        elif torch._C._current_graph_task_id() != -1:
            # Inside a backward: a checkpoint makes a pass again that has been counted.
            if self._replayed and in_checkpoint_backward():
                *waiting, last = self._replayed  # the last pass is the first that backward comes to
                self._replayed = tuple(waiting)
                last.add_gradient(self.regularizer.loss(sums, *sizes))
        elif torch.is_grad_enabled():
            self._passes = (*(one for one in self._passes if is_open(one[0])), (sums, *sizes))
        else:
            self._replayed = (*self._replayed, ReplayedPass(self.regularizer.loss(sums, *sizes)))

    def _sample(self, z: Tensor) -> Tensor:
        """Activations (outer, neurons, inner) from products (outer, 2 neurons, inner)."""
        settings = self._settings()
        y, sums = stochastic_activation(z, self._key(z.device), settings)
        self._keep(sums, settings, *y.shape)
        return y

    @torch.no_grad()
    def _take_over(self, plain: nn.Linear | _ConvNd) -> None:
        weight, bias = self.mean_parameters()
        weight.copy_(plain.weight)
        if bias is not None and plain.bias is not None:
            bias.copy_(plain.bias)

    def _exported(self, plain: nn.Module) -> nn.Module:
        """The plain layer of the means, followed by the activation where there is one."""
        plain.train(self.training)
        return nn.Sequential(plain, nn.ReLU()).train(self.training) if self.activation == "relu" else plain

    def to_plain(self) -> nn.Module:
        """The deterministic layer: nn.Linear or nn.ConvNd without the deviation branch; inside nn.Sequential with
        nn.ReLU if the layer has that activation. Its outputs are those of the mode "mean"."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        # Passes hold graphs, which can be neither copied nor pickled.
        return {**self.__dict__, "_passes": (), "_replayed": ()}

    def _describe(self) -> str:
        return (
            f"bias={self.bias is not None}, activation={self.activation!r}, initial_deviation={self.initial_deviation}"
        )


class StochasticLinear(Stochastic):
    """A dense layer whose outputs are Gaussian, mean and standard deviation predicted from the input.

    Args:
        in_features, out_features, bias, device, dtype: as nn.Linear.
        activation: None, "identity" or "relu": psi of equation 1, made in the same pass.
        initial_deviation: sigma at the start, the same everywhere; None initializes its branch at random, as the paper.

    Shapes: input (..., in_features), output (..., out_features), of the input's dtype (autocast's under autocast); a
    regularizer counts every row of the input as a sample. weight is (2 out_features, in_features), bias
    (2 out_features,): means, then raw standard deviations.

    Modes as every noisy layer; in the mode "mean" it is nn.Linear with the first halves, at its cost. Raises ValueError
    for an unknown activation and an initial_deviation that is not positive or comes without bias.

    Source: "Simple and Effective Stochastic Neural Networks", section 2, equation 1.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        activation: str | None = None,
        initial_deviation: float | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self._make((out_features, in_features), bias, activation, initial_deviation, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "mean":
            return self._activated(F.linear(x, *self.mean_parameters()))
        rows = x if x.dim() == 2 else x.reshape(-1, self.in_features)
        plain = x.dtype == self.weight.dtype and not torch.is_autocast_enabled(x.device.type)
        if plain and torch.is_grad_enabled() and not torch.compiler.is_compiling() and not transformed():
            settings = self._settings()
            y, sums = dense_stochastic_activation(rows, self.weight, self.bias, self._key(x.device), settings)
            self._keep(sums, settings, *y.shape, 1)
        else:
            y = self._sample(F.linear(rows, self.weight, self.bias).unsqueeze(2)).squeeze(2)
        return y if x.dim() == 2 else y.view(*x.shape[:-1], self.out_features)

    def gaussian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, each (..., out_features), before the activation; at least float32."""
        z = F.linear(x, self.weight, self.bias)
        mean, raw = z.to(torch.promote_types(z.dtype, torch.float32)).chunk(2, dim=-1)
        return mean, deviation(raw)

    @classmethod
    def from_linear(cls, linear: nn.Linear, **noise: Any) -> StochasticLinear:
        """A stochastic layer with an nn.Linear's mean; noise: activation, initial_deviation."""
        weight = linear.weight
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

    def to_plain(self) -> nn.Module:
        place = {"device": self.weight.device, "dtype": self.weight.dtype}
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, **place)
        return self._exported(with_values(plain, *self.mean_parameters()))

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, {self._describe()}"


class _StochasticConv(ConvMixin, Stochastic):
    """A convolution whose outputs are Gaussian, mean and standard deviation predicted from the input.

    Args:
        in_channels to padding_mode, device, dtype: as torch.nn.ConvNd.
        activation, initial_deviation: as StochasticLinear.

    weight and bias are those of a convolution with twice as many output channels: means, then raw standard deviations.
    Every channel and position has noise of its own.
    """

    _plain_replaces_all = False  # the deviations' half stays

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
        activation: str | None = None,
        initial_deviation: float | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        shape = self._set_geometry(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode
        )
        self._make(shape, bias, activation, initial_deviation, device=device, dtype=dtype)

    def _convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x, padding = self._padded(x)
        return self._convolve(x, weight, self.groups, padding, bias)

    def _products(self, x: Tensor) -> Tensor:
        """Means and raw deviations: (batch, 2 out_channels, *positions)."""
        if self.groups == 1:
            return self._convolved(x, self.weight, self.bias)
        # A group's outputs must be neighbors for the convolution, means and deviations for the noise.
        by_group = lambda p: p.unflatten(0, (2, self.groups, -1)).transpose(0, 1).flatten(0, 2)  # noqa: E731
        z = self._convolved(x, by_group(self.weight), None if self.bias is None else by_group(self.bias))
        return z.unflatten(1, (self.groups, 2, -1)).transpose(1, 2).flatten(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == self.dimensions + 1:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        if self.mode == "mean":
            return self._activated(self._convolved(x, *self.mean_parameters()))
        z = self._products(x)
        return self._sample(z.flatten(2)).view(z.shape[0], self.out_channels, *z.shape[2:])

    def gaussian(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of a batch, each (batch, out_channels, *positions), before the activation."""
        z = self._products(x)
        mean, raw = z.to(torch.promote_types(z.dtype, torch.float32)).chunk(2, dim=1)
        return mean, deviation(raw)

    def to_plain(self) -> nn.Module:
        return self._exported(self._plain_layer(*self.mean_parameters()))

    def extra_repr(self) -> str:
        return f"{self._describe_geometry()}, {self._describe()}"


class StochasticConv1d(_StochasticConv):
    __doc__ = _StochasticConv.__doc__
    dimensions = 1
    plain = nn.Conv1d


class StochasticConv2d(_StochasticConv):
    __doc__ = _StochasticConv.__doc__
    dimensions = 2
    plain = nn.Conv2d


class StochasticConv3d(_StochasticConv):
    __doc__ = _StochasticConv.__doc__
    dimensions = 3
    plain = nn.Conv3d

"""Weight-normalized layers with noise on magnitude and direction: what dense layers and convolutions share."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ..contract.laws import NORMAL, Direction, Magnitude, direction_code, magnitude_code
from ..contract.layers import DirectionParameters, DirectionSettings
from ..ops.direction import direction_noise, law_constants
from ..ops.fused_linear import inverse_norms
from ..ops.transforms import transformed
from .base import NoisyModule, wide

#: law_param_0, law_param_1 and constants of the distribution of the angle.
LawTensors = tuple[Tensor | None, Tensor | None, Tensor]

SAMPLINGS = ("local", "shared", "batch", "flipout")


class WeightNormalized(NoisyModule):
    """weight = weight_g * weight_v / |weight_v|, each weight vector with a magnitude of its own (Salimans and Kingma).

    Parameters, named and shaped as torch.nn.utils.weight_norm names them: weight_v (of the plain layer's shape),
    weight_g (the same with 1 in every dimension but the normalized one), bias. normalize: "output" (a weight vector for
    each output unit) or "input" (for each input unit; section 4.3 of the thesis, dense layers only).
    """

    weight_v: nn.Parameter
    weight_g: nn.Parameter
    bias: nn.Parameter | None

    def _set_noise(
        self, direction: Direction | None, magnitude: Magnitude | None, sampling: str, normalize: str
    ) -> None:
        if direction is not None and not isinstance(direction, Direction):
            raise TypeError(f"direction must be a noise of nvrm_fast.nn or None, got {type(direction).__name__}")
        if magnitude is not None and not isinstance(magnitude, Magnitude):
            raise TypeError(f"magnitude must be a noise of nvrm_fast.nn or None, got {type(magnitude).__name__}")
        if sampling not in SAMPLINGS:
            raise ValueError(f"sampling must be one of {', '.join(SAMPLINGS)}; got {sampling!r}")
        if normalize not in ("output", "input"):
            raise ValueError(f'normalize must be "output" or "input", got {normalize!r}')
        if normalize == "input" and direction is not None and sampling == "local":
            raise ValueError(
                "a weight vector of an input unit reaches every output, so its direction has no local sampling: "
                'use sampling="shared", "batch" or "flipout"'
            )
        self.direction = direction
        self.magnitude = magnitude
        self.sampling = sampling
        self.normalize = normalize
        self._law: tuple[Any, LawTensors] | None = None

    def _make_parameters(self, shape: tuple[int, ...], bias: int | None, **factory: Any) -> None:
        self.weight_v = nn.Parameter(torch.empty(shape, **factory))
        ones = [1] * len(shape)
        dim = 0 if self.normalize == "output" else 1
        ones[dim] = shape[dim]
        self.weight_g = nn.Parameter(torch.empty(ones, **factory))
        if bias is None:
            self.register_parameter("bias", None)
        else:
            self.bias = nn.Parameter(torch.empty(bias, **factory))
        fan_in = self.fan_in
        if self.direction is not None and fan_in < 2:
            raise ValueError("a weight vector of one element has no direction to turn: it needs at least 2")
        self.reset_parameters()

    @property
    def fan_in(self) -> int:
        """The length of one weight vector."""
        neurons = self.weight_v.shape[0] if self.normalize == "output" else self.weight_v.shape[1]
        return self.weight_v.numel() // max(neurons, 1)

    @property
    def neurons(self) -> int:
        """How many weight vectors there are."""
        return self.weight_g.numel()

    def reset_parameters(self) -> None:
        """As the plain layer: uniform weights and biases within 1 / sqrt(fan_in); magnitudes are the norms."""
        nn.init.kaiming_uniform_(self.weight_v, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight_v[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)
        self._set_magnitudes()

    @torch.no_grad()
    def _set_magnitudes(self) -> None:
        self.weight_g.copy_(self.weight_norms().view_as(self.weight_g))

    @torch.no_grad()
    def _take_over(self, plain: nn.Linear | _ConvNd) -> None:
        """Takes over the weight of a plain layer. A weight vector of zeros keeps its random direction, at magnitude 0:
        the same layer, and one that can be trained."""
        initial = self.weight_v.clone()
        self.weight_v.copy_(plain.weight)
        self._set_magnitudes()
        self.weight_v.copy_(torch.where(self.weight_g == 0, initial, self.weight_v))
        if plain.bias is not None and self.bias is not None:
            self.bias.copy_(plain.bias)

    def weight_norms(self) -> Tensor:
        """|weight_v| of each weight vector: shape (neurons,), at least float32."""
        v = self._weight_vectors()
        return torch.linalg.vector_norm(v, dim=1, dtype=wide(v.dtype))

    def _weight_vectors(self) -> Tensor:
        """weight_v as (neurons, fan_in)."""
        return self.weight_v.flatten(1) if self.normalize == "output" else self.weight_v.flatten(1).t()

    def inverse_norms(self) -> Tensor:
        """1 / |weight_v| of each weight vector, 0 for one of zeros: shape (neurons,), at least float32."""
        return inverse_norms(self._weight_vectors(), wide(self.weight_v.dtype))

    def mean_weight(self) -> Tensor:
        """The weight with every noise replaced by its mean, of weight_v's shape and dtype."""
        scale = self._mean_magnitude() * self.inverse_norms() * self._mean_cosine()
        return (self.weight_v * scale.view_as(self.weight_g)).to(self.weight_v.dtype)

    def _mean_cosine(self) -> Tensor | float:
        """What the mean of the direction noise leaves of the direction; 1 where the noise's own mean is no noise."""
        return 1.0

    def _mean_magnitude(self) -> Tensor:
        """Of each weight vector: shape (neurons,), at least float32."""
        return self.weight_g.flatten().to(wide(self.weight_g.dtype))

    def _magnitude(self) -> tuple[Tensor, Tensor | None]:
        """Mean and std of the factor mean + std * xi on each direction: shape (neurons,), at least float32."""
        g = self._mean_magnitude()
        if self.magnitude is None:
            return g, None
        if self.magnitude.code == NORMAL:
            return g, g * math.sqrt(self.magnitude.alpha)
        return torch.zeros_like(g), g

    def _law_tensors(self, dtype: torch.dtype) -> LawTensors:
        """law_param_0, law_param_1 and constants of the angle's distribution, kept from pass to pass while everything
        that they are made of stays the same."""
        v = self.weight_v
        made_of = (self.direction, v.shape, v.device, dtype)
        compiling = torch.compiler.is_compiling()
        if self._law is not None and not compiling and self._law[0] == made_of:
            return self._law[1]
        # Tensors that are made in inference mode could not be saved for backward later.
        with nullcontext() if compiling else torch.inference_mode(False):
            tensors = self._new_law_tensors(dtype)
        # Dynamo, fake tensors and transforms must not leave theirs behind.
        if not compiling and type(tensors[2]) is Tensor and not transformed():
            self._law = (made_of, tensors)
        return tensors

    def _new_law_tensors(self, dtype: torch.dtype) -> LawTensors:
        device = self.weight_v.device
        parameters = (None, None) if self.direction is None else self.direction.parameters()
        full = lambda p: torch.full((self.neurons,), p, dtype=dtype, device=device)  # noqa: E731
        law_param_0, law_param_1 = (None if p is None else full(p) for p in parameters)
        constants = law_constants(self.direction, law_param_0, law_param_1, self.fan_in, self.neurons, device)
        return law_param_0, law_param_1, constants

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_law": None}

    @property
    def noisy(self) -> bool:
        """Whether a forward pass draws noise at all."""
        return self.mode != "mean" and (self.direction is not None or self.magnitude is not None)

    def _settings(
        self, step: int = 0, direction: Direction | None = None, tangent_given: bool = False
    ) -> DirectionSettings:
        low, high = (0.0, 0.0) if direction is None else direction.ends
        alpha = 0.0 if self.magnitude is None else float(getattr(self.magnitude, "alpha", 0.0))
        return DirectionSettings(
            self.stream,
            step,
            0,
            direction_code(direction),
            magnitude_code(self.magnitude),
            self.fan_in,
            alpha,
            low,
            high,
            tangent_given,
        )

    def _noise_parameters(self, dtype: torch.dtype, bias: Tensor | None, key: Tensor) -> DirectionParameters:
        """What the operator is told of the noise, in dtype."""
        magnitude_mean, magnitude_std = self._magnitude()
        law_param_0, law_param_1, constants = self._law_tensors(dtype)
        cast = lambda x: None if x is None else x.to(dtype)  # noqa: E731
        return DirectionParameters(
            magnitude_mean.to(dtype),
            cast(magnitude_std),
            cast(bias),
            cast(law_param_0),
            cast(law_param_1),
            constants,
            key,
        )

    def _noisy(self, s: Tensor, sq_norm: Tensor | None, scale: Tensor, bias: Tensor | None, key: Tensor) -> Tensor:
        """Activations (outer, neurons, inner) from products s with weight_v and |x|^2 (outer, groups, inner)."""
        dtype = wide(s.dtype)
        if sq_norm is None:
            sq_norm = torch.zeros(0, dtype=dtype, device=s.device)
        return direction_noise(
            s,
            sq_norm.to(dtype),
            scale.to(dtype),
            self._noise_parameters(dtype, bias, key),
            self._settings(direction=self.direction),
        )

    def _describe_noise(self) -> str:
        noise = f"direction={self.direction}, magnitude={self.magnitude}, sampling={self.sampling!r}"
        return noise if self.normalize == "output" else f"{noise}, normalize={self.normalize!r}"

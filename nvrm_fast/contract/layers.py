"""What the layers' operators take besides tensors, and what they refuse: for the backends, which agree on it.

csrc/python/direction.h and stochastic.cpp say the same in C++.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .laws import LAWS, MAGNITUDE_CODES, NO_DIRECTION, NO_MAGNITUDE

#: Where rho^2 is no more than this part of |x|^2 it is rounding error: x is parallel to v, and rho has no gradient.
PARALLEL = 2.0**-22

#: psi of the stochastic layers, by its code in operator arguments: never renumber.
IDENTITY, RELU = 0, 1
ACTIVATIONS = {"identity": IDENTITY, "relu": RELU}
#: What is summed beside their activations, by its code: never renumber.
#:   neuron      log sigma over examples and positions: (neurons,), for equation 5
#:   sample      log sigma over neurons and positions: (outer,), for equation 6
#:   element     (margin - log sigma)^+ over neurons and positions: (outer,), for equation 7
#:   divergence  KL(N(mean, sigma^2) || N(0, 1)) over neurons and positions: (outer,), as VIB has it
NOTHING, NEURON, SAMPLE, ELEMENT, DIVERGENCE = range(5)
SUMS = {"nothing": NOTHING, "neuron": NEURON, "sample": SAMPLE, "element": ELEMENT, "divergence": DIVERGENCE}


class DirectionParameters(NamedTuple):
    """The tensors that direction_noise takes besides products and norms, in the schema's order.

    magnitude_mean, magnitude_std, bias, law_param_0, law_param_1: (neurons,), in float32 or float64; None where the
    noise has none. constants: what kernels need of the law's parameters, float32, (rows, neurons). key: an int64 tensor
    with one element.
    """

    magnitude_mean: Tensor
    magnitude_std: Tensor | None
    bias: Tensor | None
    law_param_0: Tensor | None
    law_param_1: Tensor | None
    constants: Tensor
    key: Tensor


class DirectionSettings(NamedTuple):
    """What direction_noise takes besides tensors.

    stream, step, offset: place in the noise contract, offset the row-major index of the first activation.
    law, magnitude: codes (contract/laws.py). fan_in: length of a weight vector. alpha: variance of a Gamma magnitude.
    low, high: ends of a truncated normal angle. tangent_given: the tangent part rho u is no coordinate of a random
    point but given, in the place of |x|^2 and with s's shape: products with tangent directions that examples share.
    """

    stream: int
    step: int
    offset: int
    law: int
    magnitude: int
    fan_in: int
    alpha: float
    low: float
    high: float
    tangent_given: bool


def direction_arguments(arguments: Sequence[Any]) -> tuple[DirectionParameters, DirectionSettings]:
    """direction_noise's arguments after s, sq_norm and scale, as its operators get them."""
    count = len(DirectionParameters._fields)
    return DirectionParameters(*arguments[:count]), DirectionSettings(*arguments[count:])


def wanted_gradients(p: DirectionParameters, at: DirectionSettings, slopes: bool) -> tuple[bool, ...]:
    """Which of direction_noise_backward's results for each neuron, scale to law_param_1, are not empty."""
    count = LAWS[at.law].parameter_count if at.law != NO_DIRECTION and slopes else 0
    return (
        True,
        True,
        at.magnitude != NO_MAGNITUDE,
        p.bias is not None,
        count > 0 and p.law_param_0 is not None,
        count > 1 and p.law_param_1 is not None,
    )


def neuron_gradients(parts: Tensor, wanted: Sequence[bool]) -> list[Tensor]:
    """Those results from the parts of their sums that a kernel leaves: float32, shape (parts, sums, neurons)."""
    sums = parts.sum(0)
    return [sums[k].clone() if want else sums.new_empty(0) for k, want in enumerate(wanted)]


def sq_norm_gradient(parts: Tensor, groups: int) -> Tensor:
    """The gradient for |x|^2, (outer, groups, inner), from a kernel's parts of twice its sums, ordered by groups:
    float32, shape (groups * blocks, outer, inner)."""
    by_group = parts.view(groups, len(parts) // groups, *parts.shape[1:])
    return by_group.sum(1).mul_(0.5).transpose(0, 1).contiguous()


class StochasticSettings(NamedTuple):
    """What stochastic_activation takes besides tensors. stream, step, offset: place in the noise contract, offset the
    row-major index of y's first element. activation, sums: codes. margin: b of equation 7."""

    stream: int
    step: int
    offset: int
    activation: int
    sums: int
    margin: float


class GammaConstants(NamedTuple):
    """Of Marsaglia and Tsang's method, in float64: d * v is Gamma(shape) (times a power of a uniform below shape 1).

    sure: a proposal x with 1 - U > sure x^4 is accepted whatever the logarithms say; 0: they are always asked. The log
    of the acceptance rate is at least -1.5 d (c x)^4 = -x^4 / (54 d) for |c x| <= 1/2, which every |x| < 5.2, and no
    word gives a larger one, fulfils from d = 12 on; and ln U < -(1 - U).
    """

    d: float
    c: float
    sure: float

    @staticmethod
    def of_shape(shape: float) -> GammaConstants:
        """The constants of Gamma(shape)."""
        d = (shape if shape >= 1 else shape + 1) - 1 / 3
        return GammaConstants(d, 1 / math.sqrt(9 * d), 1 / (54 * d) if d >= 12 else 0.0)


def _check_key(key: Tensor) -> None:
    if key.dtype != torch.int64 or key.numel() != 1:
        raise TypeError("key must be an int64 tensor with one element")


def _check_place(stream: int) -> None:
    if not 0 <= stream < 2**32:
        raise ValueError(f"stream must be in [0, 2^32), got {stream}")


def check_direction_noise(s: Tensor, sq_norm: Tensor, key: Tensor, settings: DirectionSettings) -> None:
    """What direction_noise refuses. Raises ValueError or TypeError that names the argument."""
    if s.dim() != 3:
        raise ValueError(f"s must have shape (outer, neurons, inner), got {list(s.shape)}")
    if not s.is_floating_point():
        raise TypeError(f"s must be a floating-point tensor, got {s.dtype}")
    _check_key(key)
    if settings.law != NO_DIRECTION and settings.law not in LAWS:
        raise ValueError(f"law must be a code in [0, {len(LAWS)}], got {settings.law}")
    if settings.magnitude not in MAGNITUDE_CODES:
        raise ValueError(f"magnitude must be a code in [0, 2], got {settings.magnitude}")
    _check_place(settings.stream)
    if settings.offset < 0 or settings.offset + s.numel() > 2**56:
        raise ValueError(f"offset must be in [0, 2^56 - activations], got {settings.offset}")
    if settings.law == NO_DIRECTION:
        return
    if settings.fan_in < 2:
        raise ValueError("a weight vector of one element has no direction to turn: fan_in must be at least 2")
    if settings.tangent_given:
        if sq_norm.shape != s.shape:
            raise ValueError(f"a given tangent part must have s's shape {list(s.shape)}, got {list(sq_norm.shape)}")
    elif sq_norm.dim() != 3 or (sq_norm.shape[0], sq_norm.shape[2]) != (s.shape[0], s.shape[2]):
        raise ValueError(f"sq_norm must have shape ({s.shape[0]}, groups, {s.shape[2]}), got {list(sq_norm.shape)}")
    elif sq_norm.shape[1] == 0 or s.shape[1] % sq_norm.shape[1] != 0:
        raise ValueError(f"sq_norm must have a number of groups that divides {s.shape[1]}, got {sq_norm.shape[1]}")


def check_stochastic_activation(z: Tensor, key: Tensor, settings: StochasticSettings) -> None:
    """What stochastic_activation refuses. Raises ValueError or TypeError that names the argument."""
    if z.dim() != 3 or z.shape[1] % 2:
        raise ValueError(f"z must have shape (outer, 2 * neurons, inner), got {list(z.shape)}")
    if not z.is_floating_point():
        raise TypeError(f"z must be a floating-point tensor, got {z.dtype}")
    _check_key(key)
    _check_place(settings.stream)
    if settings.offset < 0:
        raise ValueError(f"offset must not be negative, got {settings.offset}")
    for name, code, known in (("activation", settings.activation, ACTIVATIONS), ("sums", settings.sums, SUMS)):
        if code not in known.values():
            raise ValueError(f"{name} must be a code in [0, {len(known)}), got {code}")


def sums_shape(z: Tensor, sums: int) -> tuple[int, ...]:
    """The shape of stochastic_activation's second result."""
    if sums == NOTHING:
        return (0,)
    return (z.shape[1] // 2,) if sums == NEURON else (z.shape[0],)

"""Exact local sampling of direction and magnitude noise: the pass that follows the matrix product, and its gradients.

Isotropic noise turns a unit weight vector v by a random angle towards a uniformly random tangent direction. What one
neuron then makes of one input x is, exactly,

    y = (gain + spread xi) (cos s + sin rho u) + bias,   s = v . x,   rho = sqrt(|x|^2 - s^2)

with the angle from a law (angles.py), u one coordinate of a uniform point on the unit sphere of the tangent space, and
xi the magnitude's variate: N(0, 1), or Gamma with mean 1 and variance alpha (gain is then 0 and spread the magnitude).
The law of cosines for the neuron's direction, its rotated copy and x; it replaces a noise matrix of the weights' shape
for every object by three random numbers for every activation. Thesis of P. Kirichenko (2018), sections 3.2, 3.3, 4.2.

Shapes: activations (outer, neurons, inner): a dense layer has inner 1, a convolution's are its positions. |x|^2 is
(outer, groups, inner), parameters (neurons,), constants (rows, neurons).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .activation import Blocks, gamma_magnitude, sphere_coordinate
from .angles import LAWS
from .distribution import gaussian
from .elementary import fused_multiply_add, square_root

NO_DIRECTION, NO_MAGNITUDE, NORMAL, GAMMA = 0, 0, 1, 2
#: Where rho^2 is no more than this part of |x|^2 it is rounding error: x is parallel to v, and rho has no gradient.
PARALLEL = 2.0**-22


class Settings(NamedTuple):
    """What the operators take besides tensors. stream, step, offset: place in the noise contract, offset the row-major
    index of the first activation. direction, magnitude: codes. fan_in: length of v. alpha: variance of a Gamma
    magnitude. low, high: ends of a truncated normal angle. given: the tangent part rho u is no coordinate of a random
    point but given, in the place of |x|^2 and with s's shape: products with tangent directions that objects share."""

    stream: int
    step: int
    offset: int
    direction: int
    magnitude: int
    fan_in: int
    alpha: float
    low: float
    high: float
    given: bool


class Variates(NamedTuple):
    """Random numbers of each activation, of the activations' shape; None or empty where the noise has none."""

    xi: Tensor | None
    u: Tensor | None
    law: tuple[Tensor, ...]


def check_local(s: Tensor, square: Tensor, key: Tensor, settings: Settings) -> None:
    """Raises ValueError or TypeError that names the argument."""
    if s.dim() != 3:
        raise ValueError(f"s must have shape (outer, neurons, inner), got {list(s.shape)}")
    if not s.is_floating_point():
        raise TypeError(f"s must be a floating-point tensor, got {s.dtype}")
    if key.dtype != torch.int64 or key.numel() != 1:
        raise TypeError("key must be an int64 tensor with one element")
    if settings.direction != NO_DIRECTION and settings.direction not in LAWS:
        raise ValueError(f"direction must be a code in [0, {len(LAWS)}], got {settings.direction}")
    if settings.magnitude not in (NO_MAGNITUDE, NORMAL, GAMMA):
        raise ValueError(f"magnitude must be a code in [0, 2], got {settings.magnitude}")
    if not 0 <= settings.stream < 2**32:
        raise ValueError(f"stream must be in [0, 2^32), got {settings.stream}")
    if settings.offset < 0 or settings.offset + s.numel() > 2**56:
        raise ValueError(f"offset must be in [0, 2^56 - activations], got {settings.offset}")
    if settings.direction != NO_DIRECTION:
        if settings.fan_in < 2:
            raise ValueError("a weight vector of one element has no direction to turn: fan_in must be at least 2")
        if settings.given:
            if square.shape != s.shape:
                raise ValueError(f"a given tangent part must have s's shape {list(s.shape)}, got {list(square.shape)}")
        elif square.dim() != 3 or (square.shape[0], square.shape[2]) != (s.shape[0], s.shape[2]):
            raise ValueError(f"square must have shape ({s.shape[0]}, groups, {s.shape[2]}), got {list(square.shape)}")
        elif square.shape[1] == 0 or s.shape[1] % square.shape[1] != 0:
            raise ValueError(f"square must have a number of groups that divides {s.shape[1]}, got {square.shape[1]}")


def draw(shape: torch.Size, constants: Tensor, key: Tensor, settings: Settings) -> Variates:
    """The variates of a whole tensor of activations, float32."""
    blocks = Blocks(shape, key, settings.stream, settings.step, settings.offset)
    xi = u = None
    law: tuple[Tensor, ...] = ()
    if settings.magnitude == NORMAL:
        xi, _ = gaussian(blocks.words(0)[1])
    elif settings.magnitude == GAMMA:
        xi = gamma_magnitude(blocks, settings.alpha)
    if settings.direction != NO_DIRECTION:
        if not settings.given:
            u = sphere_coordinate(blocks.words(0)[0], settings.fan_in - 1)
        law = LAWS[settings.direction].draw(blocks, constants[:, None, :, None], settings.fan_in)
    return Variates(xi, u, law)


def local_variates(
    shape: list[int], constants: Tensor, key: Tensor, *settings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """`draw` as an operator: xi, u and the law's one or two variates; an empty tensor for each that is not there."""
    found = draw(torch.Size(shape), constants, key, Settings(*settings))
    nothing = torch.empty(0, dtype=torch.float32, device=key.device)
    tensors = [found.xi, found.u, *found.law, None, None]
    xi, u, first, second = (nothing.clone() if x is None else x for x in tensors[:4])
    return xi, u, first, second


def _wide(parameter: Tensor) -> Tensor:
    return parameter[None, :, None]


def _by_neuron(square: Tensor, neurons: int) -> Tensor:
    """|x|^2 for each neuron: neurons of a group share theirs."""
    return square.repeat_interleave(neurons // square.shape[1], dim=1)


def _multiply_add(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a * b + c: in float32 with one rounding, so that every backend has the same bits."""
    return fused_multiply_add(a, b, c) if b.dtype == torch.float32 else a * b + c


class _Turned(NamedTuple):
    """One activation, half done: unit projection, across = rho u, d = cos s + sin across."""

    unit: Tensor
    across: Tensor
    u_over_rho: Tensor
    cosine: Tensor
    sine: Tensor
    slopes: tuple[Tensor, ...]
    d: Tensor


def _turn(
    s: Tensor, square: Tensor, scale: Tensor, first: Tensor | None, second: Tensor | None, constants: Tensor,
    variates: Variates, settings: Settings,
) -> _Turned:  # fmt: skip
    unit = s * _wide(scale)
    if settings.direction == NO_DIRECTION:
        return _Turned(unit, unit, unit, unit, unit, (), unit)
    cosine, sine, slopes = _angle(first, second, constants, variates.law, settings, unit.dtype)
    if settings.given:
        d = _multiply_add(cosine, unit, sine * square)
        return _Turned(unit, square, torch.zeros_like(unit), cosine, sine, slopes, d)
    whole = _by_neuron(square, s.shape[1])
    u = variates.u.to(unit.dtype)
    rest = _multiply_add(-unit, unit, whole)
    rest = torch.where(rest > 0, rest, 0.0)
    rho = square_root(rest)
    across = rho * u
    u_over_rho = torch.where(rest > PARALLEL * whole, u / rho, 0.0)
    d = _multiply_add(cosine, unit, sine * across)
    return _Turned(unit, across, u_over_rho, cosine, sine, slopes, d)


def _angle(
    first: Tensor | None, second: Tensor | None, constants: Tensor, variates: tuple[Tensor, ...], settings: Settings,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:  # fmt: skip
    """cos, sin and slopes of the angle: by fixed steps in float32, by torch's functions in float64."""
    law, constants = LAWS[settings.direction], constants[:, None, :, None]
    if dtype == torch.float32:
        return law.angle(variates, constants, settings.low, settings.high)
    first, second = (None if x is None else _wide(x.to(dtype)) for x in (first, second))
    variates = tuple(x.to(dtype) for x in variates)
    return law.formula(variates, constants.to(dtype), first, second, settings.low, settings.high)


def _factor(gain: Tensor, spread: Tensor | None, xi: Tensor | None, like: Tensor) -> Tensor:
    if xi is None:
        return _wide(gain).expand_as(like)
    return _multiply_add(_wide(spread).expand_as(like), xi.to(like.dtype), _wide(gain))


def local_formula(
    s: Tensor, square: Tensor, scale: Tensor, gain: Tensor, spread: Tensor | None, bias: Tensor | None,
    first: Tensor | None, second: Tensor | None, constants: Tensor, variates: Variates, settings: Settings,
) -> Tensor:  # fmt: skip
    """y by functions that autograd knows, to any order, in s's dtype or float32, whichever is wider. The variates are
    constants here: they depend on no parameter that has a gradient."""
    dtype = torch.promote_types(s.dtype, torch.float32)
    wide = lambda x: None if x is None else _wide(x.to(dtype))  # noqa: E731
    xi, u = (None if x is None else x.to(dtype) for x in variates[:2])
    unit = s.to(dtype) * wide(scale)
    d = unit
    if settings.direction != NO_DIRECTION:
        if settings.given:
            across = square.to(dtype)
        else:
            whole = _by_neuron(square.to(dtype), s.shape[1])
            rest = whole - unit * unit
            # Where x is parallel to v the square root has no derivative, and hardly a part in the result.
            regular = rest > PARALLEL * whole
            across = torch.where(regular, rest, 1.0).sqrt() * regular * u
        cosine, sine, _ = LAWS[settings.direction].formula(
            tuple(x.to(dtype) for x in variates.law), constants.to(dtype)[:, None, :, None], wide(first), wide(second),
            settings.low, settings.high,
        )  # fmt: skip
        d = cosine * unit + sine * across
    factor = wide(gain) if xi is None else wide(gain) + wide(spread) * xi
    y = factor * d if bias is None else factor * d + wide(bias)
    return y.to(s.dtype)


def local_noise(
    s: Tensor, square: Tensor, scale: Tensor, gain: Tensor, spread: Tensor | None, bias: Tensor | None,
    first: Tensor | None, second: Tensor | None, constants: Tensor, key: Tensor, *settings,
) -> Tensor:  # fmt: skip
    """Noisy activations, of s's shape and dtype. See the top of this file and `Settings`.

    s: products of inputs and weight vectors of any length; scale: what makes those vectors unit ones. float64 is
    computed by torch's functions, everything else in float32 by fixed steps with the same bits in every backend.
    """
    settings = Settings(*settings)
    check_local(s, square, key, settings)
    variates = draw(s.shape, constants, key, settings)
    dtype = torch.promote_types(s.dtype, torch.float32)
    d = _turn(s.to(dtype), square, scale, first, second, constants, variates, settings).d
    factor = _factor(gain, spread, variates.xi, d)
    zero = torch.zeros((), dtype=dtype, device=s.device)
    return _multiply_add(factor, d, zero if bias is None else _wide(bias)).to(s.dtype)


def local_noise_backward(
    grad: Tensor, s: Tensor, square: Tensor, scale: Tensor, gain: Tensor, spread: Tensor | None, bias: Tensor | None,
    first: Tensor | None, second: Tensor | None, constants: Tensor, key: Tensor, *settings_and_slopes,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of `local_noise` for s, square, scale, gain, spread, bias, first and second, the noise drawn again from
    the key; an empty tensor for an argument that is None (or, direction 0, unused). The last argument says
    whether first and second are wanted; if not, theirs are empty too."""
    settings, slopes = Settings(*settings_and_slopes[:-1]), settings_and_slopes[-1]
    check_local(s, square, key, settings)
    variates = draw(s.shape, constants, key, settings)
    nothing = torch.empty(0, dtype=scale.dtype, device=s.device)
    dtype = torch.promote_types(s.dtype, torch.float32)
    turned = _turn(s.to(dtype), square, scale, first, second, constants, variates, settings)
    factor = _factor(gain, spread, variates.xi, turned.d)
    dy = grad.to(dtype)
    dd = dy * factor
    moved = dy * turned.d
    over_neuron = lambda x: x.sum(dim=(0, 2))  # noqa: E731
    d_square, d_law, d_unit = nothing, [nothing, nothing], dd
    if settings.direction != NO_DIRECTION:
        h = turned.sine * turned.u_over_rho
        d_unit = dd * _multiply_add(-turned.unit, h, turned.cosine)
        if settings.given:
            d_square = (dd * turned.sine).to(square.dtype)
        else:
            d_square = 0.5 * (dd * h).unflatten(1, (square.shape[1], -1)).sum(dim=2)
        turning = dd * _multiply_add(turned.cosine, turned.across, -(turned.sine * turned.unit))
        for i, (parameter, slope) in enumerate(zip((first, second), turned.slopes)):
            if parameter is not None and slopes:
                d_law[i] = over_neuron(turning * slope)
    return (
        (d_unit * _wide(scale)).to(s.dtype),
        d_square,
        over_neuron(d_unit * s.to(dtype)),
        over_neuron(moved),
        nothing.clone() if variates.xi is None else over_neuron(moved * variates.xi.to(dtype)),
        nothing.clone() if bias is None else over_neuron(dy),
        d_law[0].clone(),
        d_law[1].clone(),
    )

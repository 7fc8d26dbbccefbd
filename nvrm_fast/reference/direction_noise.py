"""Exact local sampling of direction and magnitude noise: the pass that follows the matrix product, and its gradients.

Isotropic noise turns a unit weight vector v by a random angle towards a uniformly random tangent direction. What one
neuron then makes of one input x is, exactly,

    y = (magnitude_mean + magnitude_std xi) (cos s + sin rho u) + bias,   s = v . x,   rho = sqrt(|x|^2 - s^2)

with the angle from a law (angles.py), u one coordinate of a uniform point on the unit sphere of the tangent space, and
xi the magnitude's variate: N(0, 1), or Gamma with mean 1 and variance alpha (magnitude_mean is then 0 and
magnitude_std the magnitude).

The law of cosines for the neuron's direction, its rotated copy and x; it replaces a noise matrix of the weights' shape
for every example by three random numbers for every activation. Thesis of P. Kirichenko (2018), sections 3.2, 3.3, 4.2.

Shapes: activations (outer, neurons, inner): a dense layer has inner 1, a convolution's are its positions. |x|^2 is
(outer, groups, inner), parameters (neurons,), constants (rows, neurons).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..contract.laws import GAMMA, NO_DIRECTION, NORMAL
from ..contract.layers import (
    PARALLEL,
    DirectionParameters,
    DirectionSettings,
    check_direction_noise,
    direction_arguments,
)
from .activation import Blocks, gamma_magnitude, sphere_coordinate
from .angles import ANGLES
from .distribution import gaussian
from .special_functions import fused_multiply_add, square_root


class Variates(NamedTuple):
    """Random numbers of each activation, of the activations' shape; None or empty where the noise has none."""

    xi: Tensor | None
    u: Tensor | None
    law: tuple[Tensor, ...]


def draw(shape: torch.Size, constants: Tensor, key: Tensor, settings: DirectionSettings) -> Variates:
    """The variates of a whole tensor of activations, float32."""
    blocks = Blocks(shape, key, settings.stream, settings.step, settings.offset)
    xi = u = None
    law: tuple[Tensor, ...] = ()
    if settings.magnitude == NORMAL:
        xi, _ = gaussian(blocks.words(0)[1])
    elif settings.magnitude == GAMMA:
        xi = gamma_magnitude(blocks, settings.alpha)
    if settings.law != NO_DIRECTION:
        if not settings.tangent_given:
            u = sphere_coordinate(blocks.words(0)[0], settings.fan_in - 1)
        law = ANGLES[settings.law].draw(blocks, constants[:, None, :, None], settings.fan_in)
    return Variates(xi, u, law)


def direction_variates(
    shape: list[int], constants: Tensor, key: Tensor, *settings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`draw` as an operator: xi, u and the law's one or two variates; an empty tensor for each that is not there."""
    found = draw(torch.Size(shape), constants, key, DirectionSettings(*settings))
    nothing = torch.empty(0, dtype=torch.float32, device=key.device)
    tensors = [found.xi, found.u, *found.law, None, None]
    xi, u, law_0, law_1 = (nothing.clone() if x is None else x for x in tensors[:4])
    return xi, u, law_0, law_1


def _wide(parameter: Tensor) -> Tensor:
    return parameter[None, :, None]


def _by_neuron(sq_norm: Tensor, neurons: int) -> Tensor:
    """|x|^2 for each neuron: neurons of a group share theirs."""
    return sq_norm.repeat_interleave(neurons // sq_norm.shape[1], dim=1)


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
    s: Tensor,
    sq_norm: Tensor,
    scale: Tensor,
    p: DirectionParameters,
    variates: Variates,
    settings: DirectionSettings,
) -> _Turned:
    unit = s * _wide(scale)
    if settings.law == NO_DIRECTION:
        return _Turned(unit, unit, unit, unit, unit, (), unit)
    cosine, sine, slopes = _angle(p, variates.law, settings, unit.dtype)
    if settings.tangent_given:
        d = _multiply_add(cosine, unit, sine * sq_norm)
        return _Turned(unit, sq_norm, torch.zeros_like(unit), cosine, sine, slopes, d)
    whole = _by_neuron(sq_norm, s.shape[1])
    u = variates.u.to(unit.dtype)
    rest = _multiply_add(-unit, unit, whole)
    rest = torch.where(rest > 0, rest, 0.0)
    rho = square_root(rest)
    across = rho * u
    u_over_rho = torch.where(rest > PARALLEL * whole, u / rho, 0.0)
    d = _multiply_add(cosine, unit, sine * across)
    return _Turned(unit, across, u_over_rho, cosine, sine, slopes, d)


def _angle(
    p: DirectionParameters, variates: tuple[Tensor, ...], settings: DirectionSettings, dtype: torch.dtype
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """cos, sin and slopes of the angle: by fixed steps in float32, by torch's functions in float64."""
    law, constants = ANGLES[settings.law], p.constants[:, None, :, None]
    if dtype == torch.float32:
        return law.angle(variates, constants, settings.low, settings.high)
    law_param_0, law_param_1 = (None if x is None else _wide(x.to(dtype)) for x in (p.law_param_0, p.law_param_1))
    variates = tuple(x.to(dtype) for x in variates)
    return law.formula(variates, constants.to(dtype), law_param_0, law_param_1, settings.low, settings.high)


def _factor(p: DirectionParameters, xi: Tensor | None, like: Tensor) -> Tensor:
    if xi is None:
        return _wide(p.magnitude_mean).expand_as(like)
    return _multiply_add(_wide(p.magnitude_std).expand_as(like), xi.to(like.dtype), _wide(p.magnitude_mean))


def direction_formula(
    s: Tensor,
    sq_norm: Tensor,
    scale: Tensor,
    p: DirectionParameters,
    variates: Variates,
    settings: DirectionSettings,
) -> Tensor:
    """y by functions that autograd knows, to any order, in s's dtype or float32, whichever is wider. The variates are
    constants here: they depend on no parameter that has a gradient."""
    dtype = torch.promote_types(s.dtype, torch.float32)
    wide = lambda x: None if x is None else _wide(x.to(dtype))  # noqa: E731
    xi, u = (None if x is None else x.to(dtype) for x in variates[:2])
    unit = s.to(dtype) * wide(scale)
    d = unit
    if settings.law != NO_DIRECTION:
        if settings.tangent_given:
            across = sq_norm.to(dtype)
        else:
            whole = _by_neuron(sq_norm.to(dtype), s.shape[1])
            rest = whole - unit * unit
            # Where x is parallel to v the square root has no derivative, and hardly a part in the result.
            regular = rest > PARALLEL * whole
            across = torch.where(regular, rest, 1.0).sqrt() * regular * u
        cosine, sine, _ = ANGLES[settings.law].formula(
            tuple(x.to(dtype) for x in variates.law),
            p.constants.to(dtype)[:, None, :, None],
            wide(p.law_param_0),
            wide(p.law_param_1),
            settings.low,
            settings.high,
        )
        d = cosine * unit + sine * across
    factor = wide(p.magnitude_mean) if xi is None else wide(p.magnitude_mean) + wide(p.magnitude_std) * xi
    y = factor * d if p.bias is None else factor * d + wide(p.bias)
    return y.to(s.dtype)


def direction_noise(
    s: Tensor,
    sq_norm: Tensor,
    scale: Tensor,
    *parameters_and_settings,
) -> Tensor:
    """Noisy activations, of s's shape and dtype. See the top of this file and `DirectionSettings`.

    s: products of inputs and weight vectors of any length; scale: what makes those vectors unit ones. float64 is
    computed by torch's functions, everything else in float32 by fixed steps with the same bits in every backend.
    """
    p, settings = direction_arguments(parameters_and_settings)
    check_direction_noise(s, sq_norm, p.key, settings)
    variates = draw(s.shape, p.constants, p.key, settings)
    dtype = torch.promote_types(s.dtype, torch.float32)
    d = _turn(s.to(dtype), sq_norm, scale, p, variates, settings).d
    factor = _factor(p, variates.xi, d)
    zero = torch.zeros((), dtype=dtype, device=s.device)
    return _multiply_add(factor, d, zero if p.bias is None else _wide(p.bias)).to(s.dtype)


def direction_noise_backward(
    grad: Tensor,
    s: Tensor,
    sq_norm: Tensor,
    scale: Tensor,
    *parameters_settings_and_slopes,
) -> tuple[Tensor, ...]:
    """Gradients of `direction_noise` for its first eight arguments, the noise drawn again from the key.

    An empty tensor for an argument that is None (or, law 0, unused). The last argument says whether those of
    law_param_0 and law_param_1 are wanted; if not, theirs are empty too.
    """
    *rest, slopes = parameters_settings_and_slopes
    p, settings = direction_arguments(rest)
    check_direction_noise(s, sq_norm, p.key, settings)
    variates = draw(s.shape, p.constants, p.key, settings)
    nothing = torch.empty(0, dtype=scale.dtype, device=s.device)
    dtype = torch.promote_types(s.dtype, torch.float32)
    turned = _turn(s.to(dtype), sq_norm, scale, p, variates, settings)
    factor = _factor(p, variates.xi, turned.d)
    dy = grad.to(dtype)
    dd = dy * factor
    moved = dy * turned.d
    over_neuron = lambda x: x.sum(dim=(0, 2))  # noqa: E731
    d_square, d_law, d_unit = nothing, [nothing, nothing], dd
    if settings.law != NO_DIRECTION:
        h = turned.sine * turned.u_over_rho
        d_unit = dd * _multiply_add(-turned.unit, h, turned.cosine)
        if settings.tangent_given:
            d_square = (dd * turned.sine).to(sq_norm.dtype)
        else:
            d_square = 0.5 * (dd * h).unflatten(1, (sq_norm.shape[1], -1)).sum(dim=2)
        turning = dd * _multiply_add(turned.cosine, turned.across, -(turned.sine * turned.unit))
        for i, (parameter, slope) in enumerate(zip((p.law_param_0, p.law_param_1), turned.slopes)):
            if parameter is not None and slopes:
                d_law[i] = over_neuron(turning * slope)
    return (
        (d_unit * _wide(scale)).to(s.dtype),
        d_square,
        over_neuron(d_unit * s.to(dtype)),
        over_neuron(moved),
        nothing.clone() if variates.xi is None else over_neuron(moved * variates.xi.to(dtype)),
        nothing.clone() if p.bias is None else over_neuron(dy),
        d_law[0].clone(),
        d_law[1].clone(),
    )

"""Stochastic activations: a Gaussian whose mean and standard deviation a layer predicts from its input, in one pass.

One product of doubled width predicts both; this is what follows it (equation 1 of "Simple and Effective Stochastic
Neural Networks"):

    mean, raw = z in halves        sigma = softplus(raw)        y = psi(mean + sigma eps),   eps ~ N(0, 1)

and, in the same pass, the sum of log sigma that a regularizer needs. Backward draws eps again from the key.

Shapes: z (outer, 2 neurons, inner), means before raws; y (outer, neurons, inner). A dense layer has inner 1, a
convolution's inner are its positions. eps lies in the layout of parameter noise (noise.py) over y, row-major.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contract.layers import (
    ELEMENT,
    NEURON,
    NOTHING,
    RELU,
    SAMPLE,
    StochasticSettings,
    check_stochastic_activation,
)
from .activation import gaussian_like
from .special_functions import LOGARITHM, MINUS_LN_2, exponential, fused_multiply_add, negative_ln_of, polynomial

#: Below it log softplus(raw) is raw: they differ by exp(raw) / 2.
TAIL = -40.0
#: Up to it ln(1 + t) is the polynomial in t itself.
THIRD = float.fromhex("0x1.555554p-2")


class Deviation(NamedTuple):
    """Of each raw value: sigma, log sigma, d sigma / d raw (the logistic function) and d log sigma / d raw."""

    sigma: Tensor
    log: Tensor
    slope: Tensor
    log_slope: Tensor


def deviation(raw: Tensor) -> Deviation:
    """softplus, its logarithm and both slopes of a float32 tensor by fixed steps, to their relative precision: nothing
    cancels or overflows, however small sigma is."""
    grown, _ = exponential(raw.abs())
    one_plus = 1.0 + grown
    # ln(1 + t) = ln(1 + f) for small t; beyond, ln 2 + ln(1 + f) with f = (t - 1) / 2.
    small = grown < THIRD
    f = torch.where(small, grown, (grown - 1.0) * 0.5)
    negative_ln = polynomial(LOGARITHM, f) * f
    # Not a maximum: NaN stays NaN.
    sigma = torch.where(raw < 0, 0.0, raw) + (torch.where(small, 0.0, -MINUS_LN_2) - negative_ln)
    log = torch.where(raw > TAIL, -negative_ln_of(sigma), raw)
    slope = torch.where(raw < 0, grown, 1.0) / one_plus
    return Deviation(sigma, log, slope, slope / sigma)


def deviation_formula(raw: Tensor) -> tuple[Tensor, Tensor]:
    """sigma and log sigma by functions that autograd knows, to any order."""
    sigma = -F.logsigmoid(-raw)
    regular = raw > TAIL
    return sigma, torch.where(regular, torch.where(regular, sigma, 1.0).log(), raw)


def _wide(z: Tensor) -> Tensor:
    return z.to(torch.promote_types(z.dtype, torch.float32))


def _sums(mean: Tensor, sigma: Tensor, log: Tensor, settings: StochasticSettings) -> Tensor:
    if settings.sums == NOTHING:
        return mean.new_zeros(0)
    if settings.sums == NEURON:
        return log.sum(dim=(0, 2))
    if settings.sums == SAMPLE:
        return log.sum(dim=(1, 2))
    if settings.sums == ELEMENT:
        return (settings.margin - log).clamp_min(0).sum(dim=(1, 2))
    return (0.5 * (mean * mean + sigma * sigma - 1) - log).sum(dim=(1, 2))


def stochastic_formula(z: Tensor, eps: Tensor, settings: StochasticSettings) -> tuple[Tensor, Tensor]:
    """Activations and sums by functions that autograd knows; eps, of the activations' shape, is a constant."""
    mean, raw = _wide(z).chunk(2, dim=1)
    sigma, log = deviation_formula(raw)
    y = mean + sigma * eps.to(mean.dtype)
    if settings.activation == RELU:
        y = F.relu(y)
    return y.to(z.dtype), _sums(mean, sigma, log, settings)


def _eps(mean: Tensor, key: Tensor, settings: StochasticSettings) -> Tensor:
    return gaussian_like(mean, key, settings.stream, settings.step, settings.offset)


def stochastic_activation(z: Tensor, key: Tensor, *settings) -> tuple[Tensor, Tensor]:
    """Activations of z's dtype and the sums in float32 (float64 for float64); see the top of this file.

    float64 is computed by torch's functions, everything else in float32 by fixed steps with the same bits in every
    backend; sums may be added in any order.
    """
    settings = StochasticSettings(*settings)
    check_stochastic_activation(z, key, settings)
    mean, raw = _wide(z).chunk(2, dim=1)
    eps = _eps(mean, key, settings)
    if z.dtype == torch.float64:
        return stochastic_formula(z, eps, settings)
    sigma, log, _, _ = deviation(raw)
    y = fused_multiply_add(sigma, eps, mean)
    if settings.activation == RELU:
        y = torch.where(y < 0, 0.0, y)
    return y.to(z.dtype), _sums(mean, sigma, log, settings)


def stochastic_activation_backward(grad: Tensor, grad_sums: Tensor, z: Tensor, key: Tensor, *settings) -> Tensor:
    """The gradient for z from those of both results, the noise drawn again from the key; z's dtype."""
    settings = StochasticSettings(*settings)
    check_stochastic_activation(z, key, settings)
    mean, raw = _wide(z).chunk(2, dim=1)
    eps = _eps(mean, key, settings).to(mean.dtype)
    grad = grad.to(mean.dtype)
    if z.dtype == torch.float64:
        sigma, log = deviation_formula(raw)
        slope = torch.sigmoid(raw)
        log_slope = torch.where(raw > TAIL, slope / sigma, 1.0)
        multiply_add = lambda a, b, c: a * b + c  # noqa: E731
    else:
        sigma, log, slope, log_slope = deviation(raw)
        multiply_add = fused_multiply_add
    if settings.activation == RELU:
        grad = torch.where(multiply_add(sigma, eps, mean) > 0, grad, 0.0)
    d_mean, d_raw = grad, (grad * eps) * slope
    if settings.sums != NOTHING:
        weight = grad_sums.to(mean.dtype)
        weight = (weight[None, :, None] if settings.sums == NEURON else weight[:, None, None]).expand_as(mean)
        if settings.sums in (NEURON, SAMPLE):
            d_raw = multiply_add(weight, log_slope, d_raw)
        elif settings.sums == ELEMENT:
            d_raw = torch.where(log < settings.margin, multiply_add(-weight, log_slope, d_raw), d_raw)
        else:
            d_mean = multiply_add(weight, mean, d_mean)
            d_raw = multiply_add(weight, multiply_add(sigma, slope, -log_slope), d_raw)
    return torch.cat([d_mean, d_raw], dim=1).to(z.dtype)

"""Divergences of the variational model (thesis of P. Kirichenko, 2018, section 4.1), stable at the ends."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

#: Of the approximation of Molchanov et al. (2017), equation 37 of the thesis.
K1, K2, K3 = 0.63576, 1.87320, 1.48695


def log_uniform_divergence(log_alpha: Tensor) -> Tensor:
    """KL(N(m, alpha m^2) || log-uniform), up to a constant that makes it 0 for alpha -> infinity; elementwise.

    -KL = k1 sigmoid(k2 + k3 log alpha) - log(1 + 1 / alpha) / 2 - k1 (equation 37, whose sign is that of the negative
    divergence), written so that neither tail cancels or overflows.
    """
    return 0.5 * F.softplus(-log_alpha) + K1 * torch.sigmoid(-(K2 + K3 * log_alpha))


def truncated_normal_divergence(mean: Tensor, deviation: Tensor, low: float, high: float) -> Tensor:
    """KL(N(mean, deviation^2) truncated to [low, high] || uniform on [low, high]) (equation 39); elementwise, float64.

    mean in [low, high]. The constant is there: 0 where the posterior is uniform, never negative.
    """
    mean, deviation = mean.double(), deviation.double()
    a, b = (low - mean) / deviation, (high - mean) / deviation
    root = math.sqrt(0.5)
    # Both erf differences have a <= 0 <= b, so nothing cancels.
    mass = 0.5 * (torch.erf(b * root) - torch.erf(a * root))
    density = lambda x: torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)  # noqa: E731
    entropy = 0.5 * math.log(2 * math.pi * math.e) + torch.log(deviation * mass)
    entropy = entropy + (a * density(a) - b * density(b)) / (2 * mass)
    exact = math.log(high - low) - entropy
    # For a nearly uniform posterior the terms above cancel; to second order it is half the variance of the exponent.
    width = (high - low) / deviation
    return torch.where(width > 1e-2, exact, width**4 / 1440 + (a + b) ** 2 * width**2 / 96)

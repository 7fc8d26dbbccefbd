"""Student's t distribution for confidence intervals of a mean, without SciPy."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def two_sided_quantile(confidence: float, degrees: int) -> float:
    """t with P(|T| < t) = confidence for Student's T with so many degrees of freedom.

    The probability is a finite sum in theta = atan(t / sqrt(degrees)) (Abramowitz and Stegun, 26.7.3 and 26.7.4), and
    it rises with theta: bisection finds it.

    Raises:
        ValueError: for a confidence outside (0, 1) or fewer than one degree of freedom.
    """
    check_confidence(confidence)
    if degrees < 1:
        raise ValueError(f"degrees must be 1 or more, got {degrees}")
    # Coefficients of even powers of the cosine: 1, 1/2, 1*3/(2*4), ... or 1, 2/3, 2*4/(3*5), ...
    first = 3 if degrees % 2 else 2
    steps = torch.arange(first, max(first, degrees), 2, dtype=torch.float64)
    terms = torch.cat([torch.ones(1, dtype=torch.float64), ((steps - 1) / steps).cumprod(0)])
    powers = 2 * torch.arange(len(terms), dtype=torch.float64)

    def probability(theta: float) -> float:
        total = float((terms * math.cos(theta) ** powers).sum()) * math.sin(theta)
        if degrees % 2 == 0:
            return total
        return 2 / math.pi * (theta + (total * math.cos(theta) if degrees > 1 else 0.0))

    low, high = 0.0, math.pi / 2
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if probability(middle) < confidence else (low, middle)
    return math.tan(low) * math.sqrt(degrees)


def interval_of_mean(values: Tensor, confidence: float) -> tuple[float, float, float]:
    """Mean of independent values (N,) and the ends of its interval; the whole line where they are not finite.

    Exact for normal values; for others the more values the better, and too narrow where a long tail was not seen.

    Raises:
        ValueError: for fewer than two values or a confidence outside (0, 1).
    """
    if len(values) < 2:
        raise ValueError(f"an interval needs two values or more, got {len(values)}")
    mean, deviation = float(values.double().mean()), float(values.double().std())
    reach = two_sided_quantile(confidence, len(values) - 1) * deviation / math.sqrt(len(values))
    if not math.isfinite(reach):
        return math.inf if math.isnan(mean) else mean, -math.inf, math.inf
    return mean, mean - reach, mean + reach


def check_confidence(confidence: float) -> None:
    """Raises ValueError for a confidence outside (0, 1)."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")

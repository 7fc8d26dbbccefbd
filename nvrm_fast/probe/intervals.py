"""Confidence intervals of a mean by Student's t distribution."""

from __future__ import annotations

import math

from torch import Tensor


def two_sided_quantile(confidence: float, degrees: int) -> float:
    """t with P(|T| < t) = confidence for Student's T with so many degrees of freedom.

    Raises:
        ValueError: for a confidence outside (0, 1) or fewer than one degree of freedom.
        ModuleNotFoundError: without SciPy, which the probes alone need; the message says how to get it.
    """
    check_confidence(confidence)
    if degrees < 1:
        raise ValueError(f"degrees must be 1 or more, got {degrees}")
    try:
        from scipy.stats import t
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError('confidence intervals need SciPy: pip install "nvrm_fast[probe]"') from missing
    return float(t.ppf((1 + confidence) / 2, degrees))


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

"""Decay times tau_noise and tau_loss with confidence bounds (Levi et al. 2022, section 4 and Figure 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_CHI_SQUARE_95 = 3.841458820694124  # one degree of freedom


@dataclass(frozen=True)
class DecayFit:
    """value(t) = floor + amplitude * exp(-t / tau), least squares.

    low and high bound tau at 95 %: profile likelihood with as many independent points as the residuals' correlation
    leaves. high is inf where a straight line fits as well: then the run was too short to say.
    """

    tau: float
    low: float
    high: float
    floor: float
    amplitude: float
    points: int
    independent_points: float

    def __call__(self, time: Tensor) -> Tensor:
        """The fitted curve."""
        return self.floor + self.amplitude * torch.exp(-torch.as_tensor(time, dtype=torch.float64) / self.tau)

    def __str__(self) -> str:
        return f"{self.tau:.3g} [{self.low:.3g}, {self.high:.3g}]"


def fit_decay(time: Tensor, value: Tensor, *, floor: float | None = None) -> DecayFit | None:
    """Fit an exponential decay to a curve.

    Args:
        time: (T,), increasing.
        value: (T,); entries that are not finite are left out, with their times.
        floor: where the decay ends, if known (0 for eq. 4); fitted otherwise. Weights seldom decay to 0: the part of
            W_NI that the network's outputs do not see stays.

    Returns:
        The fit, or None where the curve does not fall or has fewer than five points.

    Raises:
        ValueError: for shapes other than two equal (T,).
    """
    time, value = (torch.as_tensor(x, dtype=torch.float64).detach().cpu() for x in (time, value))
    if time.dim() != 1 or time.shape != value.shape:
        raise ValueError(f"time and value must have one shape (T,), got {list(time.shape)} and {list(value.shape)}")
    kept = torch.isfinite(value)
    time, value = time[kept], value[kept]
    if len(time) < 5:
        return None
    time = time - time[0]
    # tau from well below the first spacing to well beyond the run; at the ends of the grid nothing is learned.
    grid = torch.logspace(math.log10(float(time[1]) / 10), math.log10(float(time[-1]) * 100), 400, dtype=torch.float64)
    errors = torch.stack([_solve(time, value, tau, floor)[0] for tau in grid])
    best = int(errors.argmin())
    around = torch.logspace(
        math.log10(float(grid[max(best - 1, 0)])), math.log10(float(grid[min(best + 1, 399)])), 400, dtype=torch.float64
    )
    grid, order = torch.cat([grid, around]).sort()
    errors = torch.cat([errors, torch.stack([_solve(time, value, tau, floor)[0] for tau in around])])[order]
    best = int(errors.argmin())
    tau = grid[best]
    _, bottom, amplitude = _solve(time, value, tau, floor)
    if not amplitude > 0:
        return None
    residuals = value - bottom - amplitude * torch.exp(-time / tau)
    independent = _independent_points(residuals)
    # Residuals at rounding's level would give an interval of nothing: they count as so large at least.
    least = errors[best].clamp_min(1e-24 * float((value * value).sum()) + 1e-300)
    inside = independent * (errors.clamp_min(float(least)) / least).log() <= _CHI_SQUARE_95
    # The interval that holds the best tau; a bump far away is another hypothesis.
    low, high = best, best
    while low > 0 and inside[low - 1]:
        low -= 1
    while high < len(grid) - 1 and inside[high + 1]:
        high += 1
    return DecayFit(
        tau=float(tau),
        low=0.0 if low == 0 else float(grid[low]),
        high=math.inf if high == len(grid) - 1 else float(grid[high]),
        floor=float(bottom),
        amplitude=float(amplitude),
        points=len(time),
        independent_points=independent,
    )


def _solve(time: Tensor, value: Tensor, tau: Tensor, floor: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """Squared error, floor and amplitude of the best fit at one tau."""
    shape = torch.exp(-time / tau)
    if floor is not None:
        bottom = torch.tensor(floor, dtype=torch.float64)
        amplitude = (shape * (value - bottom)).sum() / (shape * shape).sum().clamp_min(1e-300)
    else:
        centred = shape - shape.mean()
        amplitude = (centred * value).sum() / (centred * centred).sum().clamp_min(1e-300)
        bottom = value.mean() - amplitude * shape.mean()
    return ((value - bottom - amplitude * shape) ** 2).sum(), bottom, amplitude


def _independent_points(residuals: Tensor) -> float:
    """T (1 - r) / (1 + r) with r the residuals' correlation from one point to the next, at least 3."""
    power = float((residuals * residuals).sum())
    r = 0.0 if power == 0 else max(0.0, float((residuals[1:] * residuals[:-1]).sum()) / power)
    return max(3.0, len(residuals) * (1 - r) / (1 + r))

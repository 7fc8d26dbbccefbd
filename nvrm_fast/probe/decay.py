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

    @property
    def determined(self) -> bool:
        """Whether the curve bounds tau on one side at least."""
        return self.low > 0 or math.isfinite(self.high)

    def __str__(self) -> str:
        if not self.determined:
            return "not determined"
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
    best = int(_solve(time, value, grid, floor)[0].argmin())
    ends = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, len(grid) - 1)])
    around = torch.logspace(math.log10(ends[0]), math.log10(ends[1]), 400, dtype=torch.float64)
    grid = torch.cat([grid, around]).sort().values
    errors, bottoms, amplitudes = _solve(time, value, grid, floor)
    best = int(errors.argmin())
    tau, bottom, amplitude = grid[best], bottoms[best], amplitudes[best]
    if not amplitude > 0:
        return None
    residuals = value - bottom - amplitude * torch.exp(-time / tau)
    independent = _independent_points(residuals)
    # Residuals at rounding's level would give an interval of nothing: they count as so large at least.
    least = errors[best].clamp_min(1e-24 * float((value * value).sum()) + 1e-300)
    free = max(1.0, independent - (3 if floor is None else 2))
    excess = free * (errors.clamp_min(float(least)) / least).log() - _CHI_SQUARE_95
    return DecayFit(
        tau=float(tau),
        low=_crossing(grid.flip(0), excess.flip(0), len(grid) - 1 - best, 0.0),
        high=_crossing(grid, excess, best, math.inf),
        floor=float(bottom),
        amplitude=float(amplitude),
        points=len(time),
        independent_points=independent,
    )


def _solve(time: Tensor, value: Tensor, taus: Tensor, floor: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """Squared error, floor and amplitude of the best fit at each tau; all of the shape of taus."""
    shape = torch.exp(-time / taus.unsqueeze(1))
    if floor is not None:
        bottom = torch.full_like(taus, floor)
        amplitude = (shape * (value - floor)).sum(1) / (shape * shape).sum(1).clamp_min(1e-300)
    else:
        centered = shape - shape.mean(1, keepdim=True)
        amplitude = (centered * value).sum(1) / (centered * centered).sum(1).clamp_min(1e-300)
        bottom = value.mean() - amplitude * shape.mean(1)
    return ((value - bottom.unsqueeze(1) - amplitude.unsqueeze(1) * shape) ** 2).sum(1), bottom, amplitude


def _crossing(grid: Tensor, excess: Tensor, best: int, beyond: float) -> float:
    """Where the excess first passes zero from the best tau on; `beyond` if the grid ends before."""
    outside = (excess[best:] > 0).nonzero()
    if not len(outside):
        return beyond
    after = best + int(outside[0])
    inner, outer = float(excess[after - 1]), float(excess[after])
    share = inner / (inner - outer)
    return float(grid[after - 1] ** (1 - share) * grid[after] ** share)


def _independent_points(residuals: Tensor) -> float:
    """T (1 - r) / (1 + r) with r the residuals' correlation from one point to the next, at least 3."""
    power = float((residuals * residuals).sum())
    r = 0.0 if power == 0 else max(0.0, float((residuals[1:] * residuals[:-1]).sum()) / power)
    return max(3.0, len(residuals) * (1 - r) / (1 + r))

"""Figures 11 to 14 of the thesis: angles between a vector of 1,000 dimensions and its noisy copies, by kind of noise.

Filled: from the noise's definition, with whole vectors. Line: from the distribution that local sampling draws from. The
table has the two-sample Kolmogorov-Smirnov distance of both, and the distance that two samples of one distribution
exceed once in 10,000 times.

Written to --out: table.md, figure11.png to figure14.png and results.json.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from pydantic import Field
from scipy import stats
from torch import Tensor

from nvrm_fast import nn as noisy
from nvrm_fast.contract.laws import NO_MAGNITUDE
from nvrm_fast.contract.layers import DirectionSettings
from nvrm_fast.ops.direction import law_constants, turning_angle, variates
from studies import figures, tables
from studies.direction.kinds import PLACES
from studies.seeds import derive
from studies.settings import Count
from studies.study import Context, Report, Row, Study

_PROJECTED = tuple(10 ** (-4 + 3 * step / 7) for step in range(8))  # as printed over the thesis's panels
_BETAS = (0.2, 0.3497, 0.6116, 1.0, 1.8701, 3.2702, 5.7186, 10.0)  # the same
_SIGMAS = (0.05, 0.1, 0.2, 0.35, 0.6, 1.0, 2.0, 5.0)  # the thesis's are not legible
FIGURES: dict[int, tuple[str, str, Callable[[float], noisy.Direction], tuple[float, ...]]] = {
    11: ("projected Gaussian", "α", noisy.Projected, _PROJECTED),
    12: ("projected Gaussian from the tangent subspace", "α", noisy.Tangent, _PROJECTED),
    13: ("rotation by a stretched symmetric Beta angle", "β", noisy.BetaRotation, _BETAS),
    14: ("rotation by a truncated normal angle", "σ", noisy.Rotation, _SIGMAS),
}
FALSE_ALARM = 1e-4
BINS = np.linspace(0, math.pi, 161)


@dataclass(frozen=True, kw_only=True)
class Angles(Study):
    """The settings of direction-angles."""

    dimensions: Annotated[int, Field(ge=2)] = 1_000
    """length of the vectors"""
    draws: Count = 10_000
    """noisy copies for each histogram"""
    seed: Annotated[int, Field(ge=0)] = 0
    """of all draws"""

    presets = {"tiny": {"draws": 400}, "quick": {}, "paper": {"draws": 100_000}}
    packages = ("scipy",)

    def run(self, context: Context, *, seed: int) -> dict[str, Any]:
        """All histograms, in the order of the figures."""
        dimensions, draws = self.dimensions, self.draws
        generator = torch.Generator().manual_seed(derive(seed, "vectors"))
        histograms = []
        for number, (_, _, noise, values) in FIGURES.items():
            for value in values:
                by_vectors = angles_in_weight_space(noise(value), dimensions, draws, generator)
                cosines = cosines_by_law(noise(value), dimensions, draws, derive(seed, "angles"))
                by_law = torch.acos(cosines.clamp(-1, 1))
                histograms.append({"figure": number, "parameter": value} | compared(by_vectors, by_law))
                context.advance(1 / sum(len(values) for *_, values in FIGURES.values()))
        return {"histograms": histograms}

    def report(self, rows: list[Row]) -> Report:
        """One line a histogram; angles in degrees, mean ± standard deviation of the distribution. A figure a noise."""
        histograms = rows[0]["histograms"]
        columns = {
            "figure": "figure",
            "noise": tables.words(lambda one: FIGURES[one["figure"]][0]),
            "parameter": tables.first("{parameter:.4g}"),
            "angle, vectors": tables.first("{by_vectors_mean:.2f} ± {by_vectors_deviation:.2f}"),
            "angle, local sampling": tables.first("{by_law_mean:.2f} ± {by_law_deviation:.2f}"),
            "distance": tables.first("{distance:.4f}"),
        }
        chance = f"By chance a distance exceeds {largest_by_chance(self.draws):.4f} once in 10,000 times."
        text = f"{tables.table(histograms, ['figure', 'parameter'], columns)}\n\nAngles in degrees. {chance}"
        numbers = tables.groups(histograms, "figure")
        return Report(text, {f"figure{number}.png": draw(self, number, mine) for (number,), mine in numbers.items()})


def compared(by_vectors: Tensor, by_law: Tensor) -> dict[str, Any]:
    """The distance of both samples of angles in radians; of each mean and deviation in degrees, and counts in BINS."""
    found: dict[str, Any] = {"distance": distance(by_vectors, by_law)}
    for name, angles in (("by_vectors", by_vectors), ("by_law", by_law)):
        found[f"{name}_mean"] = float(angles.mean()) * (180 / math.pi)
        found[f"{name}_deviation"] = float(angles.std()) * (180 / math.pi)
        found[f"{name}_counts"] = np.histogram(angles.numpy(), BINS)[0].tolist()
    return found


def distance(first: Tensor, second: Tensor) -> float:
    """Kolmogorov's and Smirnov's: the largest between the distribution functions of two samples."""
    return float(stats.ks_2samp(first.numpy(), second.numpy(), method="asymp").statistic)


def largest_by_chance(draws: int) -> float:
    """The Kolmogorov-Smirnov distance that two samples of so many draws of one distribution exceed with FALSE_ALARM."""
    return math.sqrt(-math.log(FALSE_ALARM / 2) / draws)


def draw(settings: Angles, number: int, histograms: list[Row]) -> Figure:
    """Densities of angles as in the thesis's Figures 11 to 14, a panel a strength."""
    name, letter, *_ = FIGURES[number]
    columns = math.ceil(len(histograms) / 2)
    figure, grid = figures.new_figure(
        2, columns, width=2.7 * columns, height=4.6,
        title=f"Angle between a vector and its noisy copy in {settings.dimensions} dimensions: {name}",
    )  # fmt: skip
    counts = {which: np.array([one[f"{which}_counts"] for one in histograms]) for which in ("by_vectors", "by_law")}
    # As far as the angles go: noise with Gaussians may turn by more than a right angle.
    end = max(math.pi / 2, BINS[1 + max(int(both.any(0).nonzero()[0].max()) for both in counts.values())])
    for panel, one, by_vectors, by_law in zip(grid.flat, histograms, *counts.values()):
        scale = settings.draws * BINS[1]
        panel.stairs(by_vectors / scale, BINS, fill=True, color="#f0a07c", label="weight space")
        panel.stairs(by_law / scale, BINS, color=PLACES["local"][0], label="local sampling")
        figures.name_axes(panel, f"{letter} = {one['parameter']:.4g}", "", percent=False)
        panel.set_xlim(0, end)
        panel.set_xticks([0, math.pi / 4, math.pi / 2], ["0", "π/4", "π/2"])
    grid[0, 0].legend()
    return figure


_VECTORS_A_PASS = 1_000


def cosines_by_law(direction: noisy.Direction, dimensions: int, draws: int, seed: int) -> Tensor:
    """cos of the angle between a vector and its turned copy as local sampling draws it: (draws,) float64."""
    first, second = (None if p is None else torch.full((1,), p, dtype=torch.float64) for p in direction.parameters())
    constants = law_constants(direction, first, second, dimensions, 1, "cpu")
    settings = DirectionSettings(0, 0, 0, direction.code, NO_MAGNITUDE, dimensions, 0.0, *direction.ends, True)
    key = torch.tensor([seed], dtype=torch.int64)
    drawn = variates((draws, 1, 1), constants, key, settings)
    cosine, _ = turning_angle(direction, drawn, constants, first, second, torch.float64)
    return cosine.flatten()


def angles_in_weight_space(
    direction: noisy.Direction, dimensions: int, draws: int, generator: torch.Generator
) -> Tensor:
    """Angles in radians, (draws,) float64, between one random unit vector and copies turned by the noise's definition.

    Equations 16, 19 and 23 of the thesis. Raises TypeError for von Mises-Fisher, which has no such definition.
    """
    vector = torch.randn(dimensions, generator=generator, dtype=torch.float64)
    vector /= vector.norm()
    parts = []
    for start in range(0, draws, _VECTORS_A_PASS):
        count = min(_VECTORS_A_PASS, draws - start)
        turned = _turned(direction, vector, torch.randn(count, dimensions, generator=generator).double(), generator)
        # atan2 keeps small angles that arccos would lose.
        along = turned @ vector
        across = (turned - along[:, None] * vector).norm(dim=1)
        parts.append(torch.atan2(across, along))
    return torch.cat(parts)


def _turned(direction: noisy.Direction, vector: Tensor, gaussian: Tensor, generator: torch.Generator) -> Tensor:
    tangent = gaussian - (gaussian @ vector)[:, None] * vector
    if isinstance(direction, noisy.Tangent):
        return vector + math.sqrt(direction.alpha) * tangent
    if isinstance(direction, noisy.Projected):
        return vector + math.sqrt(direction.alpha) * gaussian
    if isinstance(direction, noisy.Rotation):
        angle = _truncated_normal(direction, len(gaussian), generator)
    elif isinstance(direction, noisy.BetaRotation):
        first, second = (_gamma(direction.beta, len(gaussian), generator) for _ in range(2))
        angle = math.pi * (first / (first + second) - 0.5)
    else:
        raise TypeError(f"{type(direction).__name__} has no definition by vectors here")
    unit = tangent / tangent.norm(dim=1, keepdim=True)
    return torch.cos(angle)[:, None] * vector + torch.sin(angle)[:, None] * unit


def _truncated_normal(direction: noisy.Rotation, draws: int, generator: torch.Generator) -> Tensor:
    """By rejection."""
    kept = torch.empty(0, dtype=torch.float64)
    while len(kept) < draws:
        more = direction.mean + direction.sigma * torch.randn(draws, generator=generator).double()
        kept = torch.cat([kept, more[(more >= direction.low) & (more <= direction.high)]])
    return kept[:draws]


def _gamma(shape: float, draws: int, generator: torch.Generator) -> Tensor:
    return torch._standard_gamma(torch.full((draws,), shape, dtype=torch.float64), generator=generator)

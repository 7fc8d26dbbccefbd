"""Figures 11 to 14 of the thesis: angles between a vector of 1,000 dimensions and its noisy copies, by kind of noise.

Filled: from the noise's definition, with whole vectors. Line: from the distribution that local sampling draws from. The
table has the two-sample Kolmogorov-Smirnov distance of both, and the distance that two samples of one distribution
exceed once in 10,000 times.

Written to --out: table.md, figure11.png to figure14.png and results.json.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from pydantic import Field
from scipy import stats
from torch import Tensor

from nvrm_fast import nn as noisy
from studies import figures, tables
from studies.direction.kinds import PLACES
from studies.direction.turning import angles_in_weight_space, cosines_by_law
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

    def cells(self) -> Iterator[dict[str, Any]]:
        """One: all histograms take their vectors from one generator."""
        yield {"seed": self.seed}

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

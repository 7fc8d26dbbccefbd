"""Figures 11 to 14 of the thesis: angles between a vector of 1,000 dimensions and its noisy copies, by kind of noise.

Filled: from the noise's definition, with whole vectors. Line: from the law by which local sampling draws the angle. The
table has the two-sample Kolmogorov-Smirnov distance of both, and the distance that two samples of one law exceed once
in 10,000 times.

Written to --out: table.md, results.json and figure11.png to figure14.png.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from nvrm_fast import nn as noisy
from nvrm_fast.experiments import report, settings
from nvrm_fast.experiments.direction import drawing
from nvrm_fast.experiments.direction.options import PRESETS
from nvrm_fast.experiments.direction.turning import angles_in_weight_space, cosines_by_law, kolmogorov_smirnov
from nvrm_fast.experiments.report import progress
from nvrm_fast.experiments.settings import AT_LEAST_ONE, Checked, option

NAME = "direction-angles"
HELP = "by how much each direction noise turns a vector (thesis, Figures 11 to 14)"

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


@dataclass(frozen=True)
class AngleSettings(Checked):
    """Options of the study."""

    preset: str = option("quick", "named values of all other options", choices=PRESETS)
    dimensions: int = option(1_000, "length of the vectors", type=int, check=(lambda length: length >= 2, "2 or more"))
    draws: int = option(10_000, "noisy copies for each histogram", type=int, check=AT_LEAST_ONE)
    seed: int = option(0, "of all draws", type=int, check=(lambda seed: seed >= 0, "0 or more"))
    threads: int = option(1, "CPU threads", type=int, check=AT_LEAST_ONE)

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"quick": {}, "full": {"draws": 100_000}, "tiny": {"draws": 400}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the study."""
    settings.add_arguments(parser, kind=AngleSettings)
    parser.add_argument(
        "--out", default=f"runs/{NAME}", metavar="FOLDER", help="where results go (default: %(default)s)"
    )


def main(arguments: argparse.Namespace) -> None:
    """Draw, compare, print the table and write the figures."""
    chosen = settings.from_arguments(arguments, AngleSettings)
    folder = report.output_folder(arguments.out)
    torch.set_num_threads(chosen.threads)
    generator = torch.Generator().manual_seed(chosen.seed)
    rows = []
    with progress(sum(len(values) for *_, values in FIGURES.values()), "histograms") as bar:
        for number, (title, letter, noise, values) in FIGURES.items():
            panels = []
            for value in values:
                by_vectors = angles_in_weight_space(noise(value), chosen.dimensions, chosen.draws, generator)
                by_law = torch.acos(
                    cosines_by_law(noise(value), chosen.dimensions, chosen.draws, chosen.seed).clamp(-1, 1)
                )
                panels.append((f"{letter} = {value:.4g}", by_vectors, by_law))
                rows.append({"figure": number, "noise": title, "parameter": value, **_compared(by_vectors, by_law)})
                bar.update()
            drawing.draw_angles(
                panels,
                folder / f"figure{number}.png",
                title=f"Angle between a vector and its noisy copy in {chosen.dimensions} dimensions: {title}",
            )
    text = describe(rows, chosen.draws)
    (folder / "table.md").write_text(text + "\n", encoding="utf-8")
    content = {"study": NAME, "settings": asdict(chosen), "versions": report.versions("cpu"), "rows": rows}
    report.write_json(folder / "results.json", content)
    print(f"\n{text}\n\nwritten: {', '.join(f'figure{number}.png' for number in FIGURES)} in {folder}")


def _compared(by_vectors: Tensor, by_law: Tensor) -> dict[str, float]:
    degrees = 180 / math.pi
    found: dict[str, float] = {"distance": kolmogorov_smirnov(by_vectors, by_law)}
    for name, angles in (("by_vectors", by_vectors), ("by_law", by_law)):
        found[f"{name}_mean"] = float(angles.mean()) * degrees
        found[f"{name}_deviation"] = float(angles.std()) * degrees
    return found


def largest_by_chance(draws: int) -> float:
    """The Kolmogorov-Smirnov distance that two samples of so many draws of one law exceed with FALSE_ALARM."""
    return math.sqrt(-math.log(FALSE_ALARM / 2) / draws)


def describe(rows: list[dict[str, Any]], draws: int) -> str:
    """One line a histogram; angles in degrees, mean ± standard deviation of the distribution."""
    cells = [
        [
            f"{row['figure']}",
            row["noise"],
            f"{row['parameter']:.4g}",
            f"{row['by_vectors_mean']:.2f} ± {row['by_vectors_deviation']:.2f}",
            f"{row['by_law_mean']:.2f} ± {row['by_law_deviation']:.2f}",
            f"{row['distance']:.4f}",
        ]
        for row in rows
    ]
    header = ["figure", "noise", "parameter", "angle, vectors", "angle, local law", "distance"]
    return (
        report.markdown_table(header, cells)
        + f"\n\nAngles in degrees. By chance a distance exceeds {largest_by_chance(draws):.4f} once in 10,000 times."
    )

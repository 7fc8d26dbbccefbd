"""Figure 6 of the thesis: posteriors of magnitudes and angles within one layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nvrm_fast.experiments.direction.drawing import INK, dress, new_figure

_COLORS = ("#1f5fa8", "#c1440e", "#2a7f3b", "#8a5fb5")
_SHOWN = 4


def draw_posteriors(posterior: dict[str, Sequence[float]], path: Path, *, title: str) -> None:
    """Densities of magnitude (above) and angle (below) for the weight vectors with most noise (left) and least (right).

    posterior: magnitude m and spread lambda, angle_mean and angle_deviation before truncation, one value a vector. The
    angle is drawn on [-pi/2, pi/2]: turning by -angle is turning by angle in the opposite direction, as likely.
    """
    values = {name: np.asarray(column, float) for name, column in posterior.items()}
    noise = values["spread"] / np.maximum(np.abs(values["magnitude"]), 1e-12)
    order = np.argsort(noise)
    figure, panels = new_figure(2, 2, (9.0, 5.2))
    sides = (("most noise", order[::-1][:_SHOWN]), ("least noise", order[:_SHOWN]))
    for column, (words, vectors) in enumerate(sides):
        above, below = panels[0][column], panels[1][column]
        ends = [values["magnitude"][vectors] + sign * 4 * values["spread"][vectors] for sign in (-1, 1)]
        across = np.linspace(min(0.0, ends[0].min()), max(0.0, ends[1].max()), 1_001)
        angles = np.linspace(-math.pi / 2, math.pi / 2, 1_001)
        for vector, color in zip(vectors, _COLORS):
            above.plot(across, _normal(across, values["magnitude"][vector], values["spread"][vector]), color=color)
            below.plot(
                angles, _angle_density(angles, values["angle_mean"][vector], values["angle_deviation"][vector]),
                color=color, label=f"vector {vector}",
            )  # fmt: skip
        dress(above, f"Weight vectors with {words}", "magnitude g", "" if column else "density")
        dress(below, "", "angle", "" if column else "density")
        below.set_ylim(0, None)
        below.set_xticks([-math.pi / 2, 0, math.pi / 2], ["-π/2", "0", "π/2"])
        below.legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=11, color=INK)
    figure.savefig(path)


def _normal(x: np.ndarray, mean: Any, deviation: Any) -> np.ndarray:
    deviation = max(float(deviation), 1e-9)
    return np.exp(-0.5 * ((x - mean) / deviation) ** 2) / (deviation * math.sqrt(2 * math.pi))


def _angle_density(angles: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    root = deviation * math.sqrt(2)
    mass = 0.5 * (math.erf((math.pi / 2 - mean) / root) - math.erf(-mean / root))
    return 0.5 * _normal(np.abs(angles), mean, deviation) / mass

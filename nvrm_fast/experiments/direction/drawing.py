"""The figures of the studies of direction noise, laid out as the thesis's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nvrm_fast.experiments.direction import kinds
from nvrm_fast.experiments.report import mean_and_deviation

INK, FAINT = "#333333", "#9a9a9a"
# Told apart with any kind of colour vision, and in grey by their markers.
PLACES = {
    "reference": ("#333333", "s", "no noise, Gaussian, magnitude"),
    "signal": ("#2a7f3b", "D", "direction, on the signal"),
    "local": ("#1f5fa8", "o", "direction, on the weights, local"),
    "flipout": ("#8a5fb5", "v", "direction, on the weights, flipout"),
    "shared": ("#c1440e", "^", "direction, on the weights, shared"),
}


def new_figure(rows: int, columns: int, size: tuple[float, float], **more: Any) -> tuple[Figure, np.ndarray]:
    """A figure without a window, and its panels as a two-dimensional array."""
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **more)


def dress(panel: Any, heading: str, across: str = "", up: str = "") -> None:
    """Quiet axes with a title at the left."""
    panel.set_title(heading, fontsize=10, loc="left", color=INK)
    panel.set_xlabel(across, color=INK)
    panel.set_ylabel(up, color=INK)
    panel.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(FAINT)
    panel.tick_params(colors=INK)


def draw_kinds(runs: Sequence[dict[str, Any]], path: Path, *, title: str) -> None:
    """Test accuracy of the ensembles by kind: a panel a size, a line a kind; points are seeds, bars one deviation."""
    sizes = sorted({run["size"] for run in runs})
    names = list(dict.fromkeys(run["kind"] for run in runs))
    figure, panels = new_figure(1, len(sizes), (2 + 4.2 * len(sizes), 1.6 + 0.27 * len(names)), sharey=True)
    for panel, size in zip(panels[0], sizes):
        for row, kind in enumerate(names):
            place = kind.split("@")[-1] if "@" in kind and not kind.startswith("magn") else "reference"
            color, marker, _ = PLACES[place]
            values = [100 * run["ensemble"] for run in runs if run["kind"] == kind and run["size"] == size]
            mean, deviation = mean_and_deviation(values)
            panel.plot(values, [row] * len(values), ".", color=color, alpha=0.35, markersize=5)
            panel.errorbar(mean, row, xerr=deviation, color=color, marker=marker, markersize=6, capsize=2.5)
        dress(panel, f"{size} training images", "test accuracy, ensemble")
        panel.grid(axis="x", color="#e6e6e6", linewidth=0.8)
        panel.xaxis.set_major_formatter("{x:.0f} %")
    panels[0][0].set_yticks(range(len(names)), [f"{kinds.label(name)}" for name in names])
    panels[0][0].invert_yaxis()
    used = {kind.split("@")[-1] for kind in names if "@" in kind} | {"reference"}
    marks = [
        panels[0][0].plot([], [], color=color, marker=marker, linestyle="", label=words)[0]
        for place, (color, marker, words) in PLACES.items()
        if place in used
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=12, color=INK)
    figure.savefig(path)

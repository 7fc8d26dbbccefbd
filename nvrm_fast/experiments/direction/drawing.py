"""The figures of the studies of direction noise, laid out as the thesis's."""

from __future__ import annotations

import math
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
        panel.xaxis.set_major_formatter("{x:.1f} %")
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


def draw_angles(panels: Sequence[tuple[str, Any, Any]], path: Path, *, title: str) -> None:
    """Densities of angles as in the thesis's Figures 11 to 14: (heading, by vectors, by the local law) a panel."""
    columns = math.ceil(len(panels) / 2)
    figure, grid = new_figure(2, columns, (2.7 * columns, 4.6))
    # As far as the angles go: noise with Gaussians may turn by more than a right angle.
    end = max(math.pi / 2, *(float(angles.max()) for _, *both in panels for angles in both))
    bins = np.linspace(0, end, 81)
    for panel, (heading, by_vectors, by_law) in zip(grid.flat, panels):
        panel.hist(by_vectors.numpy(), bins, density=True, color="#f0a07c", label="weight space")
        panel.hist(by_law.numpy(), bins, density=True, color=PLACES["local"][0], histtype="step", label="local law")
        dress(panel, heading)
        panel.set_xlim(0, end)
        panel.set_xticks([0, math.pi / 4, math.pi / 2], ["0", "π/4", "π/2"])
    grid[0][0].legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=11, color=INK)
    figure.savefig(path)


def draw_gradients(runs: Sequence[dict[str, Any]], batches: Sequence[int], path: Path, *, title: str) -> None:
    """Noise variance of the gradient against the mini-batch size: a column a noise, a row a state of the weights."""
    laws = list(dict.fromkeys(run["law"] for run in runs))
    states = list(dict.fromkeys(run["state"] for run in runs))
    figure, grid = new_figure(len(states), len(laws), (3.6 * len(laws) + 0.6, 3.1 * len(states) + 0.7), sharex=True)
    words = {"signal": "signal", "local": "weights, local", "flipout": "weights, flipout", "shared": "weights, shared"}
    for row, state in enumerate(states):
        for column, law in enumerate(laws):
            panel, lines = grid[row][column], [run for run in runs if (run["law"], run["state"]) == (law, state)]
            for place, name in words.items():
                values = np.array([run["variance"] for run in lines if run["place"] == place])
                color, marker, _ = PLACES[place]
                panel.plot(batches, values.T, color=color, alpha=0.25, linewidth=0.8)
                panel.plot(batches, values.mean(0), color=color, marker=marker, markersize=4.5, label=name)
            start = np.mean([run["variance"][0] for run in lines if run["place"] == "local"])
            panel.plot(batches, [start * batches[0] / size for size in batches], ":", color=FAINT, label="1 / M")
            panel.set_xscale("log")
            panel.set_yscale("log")
            below = "mini-batch size M" if row == len(states) - 1 else ""
            weights = "weights at the start" if state == "start" else "trained weights"
            dress(panel, f"{kinds.LAWS[law].label}, {weights}", below, "" if column else "trace of the covariance")
            panel.set_xticks(batches, [f"{size}" for size in batches])
            panel.minorticks_off()
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle(title + " caused by noise alone", fontsize=11, color=INK)
    figure.savefig(path)

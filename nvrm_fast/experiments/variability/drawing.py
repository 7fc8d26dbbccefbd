"""Figures of the studies of trainings: curves over epochs, and end results over a scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from nvrm_fast.experiments.optimizers import ADAM, IVON, NVRM_ADAM, NVRM_SGD, PERTURBED_SGD, SAM, SGD
from nvrm_fast.experiments.report import mean_and_deviation

#: Told apart with any kind of colour vision; those two that every study has also in grey.
COLORS = {
    SGD: "#c1440e", NVRM_SGD: "#1f5fa8", PERTURBED_SGD: "#8a6bbe", SAM: "#3a8f5c", IVON: "#b8860b",
    ADAM: "#5c5c5c", NVRM_ADAM: "#35a7b5",
}  # fmt: skip
MARKERS = {SGD: "o", NVRM_SGD: "s", PERTURBED_SGD: "^", SAM: "D", IVON: "v", ADAM: "o", NVRM_ADAM: "s"}
#: From light to dark, for one optimizer at several scales.
SHADES = ("#9ec4e8", "#5b9bd5", "#1f5fa8", "#12375f", "#0a1f38", "#000000")
INK, FAINT = "#333333", "#9a9a9a"


def new_figure(rows: int, columns: int, *, width: float, height: float, **more: Any) -> tuple[Figure, np.ndarray]:
    """A figure and its panels, (rows, columns)."""
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **more)


def dress(panel: Any, title: str, across: str, up: str = "") -> None:
    """Title, axes in percent and a quiet grid."""
    panel.set_title(title, fontsize=10.5, loc="left", color=INK)
    panel.set_xlabel(across, color=INK)
    panel.set_ylabel(up, color=INK)
    panel.yaxis.set_major_formatter("{x:g} %")
    panel.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(FAINT)
    panel.tick_params(colors=INK)


def over_epochs(panel: Any, curves: Sequence[Sequence[float]], color: str, label: str | None = None) -> None:
    """The mean over seeds in percent, with a band of one standard deviation. curves: (seeds, epochs), fractions."""
    values = 100 * np.array(curves)
    mean = values.mean(0)
    deviation = values.std(0, ddof=1) if len(values) > 1 else np.zeros_like(mean)
    epochs = np.arange(1, len(mean) + 1)
    panel.fill_between(epochs, mean - deviation, mean + deviation, color=color, alpha=0.18, linewidth=0)
    panel.plot(epochs, mean, color=color, linewidth=1.8, marker="o" if len(mean) == 1 else None, label=label)
    panel.set_xlim(1 if len(mean) > 1 else 0, max(len(mean), 2))


def mark_drops(panel: Any, drops: Sequence[int], epochs: int, *, told: bool = True) -> None:
    """Dotted lines where the learning rate drops."""
    inside = [drop for drop in drops if drop < epochs]
    for drop in inside:
        panel.axvline(drop + 0.5, color=FAINT, linestyle=":", linewidth=1, zorder=0)
    if inside and told:
        panel.annotate(
            "learning rate drops", (inside[0] + 0.5, 1), xycoords=("data", "axes fraction"), xytext=(3, -2),
            textcoords="offset points", color=FAINT, fontsize=8, va="top",
        )  # fmt: skip


def name_lines(panel: Any, ends: Mapping[str, float], epochs: int) -> None:
    """Write each optimizer's name and last value beside its line's end, moved apart where they would overlap."""
    low, high = panel.get_ylim()
    gap = 0.1 * (high - low)
    places: list[float] = []
    for optimizer, value in sorted(ends.items(), key=lambda item: item[1]):
        places.append(max(value, places[-1] + gap) if places else value)
        panel.annotate(
            f"{optimizer}\n{value:.1f} %", (epochs, places[-1]), xytext=(6, 0), textcoords="offset points",
            color=COLORS[optimizer], fontsize=9.5, fontweight="bold", va="center", annotation_clip=False,
        )  # fmt: skip


def right_labels(panel: Any, noise_rate: float, *, told: bool = True) -> None:
    """The share of labels that are right: a network that learns only those has just this training accuracy."""
    clean = 100 * (1 - noise_rate)
    panel.axhline(clean, color=INK, linestyle="--", linewidth=1.1, zorder=1)
    if told:
        panel.annotate(
            f"share of right labels: {clean:g} %", (0.98, clean), xycoords=("axes fraction", "data"), xytext=(0, -4),
            textcoords="offset points", color=INK, fontsize=9, ha="right", va="top",
        )  # fmt: skip


def over_scales(
    panel: Any, scales: Sequence[float], values: Sequence[Sequence[float]], color: str, marker: str, label: str
) -> None:
    """End results against a scale on a logarithmic axis, mean with bars of one standard deviation. values: a list of
    fractions, one a seed, for each scale."""
    ends = [mean_and_deviation([100 * value for value in seeds]) for seeds in values]
    panel.errorbar(
        scales, [mean for mean, _ in ends], [deviation for _, deviation in ends], color=color, marker=marker,
        markersize=5, linewidth=1.6, capsize=2, label=label,
    )  # fmt: skip
    panel.set_xscale("log")


def tick_scales(panel: Any, scales: Sequence[float]) -> None:
    """The scales that were run, as plain numbers, in place of powers of ten."""
    ticks = sorted(set(scales))
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=8.5)
    panel.xaxis.set_minor_locator(NullLocator())


def level(panel: Any, values: Sequence[float], color: str, label: str) -> None:
    """A result without a scale, across the whole panel, with a band of one standard deviation."""
    mean, deviation = mean_and_deviation([100 * value for value in values])
    panel.axhline(mean, color=color, linestyle="--", linewidth=1.4, label=label)
    panel.axhspan(mean - deviation, mean + deviation, color=color, alpha=0.12, linewidth=0)


def save(figure: Figure, path: Path, title: str) -> None:
    """Write the picture under its title."""
    figure.suptitle(title, fontsize=12, color=INK)
    figure.savefig(path)

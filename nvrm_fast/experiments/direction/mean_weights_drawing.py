"""Figures 3 to 5 of the thesis in its layout, and accuracy against the variance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nvrm_fast.experiments.direction.drawing import FAINT, INK, dress, new_figure

_LINES = {
    "deterministic": ("#c1440e", "-"),
    "sample": ("#2a7f3b", "--"),
    "ensemble": ("#1f5fa8", "-"),
    "expected weights": ("#8a5fb5", ":"),
}


def draw_training(runs: Sequence[dict[str, Any]], path: Path, *, title: str) -> None:
    """Figure 3: accuracy against epochs, training images left, test images right; means and one deviation."""
    figure, panels = new_figure(1, 2, (9.6, 3.9), sharey=True)
    for panel, (part, heading) in zip(panels[0], (("train", "Training images"), ("test", "Test images"))):
        for way, (color, style) in _LINES.items():
            curves = 100 * np.array([run["curves"][part][way] for run in runs])
            epochs, mean = np.arange(1, curves.shape[1] + 1), curves.mean(0)
            deviation = curves.std(0, ddof=1) if len(curves) > 1 else np.zeros_like(mean)
            panel.fill_between(epochs, mean - deviation, mean + deviation, color=color, alpha=0.15, linewidth=0)
            marker = "o" if len(epochs) == 1 else None
            panel.plot(epochs, mean, color=color, linestyle=style, linewidth=2, marker=marker, label=way)
        dress(panel, heading, "epoch")
        panel.yaxis.set_major_formatter("{x:.0f} %")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(title, fontsize=11, color=INK)
    figure.savefig(path)


def draw_variances(runs: Sequence[dict[str, Any]], trained: float, path: Path, *, title: str) -> None:
    """Test accuracy of the ensemble, and the share of the most predicted class, against the variance; 0 at the left."""
    alphas = [row["alpha"] for row in runs[0]["variances"]]
    figure, panels = new_figure(1, 1, (6.4, 3.8))
    panel, places = panels[0][0], np.arange(len(alphas))
    for measure, color, marker, words in (
        ("ensemble", "#1f5fa8", "o", "right, ensemble"),
        ("largest_share", "#c1440e", "^", "predicted as the most predicted class"),
    ):
        values = 100 * np.array([[row[measure] for row in run["variances"]] for run in runs])
        panel.plot(places, values.T, color=color, alpha=0.25, linewidth=0.8)
        panel.plot(places, values.mean(0), color=color, marker=marker, label=words)
    if trained in alphas:
        panel.axvline(alphas.index(trained), color=FAINT, linestyle=":", zorder=0)
    dress(panel, "Test images by the variance of the noise (dotted: in training)", "α")
    panel.set_xticks(places, [f"{alpha:g}" for alpha in alphas])
    panel.yaxis.set_major_formatter("{x:.0f} %")
    panel.legend(frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=10, color=INK)
    figure.savefig(path)


def draw_softmax(image: dict[str, Any], trained: float, path: Path) -> None:
    """Figures 4, 5, 8 to 10: the image, then class probabilities by variance; bars one standard deviation."""
    rows = 2
    columns = math.ceil((len(image["panels"]) + 1) / rows)
    figure, grid = new_figure(rows, columns, (2.3 * columns, 4.3))
    first, *others = grid.flat
    first.imshow(image["pixels"], cmap="gray_r")
    first.set_title(f"test image {image['index']}, label {image['label']}", fontsize=9, loc="left", color=INK)
    for panel in (first, *others[len(image["panels"]) :]):
        panel.axis("off")
    for panel, row in zip(others, image["panels"]):
        classes = range(len(row["mean"]))
        colors = ["#1f5fa8" if which == image["label"] else "#b9b9b9" for which in classes]
        panel.bar(
            classes, row["mean"], yerr=row["deviation"], color=colors, ecolor=INK, capsize=1.5, error_kw={"lw": 0.8}
        )
        dress(panel, f"α = {row['alpha']:g}" + " (training)" * (row["alpha"] == trained))
        panel.set_ylim(0, 1.05)
        panel.set_xticks(list(classes)[:: max(1, len(classes) // 10)])
    figure.suptitle("Class probabilities by the variance of the noise (blue: the right class)", fontsize=11, color=INK)
    figure.savefig(path)

"""Tables and figure of the weight-perturbation study."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nvrm_fast.experiments import report
from nvrm_fast.experiments.variability import drawing
from nvrm_fast.experiments.variability.grid import Result
from nvrm_fast.experiments.variability.perturbation.measures import means

if TYPE_CHECKING:
    from nvrm_fast.experiments.variability.perturbation.study import PerturbationSettings

_MARKERS = ("o", "s", "D", "^", "v", "P", "X")


def name(one: Result) -> str:
    """``NVRM-SGD, b = 0.05``."""
    b = one.cell.place["variability"]
    return f"{one.cell.optimizer}, b = {b:g}" if b else one.cell.optimizer


def measured(one: Result, key: str) -> list[Any]:
    """A measure of ``Perturbations``, one value a seed."""
    return [run.besides[key] for run in one.runs]


def describe(results: Sequence[Result], chosen: PerturbationSettings) -> str:
    """Everything in Markdown: accuracies under noise, then delta and the bounds."""
    seeds = f"mean ± standard deviation over seeds, their number: {chosen.seeds}"
    return (
        f"{chosen.data}, {chosen.network} with {results[0].runs[0].besides['weights']:,} weights, {chosen.epochs} "
        f"epochs; {seeds}.\n\n"
        f"Test accuracy in percent against the scale of the noise on trained weights (mean of {chosen.samples} "
        "perturbed networks a seed):\n\n"
        + accuracy_table(results, chosen)
        + f"\n\nOn the training images, from {chosen.train_samples} perturbed networks a seed. delta, of Definition 1, "
        "with the widest 95 % interval over the seeds; errors in percent:\n\n"
        + delta_table(results, chosen)
        + "\n\nBounds for the 0-1 loss in percent (100 and more say nothing), each by itself at 95 %; delta enters by "
        "the upper end of its interval. On the expected error under noise: Theorem 2.2, and the same with a prior of "
        "width b round the initial weights. On how much the error under noise may exceed the training error without: "
        "Theorem B.2:\n\n" + bound_table(results, chosen)
    )


def accuracy_table(results: Sequence[Result], chosen: PerturbationSettings) -> str:
    """One row a training, one column a scale; the root mean square weight beside, to judge the scales by."""
    header = ["trained by", "root mean square weight", "no noise", *(f"{scale:g}" for scale in chosen.scales)]
    lines = []
    for one in results:
        curves = [means(samples) for samples in measured(one, "accuracy")]
        cells = [report.percent([curve[k] for curve in curves]) for k in range(len(chosen.scales))]
        size = report.plus_minus(measured(one, "root_mean_square_weight"), 4)
        lines.append([name(one), size, report.percent(one.last("test_accuracy")), *cells])
    return report.markdown_table(header, lines)


def delta_table(results: Sequence[Result], chosen: PerturbationSettings) -> str:
    """One row a training and b: losses without noise and delta, for cross entropy and for errors."""
    header = ["trained by", "b", "cross entropy", "its delta", "interval", "errors", "their delta", "interval"]
    lines = []
    for one in results:
        for k, b in enumerate(chosen.train_scales):
            line = [name(one), f"{b:g}"]
            for loss, factor, digits in (("cross_entropy", 1, 4), ("errors", 100, 2)):
                found = [run[loss][k] for run in measured(one, "deltas")]
                line.append(report.plus_minus([factor * each["clean"] for each in found], digits))
                if any(each["difference"] is None for each in found):
                    line += ["infinite", "-"]
                    continue
                line.append(report.plus_minus([factor * abs(each["difference"]) for each in found], digits))
                low, high = zip(*map(delta_interval, found))
                line.append(f"{factor * min(low):.{digits}f} to {factor * max(high):.{digits}f}")
            lines.append(line)
    return report.markdown_table(header, lines)


def delta_interval(found: dict[str, Any]) -> tuple[float, float]:
    """As `NeuralVariability.delta_interval`, of a result as JSON values."""
    low, high = found["low"], found["high"]
    return max(low, -high, 0.0), max(-low, high)


def bound_table(results: Sequence[Result], chosen: PerturbationSettings) -> str:
    """One row a training and b: what happens on test images, and what the theorems allow."""
    header = ["trained by", "b", "test errors under noise", "KL, nats", "Theorem 2.2", "KL round the start, nats"]
    header += ["Theorem 2.2 round the start", "increase found", "information, nats", "Theorem B.2"]
    lines = []
    for one in results:
        for k, b in enumerate(chosen.train_scales):
            bounds = [found[k] for found in measured(one, "bounds")]
            risks = [found[k] for found in measured(one, "test_errors")]
            clean = [found["errors"][k]["clean"] for found in measured(one, "deltas")]
            line = [name(one), f"{b:g}", report.percent(risks)]
            for theorem in ("pac_bayes", "pac_bayes_near_start"):
                mine = [bound[theorem] for bound in bounds]
                if None in mine:
                    line += ["-", "-"]
                    continue
                line.append(report.plus_minus([bound["kl"] for bound in mine], 0))
                line.append(report.plus_minus([100 * bound["bound"] for bound in mine], 0))
            line.append(report.percent([risk - before for risk, before in zip(risks, clean)]))
            line.append(report.plus_minus([bound["mutual_information"]["nats"] for bound in bounds], 0))
            line.append(report.plus_minus([100 * bound["mutual_information"]["bound"] for bound in bounds], 0))
            lines.append(line)
    return report.markdown_table(header, lines)


def draw(results: Sequence[Result], chosen: PerturbationSettings, path: Path) -> None:
    """Left, as the paper's Figures 1 and 8: test accuracy against the noise scale, bands of one standard deviation over
    seeds. Right: delta of the cross entropy on the training images, bars of the widest 95 % interval."""
    figure, panels = drawing.new_figure(1, 2, width=10.4, height=4.4)
    shades, lowest = iter(drawing.SHADES), math.inf
    for number, one in enumerate(results):
        plain = not one.cell.place["variability"]
        look = {
            "color": drawing.COLORS[one.cell.optimizer] if plain else next(shades, "#000000"),
            "marker": _MARKERS[number % len(_MARKERS)],
            "markersize": 4.5,
            "linewidth": 1.8,
            "label": name(one),
        }
        curves = 100 * np.array(
            [[clean, *means(rows)] for clean, rows in zip(one.last("test_accuracy"), measured(one, "accuracy"))]
        )
        scales, mean = (0.0, *chosen.scales), curves.mean(0)
        deviation = curves.std(0, ddof=1) if len(curves) > 1 else np.zeros_like(mean)
        order = np.argsort(scales)
        across = np.array(scales)[order]
        low, high = (mean - deviation)[order], (mean + deviation)[order]
        panels[0, 0].fill_between(across, low, high, color=look["color"], alpha=0.18, linewidth=0)
        panels[0, 0].plot(across, mean[order], **look)
        lowest = min(lowest, _draw_deltas(panels[0, 1], one, chosen.train_scales, look))
    drawing.dress(panels[0, 0], "Test accuracy", "standard deviation of the noise on the weights")
    drawing.dress(panels[0, 1], "δ of the cross entropy, training images", "b")
    panels[0, 1].set_xscale("log")
    panels[0, 1].set_yscale("log")
    if 0 < lowest < math.inf:
        panels[0, 1].set_ylim(bottom=lowest / 3)  # bars that reach down to 0 leave the panel
    panels[0, 1].set_xticks(chosen.train_scales, [f"{b:g}" for b in chosen.train_scales])
    panels[0, 1].minorticks_off()
    panels[0, 1].yaxis.set_major_formatter("{x:g}")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)
    plural = "s" * (chosen.seeds > 1)
    drawing.save(figure, path, f"{chosen.data}, {chosen.network}, {chosen.seeds} seed{plural}")


def _draw_deltas(panel: Any, one: Result, scales: Sequence[float], look: dict[str, Any]) -> float:
    """One line; returns its lowest point."""
    points = []
    for k, b in enumerate(scales):
        found = [run["cross_entropy"][k] for run in measured(one, "deltas")]
        if all(each["difference"] is not None for each in found):
            low, high = zip(*map(delta_interval, found))
            points.append((b, float(np.mean([abs(each["difference"]) for each in found])), min(low), max(high)))
    if points:
        across, mean, low, high = map(np.array, zip(*points))
        panel.errorbar(across, mean, np.abs([mean - low, high - mean]), capsize=2, **look)
        return mean.min()
    return math.inf

"""Tables and figures of the studies of continual learning, laid out as the NVRM paper's Figures 4, 5, 11 and 12.

A run is a dictionary with ``accuracy``, as ``continual.learn`` gives it, and its place in the study.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from nvrm_fast.experiments.optimizers import NVRM_SGD, SGD
from nvrm_fast.experiments.report import markdown_table, mean_and_deviation, percent
from nvrm_fast.experiments.variability.drawing import COLORS

Runs = Sequence[dict[str, Any]]
ADAM, NVRM_ADAM = "Adam", "NVRM-Adam"  # the paper's names
COLOR = {ADAM: COLORS[SGD], NVRM_ADAM: COLORS[NVRM_SGD]}
_INK, _FAINT = "#333333", "#9a9a9a"


class Line(NamedTuple):
    """One method: its name in the legend, its look and its runs, one a seed, in the order of the seeds."""

    label: str
    optimizer: str  # ADAM or NVRM_ADAM
    runs: Runs
    style: str = "-"
    marker: str = "o"


def base_task(run: dict[str, Any]) -> list[float]:
    """The accuracy of the first task after each task."""
    return [accuracies[0] for accuracies in run["accuracy"]]


def all_learned(run: dict[str, Any]) -> list[float]:
    """The mean accuracy of all tasks learned so far after each task."""
    return [sum(accuracies) / len(accuracies) for accuracies in run["accuracy"]]


def just_learned(run: dict[str, Any]) -> float:
    """The accuracy of a task right after it was learned, mean over the tasks: how well the method still learns."""
    return sum(accuracies[-1] for accuracies in run["accuracy"]) / len(run["accuracy"])


MEASURES = ((base_task, "Base task"), (all_learned, "Mean of all learned tasks"))


def name_of(variability: float) -> str:
    """The paper's name of the optimizer with this b."""
    return ADAM if variability == 0 else NVRM_ADAM


def final_table(header: Sequence[str], rows: Sequence[tuple[Sequence[str], Runs, Runs]]) -> str:
    """Accuracies in percent after the last task, mean ± standard deviation over seeds.

    Args:
        header: of the columns that say which method a row is.
        rows: those columns, the method's runs and, at the same seeds, those that it is compared with.
    """
    measured = ["base task", "all tasks", "just learned", "base task, gain", "all tasks, gain"]
    lines = []
    for cells, runs, others in rows:
        ends = [[measure(run)[-1] for run in runs] for measure, _ in MEASURES]
        gains = [
            percent([measure(run)[-1] - measure(other)[-1] for run, other in zip(runs, others)])
            for measure, _ in MEASURES
        ]
        compared = ["-", "-"] if runs is others else gains
        lines.append([*cells, *map(percent, ends), percent([just_learned(run) for run in runs]), *compared])
    return markdown_table([*header, *measured], lines)


def curve_table(lines: Sequence[Line]) -> str:
    """The figures' curves as numbers: a column a number of learned tasks."""
    count = len(lines[0].runs[0]["accuracy"])
    rows = [
        [line.label, heading, *(percent([measure(run)[task] for run in line.runs]) for task in range(count))]
        for line in lines
        for measure, heading in MEASURES
    ]
    return markdown_table(["method", "accuracy of", *(f"{task + 1} learned" for task in range(count))], rows)


def draw_curves(lines: Sequence[Line], path: Path, *, title: str) -> None:
    """Figures 5, 11 and 12: both measures against the number of learned tasks; bands are one standard deviation."""
    figure, panels = _two_panels(title)
    for panel, (measure, heading) in zip(panels, MEASURES):
        for line in lines:
            curves = 100 * np.array([measure(run) for run in line.runs])
            x = np.arange(1, curves.shape[1] + 1)
            mean, deviation = curves.mean(0), _deviation(curves)
            color = COLOR[line.optimizer]
            panel.fill_between(x, mean - deviation, mean + deviation, color=color, alpha=0.13, linewidth=0)
            panel.plot(x, mean, color=color, linestyle=line.style, marker=line.marker, markersize=5, label=line.label)
        _dress(panel, heading, "tasks learned")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(lines)), frameon=False, fontsize=9)
    figure.savefig(path)


def draw_sweep(adam: Runs, by_scale: dict[float, Runs], path: Path, *, title: str) -> None:
    """Figure 4: both measures after the last task against b; Adam is the level line."""
    figure, panels = _two_panels(title)
    scales = sorted(by_scale)
    for panel, (measure, heading) in zip(panels, MEASURES):
        level, spread = mean_and_deviation([100 * measure(run)[-1] for run in adam])
        panel.axhspan(level - spread, level + spread, color=COLOR[ADAM], alpha=0.13, linewidth=0)
        panel.axhline(level, color=COLOR[ADAM], linestyle="--", label=ADAM)
        points = [mean_and_deviation([100 * measure(run)[-1] for run in by_scale[scale]]) for scale in scales]
        means, deviations = zip(*points)
        panel.errorbar(scales, means, yerr=deviations, color=COLOR[NVRM_ADAM], marker="o", capsize=3, label=NVRM_ADAM)
        _dress(panel, heading, "variability scale b")
        panel.set_xscale("log")
        panel.set_xticks(scales, [f"{scale:g}" for scale in scales])
        panel.minorticks_off()
    panels[0].legend(frameon=False)
    figure.savefig(path)


def _deviation(curves: np.ndarray) -> np.ndarray:
    return curves.std(0, ddof=1) if len(curves) > 1 else np.zeros(curves.shape[1])


def _two_panels(title: str) -> tuple[Figure, Any]:
    figure = Figure(figsize=(9.6, 4.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11, color=_INK)
    return figure, figure.subplots(1, 2)


def _dress(panel: Any, heading: str, across: str) -> None:
    panel.set_title(heading, fontsize=10.5, loc="left", color=_INK)
    panel.set_xlabel(across, color=_INK)
    panel.set_ylabel("test accuracy", color=_INK)
    panel.yaxis.set_major_formatter(PercentFormatter(symbol=" %"))
    panel.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(_FAINT)
    panel.tick_params(colors=_INK)

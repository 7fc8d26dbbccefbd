"""What three studies share: training on wrong labels, and what is left after the last epoch against a scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from studies import figures, tables
from studies.labels import Kind
from studies.runner import Context, Row
from studies.settings import Share
from studies.variability import looks, training
from studies.variability.training import TrainingSettings, last


@dataclass(frozen=True, kw_only=True)
class ScaleSettings(TrainingSettings):
    """What the three studies share."""

    noise_kind: Kind = "asymmetric"
    """how labels are flipped"""
    noise_rate: Share = 0.4
    """probability that a training label is flipped"""


def run(context: Context, *, optimizer: str, seed: int, **place: Any) -> dict[str, Any]:
    """One training; ``place`` has the settings that tell the cells apart."""
    settings = context.settings
    problem = training.corrupt(context.prepared, settings.noise_kind, settings.noise_rate, seed)
    return training.train(problem, training.at(settings, **place), optimizer, seed, advance=context.advance)


def draw(settings: ScaleSettings, rows: list[Row], scale: str, across: str, line_of: Callable[[Row], str],
         levels: Sequence[str] = ()) -> Figure:  # fmt: skip
    """Test error after the last epoch (the paper's Figures 6 and 7; 13 shows accuracies) and the share of wrong labels
    that were memorized, against the scale.

    Args:
        settings: of the study.
        rows: all of them.
        scale: the name of what is across.
        across: what the axis is called.
        line_of: the name of the line that a row belongs to.
        levels: lines that have no scale.
    """
    title = looks.title(settings, settings.network, f"{100 * settings.noise_rate:g} % wrong labels")
    figure, panels = figures.new_figure(1, 2, width=10.4, height=4.4, title=title)
    lines = tables.groups([row | {"line": line_of(row)} for row in rows], "line")
    for ((line,), mine), color, marker in zip(lines.items(), figures.COLORS, figures.MARKERS):
        points = tables.groups(mine, scale)
        for panel, values in (
            (panels[0, 0], lambda runs: [1 - value for value in last(runs, "test_accuracy")]),
            (panels[0, 1], lambda runs: [value or 0.0 for value in last(runs, "memorized")]),
        ):
            if line in levels:
                figures.level(panel, values(mine), color=color, label=line)
            else:
                ends = [values(runs) for runs in points.values()]
                figures.over_scale(panel, [key for (key,) in points], ends, color=color, marker=marker, label=line)
    for panel, heading in zip(panels[0], ("Test error after the last epoch", "Wrong labels memorized")):
        figures.name_axes(panel, heading, across)
        figures.tick_scales(panel, [row[scale] for row in rows if line_of(row) not in levels])
    figures.legend_below(figure, panels[0, 0])
    return figure

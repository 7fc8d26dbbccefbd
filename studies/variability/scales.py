"""What three studies share: training on wrong labels, and what is left after the last epoch against a scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from studies import figures, tables
from studies.labels import Kind
from studies.settings import Share
from studies.study import Context, Row
from studies.variability import looks, training
from studies.variability.training import DecayStudy, last


@dataclass(frozen=True, kw_only=True)
class ScaleStudy(DecayStudy):
    """What the three studies share."""

    noise_kind: Kind = "asymmetric"
    """how labels are flipped"""
    noise_rate: Share = 0.4
    """probability that a training label is flipped"""

    def run(self, context: Context, *, optimizer: str, seed: int, **place: Any) -> dict[str, Any]:
        """One training; ``place`` has the settings that tell the cells apart."""
        problem = training.corrupt(context.prepared, self.noise_kind, self.noise_rate, seed)
        return training.train(problem, self.at(**place), optimizer, seed, advance=context.advance)


def draw(settings: ScaleStudy, rows: list[Row], scale: str, across: str, line_of: Callable[[Row], str],
         levels: Sequence[str] = ()) -> Figure:  # fmt: skip
    """Test error after the last epoch (the paper's Figures 6 and 7; 13 shows accuracies) and the share of wrong labels
    that were memorized, against the scale; a row of panels for each weight decay.

    Args:
        settings: of the study.
        rows: all of them.
        scale: the name of what is across.
        across: what the axis is called.
        line_of: the name of the line that a row belongs to.
        levels: lines that have no scale.
    """
    title = looks.title(settings, settings.network, f"{100 * settings.noise_rate:g} % wrong labels")
    decays = tables.groups(rows, "weight_decay")
    figure, panels = figures.new_figure(
        len(decays), 2, width=10.4, height=0.6 + 3.8 * len(decays), title=title, sharex=True, sharey="col"
    )
    look = dict(zip(dict.fromkeys(map(line_of, rows)), zip(figures.COLORS, figures.MARKERS)))
    for (test, labels), ((decay,), mine) in zip(panels, decays.items()):
        for line, (color, marker) in look.items():
            runs_of_line = [row for row in mine if line_of(row) == line]
            points = tables.groups(runs_of_line, scale)
            for panel, values in (
                (test, lambda runs: [1 - value for value in last(runs, "test_accuracy")]),
                (labels, lambda runs: [value or 0.0 for value in last(runs, "memorized")]),
            ):
                if line in levels:
                    figures.level(panel, values(runs_of_line), color=color, label=line)
                else:
                    ends = [values(runs) for runs in points.values()]
                    figures.over_scale(panel, [key for (key,) in points], ends, color=color, marker=marker, label=line)
        for panel, heading in ((test, "Test error after the last epoch"), (labels, "Wrong labels memorized")):
            figures.name_axes(panel, f"{heading}, weight decay {decay:g}", across)
            figures.tick_scales(panel, [row[scale] for row in rows if line_of(row) not in levels])
    figures.legend_below(figure, panels[0, 0])
    return figure

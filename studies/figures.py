"""What the figures of the studies share; their look is in style.mplstyle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

matplotlib.style.use(Path(__file__).with_name("style.mplstyle"))

#: The colors of the style, by number; one for every thing that a study compares, the same in all its figures.
COLORS = matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, FAINT = "#333333", "#9a9a9a"
#: From light to dark, for one thing at several scales.
SHADES = ("#9ec4e8", "#5b9bd5", "#1f5fa8", "#12375f", "#0a1f38", "#000000")


def new_figure(
    rows: int, columns: int, *, width: float, height: float, title: str = "", **more: Any
) -> tuple[Figure, np.ndarray]:
    """A figure of width x height inches under a title, and its panels, (rows, columns). more: as Figure.subplots."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title)
    return figure, figure.subplots(rows, columns, squeeze=False, **more)


def name_axes(panel: Any, title: str, across: str, up: str = "", *, percent: bool = True) -> None:
    """Title and labels; percent: of the values upwards."""
    panel.set(title=title, xlabel=across, ylabel=up)
    if percent:
        panel.yaxis.set_major_formatter("{x:g} %")


def over_epochs(panel: Any, curves: Sequence[Sequence[float]], *, band: bool = True, **look: Any) -> None:
    """The mean over seeds in percent, with a band of one standard deviation. curves: (seeds, epochs), fractions."""
    values = 100 * np.array(curves)
    mean, epochs = values.mean(0), np.arange(1, values.shape[1] + 1)
    if len(mean) == 1:
        look = {"marker": "o"} | look  # a line needs two points
    else:
        panel.set_xlim(1, len(mean))
    (line,) = panel.plot(epochs, mean, **look)
    if band and len(values) > 1:
        deviation = values.std(0, ddof=1)
        panel.fill_between(epochs, mean - deviation, mean + deviation, color=line.get_color(), alpha=0.18, linewidth=0)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))


def over_scale(panel: Any, scales: Sequence[float], values: Sequence[Sequence[float]], **look: Any) -> None:
    """The mean in percent at each scale, with bars of one standard deviation. values: (scales, seeds), fractions."""
    ends = [100 * np.array(seeds) for seeds in values]
    deviations = [end.std(ddof=1) if len(end) > 1 else 0.0 for end in ends]
    panel.errorbar(scales, [end.mean() for end in ends], deviations, **look)


def level(panel: Any, values: Sequence[float], **look: Any) -> None:
    """A result without a scale, across the panel, with a band of one standard deviation. values: fractions, by seed."""
    ends = 100 * np.array(values)
    line = panel.axhline(ends.mean(), **({"linestyle": "--"} | look))
    if len(ends) > 1:
        low, high = ends.mean() - ends.std(ddof=1), ends.mean() + ends.std(ddof=1)
        panel.axhspan(low, high, color=line.get_color(), alpha=0.12, linewidth=0)


def tick_scales(panel: Any, scales: Sequence[float]) -> None:
    """A logarithmic axis with the scales that were run, as plain numbers, in place of powers of ten."""
    panel.set_xscale("log")
    ticks = sorted(set(scales))
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=8.5)
    panel.xaxis.set_minor_locator(NullLocator())


def legend_below(figure: Figure, panel: Any, columns: int = 6) -> None:
    """The panel's labels under the whole figure."""
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), columns))

"""Error on the way down: test error against the multiplications that are left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import NullFormatter

from nvrm_fast.experiments.direction.drawing import INK, dress, new_figure
from nvrm_fast.experiments.stochastic.pruning import tables
from nvrm_fast.experiments.stochastic.pruning.options import BASELINE, PruningSettings

_COLORS = ("#1f5fa8", "#117733", "#e69f00", "#882255", "#44aa99", "#aa4499", "#999933", "#6699cc", "#88ccee")
_BASELINE = "#c1440e"


def draw(runs: Sequence[dict[str, Any]], chosen: PruningSettings, path: Path, *, title: str) -> None:
    """All errors, and beside them the small ones where they would be hard to see. A thin line is a seed, a thick one
    the median over seeds; circles: after the inactive neurons went; diamonds: the end; a star: the paper's SE-SNN."""
    errors = [100 * point["test_error"] for run in runs for point in run["points"]]
    crowded = max(errors) > min(errors) + 10 and not chosen.noise_rate
    headings = ["Test error", "up to 4 points above the lowest"] if crowded else ["Test error"]
    figure, (panels,) = new_figure(1, len(headings), (2 + 5 * len(headings), 4.6))
    all_lines = tables.lines(runs)
    colors = iter(_COLORS * len(all_lines))
    for line in all_lines:
        color = _BASELINE if line[0] == BASELINE else next(colors)
        mine = tables.of(runs, line)
        for panel in panels:
            for run in mine:
                x, y = _way(run)
                panel.plot(x, y, color=color, linewidth=0.7, alpha=0.45)
                panel.plot(x[1], y[1], "o", color=color, markersize=5)
                panel.plot(x[-1], y[-1], "D", color=color, markersize=5)
            panel.plot(*_median(mine), color=color, linewidth=2, label=tables.name(line, all_lines))
    star = tables.PAPER.get(chosen.network)
    for panel, heading in zip(panels, headings):
        if star is not None:
            _, flops, _, error = star[1]["SE-SNN"]
            panel.plot(flops, error, "*", color=INK, markersize=11, label=f"the paper's SE-SNN, {star[0]}")
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.invert_xaxis()
        panel.yaxis.set_major_formatter("{x:g} %")
        dress(panel, heading, "multiplications, millions")
    if len(panels) > 1:
        panels[1].set_ylim(max(0.0, min(errors) - 2), min(errors) + 4)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=12, color=INK)
    figure.savefig(path)


def _way(run: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    points = run["points"]
    return np.array([p["multiplications"] / 1e6 for p in points]), np.array([100 * p["test_error"] for p in points])


def _median(runs: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """The median error over seeds where all of them have been, between their points straight lines in log FLOPs."""
    ways = [_way(run) for run in runs]
    grid = np.geomspace(max(x.min() for x, _ in ways), min(x.max() for x, _ in ways), 100)
    # np.interp wants rising values; ways go down.
    errors = [np.interp(np.log(grid), np.log(x[::-1]), y[::-1]) for x, y in ways]
    return grid, np.median(errors, axis=0)

"""The tables: ours by stage as the paper's Tables 1 to 3, the paper's own, what never fired, and the sweeps; and error
on the way down, test error against the multiplications that are left."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from studies import figures, tables
from studies.figures import COLORS, INK
from studies.stochastic.pruning.loop import ACTIVE, BASELINE, END, SE_SNN, WAY, WHOLE
from studies.study import Report, Row
from studies.tables import means, plus_minus, select, shares

WITHIN = "within the tolerance"  # not a stage of its own: the smallest point that has hardly more validation error

#: Model size %, multiplications in millions, memory %, error %; None where the paper has none. SE-SNN, Tables 1 to 3.
PAPER = {
    "lenet5": (
        "MNIST",
        {
            "GD": (1.38, 0.250, 32.00, 1.1),
            "GL": (23.69, 0.201, 19.35, 1.0),
            "Sparse VD": (9.29, 0.660, 60.78, 1.0),
            "SBP": (19.66, 0.213, 21.15, 0.9),
            "BC-GNJ": (0.95, 0.283, 35.03, 1.0),
            "BC-GHS": (0.64, 0.153, 22.80, 1.0),
            "L0": (8.92, 1.113, 85.82, 0.9),
            "L0-sep": (1.08, 0.389, 40.36, 1.0),
            "VIBNet": (0.83, 0.094, 15.55, 1.0),
            "SE-SNN": (2.35, 0.061, 11.08, 0.9),
        },
    ),
    "vgg16": (
        "CIFAR-10",
        {
            "BC-GNJ": (6.57, 141.50, 81.68, 8.6),
            "BC-GHS": (5.40, 121.90, 74.82, 9.0),
            "VIBNet": (5.30, 70.63, 49.57, 8.8),
            "SE-SNN": (2.57, 53.61, 49.41, 8.0),
        },
    ),
    "vgg16-convolutional": (
        "CIFAR-100",
        {
            "NS-Single": (24.90, 250.50, None, 26.5),
            "NS-Best": (20.80, 214.80, None, 26.0),
            "VIBNet": (15.08, 203.10, 73.80, 25.9),
            "SE-SNN": (14.93, 181.31, 70.16, 26.2),
        },
    ),
}
#: Appendix B.2: MNIST, 40 % patterned flips; error %.
PAPER_LABELS = "the paper, MNIST, 40 %: baseline 18.96, SE-SNN 4.83, pruned SE-SNN (145-26-15-10) 4.80"
_COLUMNS = ["model size, %", "FLOPs, millions", "memory, %", "error, %"]


#: What a line's name says of each part of its way, where the lines of its method differ in it.
_WORDS = {
    "weight": "weight {:g}".format,
    "margin": "b = {:.2f}".format,
    "criterion": {"taylor": "Taylor", "entropy": "entropy"}.get,
    "loop_noise": {False: "without noise in the loop", True: "with noise in the loop"}.get,
}


def of_lines(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows by the name of their line: the method, and what tells it from the method's other lines."""
    lines = tables.groups(rows, "method", *WAY)
    named = {}
    for (method, *way), mine in lines.items():
        others = [other for name, *other in lines if name == method]
        words = [
            _WORDS[part](value) for part, value, *all_of_them in zip(WAY, way, *others) if len(set(all_of_them)) > 1
        ]
        named[", ".join([method, *words])] = mine
    return named


def of_paper(settings: Any) -> tuple[str, dict[str, tuple[float | None, ...]]] | None:
    """The paper's data set and lines, if it is (or is a part of) the study's."""
    where, lines = PAPER.get(settings.network, ("", {}))
    return (where, lines) if settings.data.split("-")[0] == where.lower().replace("-", "") else None


def at(run: Row, stage: str, tolerance: float) -> dict[str, Any]:
    """A run's point of a stage; WITHIN: the one of fewest multiplications whose validation error is at most
    `tolerance` above the whole network's, which is one itself."""
    points = run["points"]
    if stage != WITHIN:
        return next(point for point in points if point["stage"] == stage)
    allowed = points[0]["validation_error"] + tolerance
    return min((p for p in points if p["validation_error"] <= allowed), key=lambda p: p["multiplications"])


def report(settings: Any, rows: list[Row]) -> Report:
    """All tables and the figure. Rows come by seeds first; lines in the order of the first seed's."""
    parts = [_stages(settings, rows)]
    if (paper := of_paper(settings)) is not None:
        where, lines = paper
        text = [
            [method, *("-" if value is None else f"{value:.{n}f}" for value, n in zip(line, (2, 3, 2, 1)))]
            for method, line in lines.items()
        ]
        parts.append(f"The paper's, on {where}:\n\n" + tables.markdown(["method", *_COLUMNS], text))
    if settings.noise_rate:
        parts.append(
            f"Error on right labels, {100 * settings.noise_rate:g} % of the training labels flipped; {PAPER_LABELS}."
        )
    if SE_SNN in settings.methods and len(settings.weights) * len(settings.margins) > 1:
        parts.append(_sweep(settings, rows))
    parts.append(_inactive(rows))
    return Report("\n\n".join(parts), {"pruning.png": draw(settings, rows)})


def _stages(settings: Any, rows: list[Row]) -> str:
    stages = {
        WHOLE: "before pruning",
        ACTIVE: "inactive neurons removed",
        WITHIN: f"validation error within {100 * settings.tolerance:g} points",
        END: "end of the loop, fine-tuned",
    }
    points = [
        at(run, stage, settings.tolerance) | {"line": name, "words": words, "whole": run["points"][0]}
        for name, mine in of_lines(rows).items()
        for stage, words in stages.items()
        for run in mine
    ]
    columns = {
        "method": "line",
        "stage": "words",
        "neurons": tables.words(lambda p: "-".join(map(str, p["widths"])) if len(p["widths"]) < 6 else ""),
    }
    columns |= dict(zip(_COLUMNS, (
        means(lambda point: 100 * point["weights"] / point["whole"]["weights"], 2),
        means(lambda point: point["multiplications"] / 1e6, 3),
        means(lambda point: 100 * point["memory"] / point["whole"]["memory"], 2),
        shares("test_error"),
    )))  # fmt: skip
    return (
        f"{settings.network} on {settings.data}, mean ± standard deviation over {settings.seeds} seeds; neurons of "
        f"seed 0:\n\n{tables.table(points, ['line', 'words'], columns)}"
    )


def _inactive(rows: list[Row]) -> str:
    def layers(mine: list[Row]) -> str:
        several = range(len(mine[0]["neurons"]))
        by_layer = [shares(lambda run, i=i: run["never_firing"][i] / run["neurons"][i])(mine) for i in several]
        return ", ".join(by_layer) if len(by_layer) < 6 else ""

    columns = {
        "method": "line",
        "never fire, % of each layer": layers,
        "of all": shares(lambda run: sum(run["never_firing"]) / sum(run["neurons"])),
        "log sigma, never firing": means(lambda run: run["log_sigma"]["never firing"], 2),
        "log sigma, firing": means(lambda run: run["log_sigma"]["firing"], 2),
        "test classes changed by their removal, %": shares(lambda run: run["points"][1]["test_changed"]),
        "seconds": means(lambda run: sum(run["seconds"].values()), 0),
    }
    named = [run | {"line": name} for name, mine in of_lines(rows).items() for run in mine]
    return f"Neurons that never fire on the training images:\n\n{tables.table(named, ['line'], columns)}"


def _sweep(settings: Any, rows: list[Row]) -> str:
    """Figure B.1 as numbers: multiplications of the smallest network within the tolerance, by weight and margin."""

    way = {"criterion": settings.criterion[0], "loop_noise": settings.loop_noise[0]}

    def flops(weight: float, margin: float) -> str:
        mine = select(rows, method=SE_SNN, weight=weight, margin=margin, **way)
        return plus_minus([at(run, WITHIN, settings.tolerance)["multiplications"] / 1e6 for run in mine], 3)

    lines = [[f"{weight:g}", *(flops(weight, margin) for margin in settings.margins)] for weight in settings.weights]
    return (
        f"SE-SNN, millions of multiplications at a validation error within {100 * settings.tolerance:g} points:\n\n"
        + tables.markdown(["weight", *(f"b = {margin:.2f}" for margin in settings.margins)], lines)
    )


def draw(settings: Any, rows: list[Row]) -> Figure:
    """All errors, and beside them the small ones where they would be hard to see. A thin line is a seed, a thick one
    the median over seeds; circles: after the inactive neurons went; diamonds: the end; a star: the paper's SE-SNN."""
    errors = [100 * point["test_error"] for run in rows for point in run["points"]]
    crowded = max(errors) > min(errors) + 10 and not settings.noise_rate
    headings = ["Test error", "up to 4 points above the lowest"] if crowded else ["Test error"]
    flips = f", {100 * settings.noise_rate:g} % of the labels flipped" if settings.noise_rate else ""
    figure, (panels,) = figures.new_figure(
        1, len(headings), width=2 + 5 * len(headings), height=4.6, title=f"{settings.network} on {settings.data}{flips}"
    )
    colors = cycle(COLORS[1:])
    for name, mine in of_lines(rows).items():
        color = COLORS[0] if name == BASELINE else next(colors)
        for panel in panels:
            for run in mine:
                x, y = _way(run)
                panel.plot(x, y, color=color, linewidth=0.7, alpha=0.45)
                panel.plot(x[1], y[1], "o", color=color)
                panel.plot(x[-1], y[-1], "D", color=color)
            panel.plot(*_median(mine), color=color, linewidth=2, label=name)
    for panel, heading in zip(panels, headings):
        if (paper := of_paper(settings)) is not None:
            where, lines = paper
            _, flops, _, error = lines["SE-SNN"]
            panel.plot(flops, error, "*", color=INK, markersize=11, label=f"the paper's SE-SNN, {where}")
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.invert_xaxis()
        figures.name_axes(panel, heading, "multiplications, millions")
    if crowded:
        panels[1].set_ylim(max(0.0, min(errors) - 2), min(errors) + 4)
    figures.legend_below(figure, panels[0], 3)
    return figure


def _way(run: Row) -> tuple[np.ndarray, np.ndarray]:
    points = run["points"]
    return np.array([p["multiplications"] / 1e6 for p in points]), np.array([100 * p["test_error"] for p in points])


def _median(rows: list[Row]) -> tuple[np.ndarray, np.ndarray]:
    """The median error over seeds where all of them have been, between their points straight lines in log FLOPs."""
    ways = [_way(run) for run in rows]
    grid = np.geomspace(max(x.min() for x, _ in ways), min(x.max() for x, _ in ways), 100)
    # np.interp wants rising values; ways go down.
    errors = [np.interp(np.log(grid), np.log(x[::-1]), y[::-1]) for x, y in ways]
    return grid, np.median(errors, axis=0)

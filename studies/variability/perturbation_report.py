"""Tables and figure of weight-perturbation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from studies import figures, tables
from studies.study import Row
from studies.variability import looks
from studies.variability.training import last, name

_BY = ("optimizer", "variability")


def means(samples: Sequence[Sequence[float]]) -> list[float]:
    """The mean over the samples at each scale."""
    return [sum(row) / len(row) for row in samples]


def measured(runs: Sequence[Row], key: str) -> list[Any]:
    """A measure of ``WeightPerturbation.measure``, one value a seed."""
    return [run["measured"][key] for run in runs]


def describe(settings: Any, rows: Sequence[Row]) -> str:
    """Everything in Markdown: accuracies under noise, then delta and the bounds."""
    seeds = f"mean ± standard deviation over seeds, their number: {settings.seeds}"
    return (
        f"{settings.data}, {settings.network} with {rows[0]['measured']['weights']:,} weights, {settings.epochs} "
        f"epochs; {seeds}.\n\n"
        f"Test accuracy in percent against the scale of the noise on trained weights (mean of {settings.samples} "
        "perturbed networks a seed):\n\n"
        + accuracy_table(settings, rows)
        + difference_table(settings, rows)
        + f"\n\nOn the training images, from {settings.train_samples} perturbed networks a seed. delta, of Definition "
        "1, with the widest 95 % interval over the seeds; errors in percent:\n\n"
        + delta_table(settings, rows)
        + "\n\nBounds for the 0-1 loss in percent (100 and more say nothing), each by itself at 95 %; delta enters by "
        "the upper end of its interval. On the expected error under noise: Theorem 2.2, and the same with a prior of "
        "width b round the initial weights. On how much the error under noise may exceed the training error without: "
        "Theorem B.2:\n\n" + bound_table(settings, rows)
    )


def accuracy_table(settings: Any, rows: Sequence[Row]) -> str:
    """One line a training, one column a scale; the root mean square weight beside, to judge the scales by."""

    def at(number: int) -> Any:
        return lambda runs: tables.percent([means([run[number]])[0] for run in measured(runs, "accuracy")])

    columns = {
        "trained by": lambda runs: name(runs[0]),
        "root mean square weight": lambda runs: tables.plus_minus(measured(runs, "root_mean_square_weight"), 4),
        "no noise": lambda runs: tables.percent(last(runs, "test_accuracy")),
    }
    return tables.table(rows, _BY, columns | {f"{scale:g}": at(k) for k, scale in enumerate(settings.scales)})


def at_twice_the_weights(settings: Any, run: Row) -> float:
    """Accuracy at noise of twice the network's root mean square weight, straight lines between the scales, as a
    fraction: noise that is equally large beside the weights of all networks."""
    order = np.argsort((0.0, *settings.scales))
    accuracies = np.array([run["test_accuracy"][-1], *means(run["measured"]["accuracy"])])[order]
    return float(np.interp(2 * run["measured"]["root_mean_square_weight"], [0.0, *sorted(settings.scales)], accuracies))


def difference_table(settings: Any, rows: Sequence[Row]) -> str:
    """By how much networks of NVRM-SGD keep more accuracy than SGD's of the same seed, with the paragraph before it;
    empty for one seed."""
    base = tables.select(rows, variability=0.0)
    others = [row for row in rows if row["variability"]]
    if len(base) < 2 or not others:
        return ""

    def above(value: Any) -> Any:
        return lambda runs: tables.paired([value(run) for run in runs], [value(run) for run in base])

    columns: dict[str, Any] = {"trained by": lambda runs: name(runs[0])}
    for k, scale in enumerate(settings.scales):
        columns[f"{scale:g}"] = above(lambda run, k=k: means([run["measured"]["accuracy"][k]])[0])
    columns["twice the root mean square weight"] = above(lambda run: at_twice_the_weights(settings, run))
    level = tables.percent([at_twice_the_weights(settings, run) for run in base])
    return (
        f"\n\nAbove SGD's at the same seeds, 95 % interval; last column: at noise of twice the network's own root mean "
        f"square weight, where SGD has {level}:\n\n{tables.table(others, _BY, columns)}"
    )


def _at_each_scale(settings: Any, rows: Sequence[Row], header: Sequence[str], cells: Any) -> str:
    """A table with a line for each training and each of --train-scales; cells: of the runs and the scale's number."""
    lines = [
        [name(runs[0]), f"{b:g}", *cells(runs, k)]
        for runs in tables.groups(rows, *_BY).values()
        for k, b in enumerate(settings.train_scales)
    ]
    return tables.markdown(["trained by", "b", *header], lines)


def delta_table(settings: Any, rows: Sequence[Row]) -> str:
    """Losses without noise and delta, for cross entropy and for errors."""

    def cells(runs: Sequence[Row], k: int) -> list[str]:
        line = []
        for loss, factor, digits in (("cross_entropy", 1, 4), ("errors", 100, 2)):
            found = [run[loss][k] for run in measured(runs, "deltas")]
            line.append(tables.plus_minus([factor * each["clean"] for each in found], digits))
            if any(each["difference"] is None for each in found):
                line += ["infinite", "-"]
                continue
            line.append(tables.plus_minus([factor * abs(each["difference"]) for each in found], digits))
            low, high = zip(*map(delta_interval, found))
            line.append(f"{factor * min(low):.{digits}f} to {factor * max(high):.{digits}f}")
        return line

    header = ["cross entropy", "its delta", "interval", "errors", "their delta", "interval"]
    return _at_each_scale(settings, rows, header, cells)


def delta_interval(found: dict[str, Any]) -> tuple[float, float]:
    """As `NeuralVariability.delta_interval`, of a result as JSON values."""
    low, high = found["low"], found["high"]
    return max(low, -high, 0.0), max(-low, high)


def bound_table(settings: Any, rows: Sequence[Row]) -> str:
    """What happens on test images, and what the theorems allow."""

    def cells(runs: Sequence[Row], k: int) -> list[str]:
        bounds = [found[k] for found in measured(runs, "bounds")]
        risks = [found[k] for found in measured(runs, "test_errors")]
        clean = [found["errors"][k]["clean"] for found in measured(runs, "deltas")]
        line = [tables.percent(risks)]
        for theorem in ("pac_bayes", "pac_bayes_near_start"):
            mine = [bound[theorem] for bound in bounds]
            if None in mine:
                line += ["-", "-"]
                continue
            line.append(tables.plus_minus([bound["kl"] for bound in mine], 0))
            line.append(tables.plus_minus([100 * bound["bound"] for bound in mine], 0))
        line.append(tables.percent([risk - before for risk, before in zip(risks, clean)]))
        information = [bound["mutual_information"] for bound in bounds]
        line.append(tables.plus_minus([one["nats"] for one in information], 0))
        line.append(tables.plus_minus([100 * one["bound"] for one in information], 0))
        return line

    header = ["test errors under noise", "KL, nats", "Theorem 2.2", "KL round the start, nats"]
    header += ["Theorem 2.2 round the start", "increase found", "information, nats", "Theorem B.2"]
    return _at_each_scale(settings, rows, header, cells)


def draw(settings: Any, rows: Sequence[Row]) -> Figure:
    """Left, as the paper's Figures 1 and 8: test accuracy against the noise scale, bands of one standard deviation over
    seeds. Right: delta of the cross entropy on the training images, bars of the widest 95 % interval."""
    figure, (panels,) = figures.new_figure(1, 2, width=10.4, height=4.4, title=looks.title(settings, settings.network))
    shades, lowest = iter(figures.SHADES), math.inf
    for number, runs in enumerate(tables.groups(rows, *_BY).values()):
        look = {
            "color": next(shades, "#000000") if runs[0]["variability"] else looks.COLORS[runs[0]["optimizer"]],
            "marker": figures.MARKERS[number % len(figures.MARKERS)],
            "label": name(runs[0]),
        }
        curves = 100 * np.array(
            [[clean, *means(rows)] for clean, rows in zip(last(runs, "test_accuracy"), measured(runs, "accuracy"))]
        )
        order = np.argsort((0.0, *settings.scales))
        across, mean = np.array((0.0, *settings.scales))[order], curves.mean(0)[order]
        deviation = curves.std(0, ddof=1)[order] if len(curves) > 1 else np.zeros_like(mean)
        panels[0].fill_between(across, mean - deviation, mean + deviation, color=look["color"], alpha=0.18, linewidth=0)
        panels[0].plot(across, mean, **look)
        lowest = min(lowest, _draw_deltas(panels[1], runs, settings.train_scales, look))
    figures.name_axes(panels[0], "Test accuracy", "standard deviation of the noise on the weights")
    figures.name_axes(panels[1], "δ of the cross entropy, training images", "b", percent=False)
    panels[1].set_yscale("log")
    if 0 < lowest < math.inf:
        panels[1].set_ylim(bottom=lowest / 3)  # bars that reach down to 0 leave the panel
    panels[1].yaxis.set_major_formatter("{x:g}")
    panels[1].minorticks_off()
    figures.tick_scales(panels[1], settings.train_scales)
    figures.legend_below(figure, panels[0], columns=4)
    return figure


def _draw_deltas(panel: Any, runs: Sequence[Row], scales: Sequence[float], look: dict[str, Any]) -> float:
    """One line; returns its lowest point."""
    points = []
    for k, b in enumerate(scales):
        found = [run["cross_entropy"][k] for run in measured(runs, "deltas")]
        if all(each["difference"] is not None for each in found):
            low, high = zip(*map(delta_interval, found))
            points.append((b, float(np.mean([abs(each["difference"]) for each in found])), min(low), max(high)))
    if not points:
        return math.inf
    across, mean, low, high = map(np.array, zip(*points))
    panel.errorbar(across, mean, np.abs([mean - low, high - mean]), **look)
    return mean.min()

"""The tables of the study of attacks, and its figure, laid out as the paper's Figure 2: FGS after normal and after
adversarial training, and CW-L2."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from studies import figures
from studies.figures import FAINT, INK
from studies.stochastic.attacks.training import BASELINE, METHODS
from studies.study import Report, Row
from studies.tables import first, groups, markdown, means, percent, select, shares, table

COLORS = dict(zip(METHODS, (INK, *figures.COLORS)))
MARKERS = dict(zip(METHODS, figures.MARKERS))
MODES = ("mean", "sample")


def report(settings: Any, rows: list[Row]) -> Report:
    """FGS by epsilon, CW-L2, the closer look, and the networks; and the figure."""
    rows = sorted(rows, key=lambda row: settings.trainings.index(row["training"]))
    parts = [
        f"Test accuracy in percent, mean ± standard deviation over {settings.seeds} seeds. Modes: mean, the layer's "
        "means are passed on; sample, one draw a prediction. The baseline has no noise: both are one.",
        f"Untargeted FGS with expected gradients, by epsilon:\n\n{_curves(settings, rows)}",
    ]
    attacked = [row for row in rows if row["cw"]]
    if attacked:
        parts.append(f"Untargeted CW-L2, normal training; L2 is the mean over images found:\n\n{_carlini(attacked)}")
    for (training,), mine in groups(rows, "training").items():
        parts.append(f"A closer look, {training} training; accuracies in the modes mean / sample:\n\n{_looks(mine)}")
    networks = {
        "training": "training",
        "network": "method",
        "weights": first("{weights:,}"),
        "mean log sigma": means("log_deviation", 2),
        "images without a gradient": shares("zero_gradients"),
        "seconds, training": means("training_seconds", 1),
        "seconds, attacks": means("seconds", 1),
    }
    parts.append(f"The networks:\n\n{table(rows, ['training', 'method'], networks)}")
    return Report("\n\n".join(parts), {"attacks.png": draw(settings, rows)})


def _modes(method: str) -> tuple[str, ...]:
    return MODES[:1] if method == BASELINE else MODES


def _curves(settings: Any, rows: list[Row]) -> str:
    lines = [
        [training, method, mode]
        + [percent([row["fgs"][place][mode] for row in mine]) for place in range(len(settings.epsilons))]
        for (training, method), mine in groups(rows, "training", "method").items()
        for mode in _modes(method)
    ]
    return markdown(["training", "network", "mode", *(f"{epsilon:g}" for epsilon in settings.epsilons)], lines)


def _carlini(rows: list[Row]) -> str:
    attacks = [{"method": row["method"]} | attack for row in rows for attack in row["cw"]]
    order = list(dict.fromkeys(row["method"] for row in rows))
    columns = {
        "network": "method",
        "attack": "attack",
        "confidence": means("confidence", 1),
        "found": shares("found"),
        "L2": means("distance", 2),
        "accuracy, mean": shares("mean"),
        "accuracy, sample": shares("sample"),
    }
    attacks.sort(key=lambda row: order.index(row["method"]))
    return table(attacks, ["method", "attack"], columns)


def _looks(rows: list[Row]) -> str:
    methods = list(dict.fromkeys(row["method"] for row in rows))
    looks = [{"method": row["method"]} | look for row in rows for look in row["looks"]]
    # The attacks in the order of the network that has most of them.
    order = [look["attack"] for look in max(rows, key=lambda row: len(row["looks"]))["looks"]]
    looks.sort(key=lambda look: (look["epsilon"], order.index(look["attack"])))

    def cell(mine: list[Row], method: str) -> str:
        own = select(mine, method=method)
        return " / ".join(percent([look[mode] for look in own]) for mode in _modes(method)) if own else "-"

    columns = {"epsilon": first("{epsilon:g}"), "attack": "attack"}
    columns |= {method: lambda mine, method=method: cell(mine, method) for method in methods}
    return table(looks, ["epsilon", "attack"], columns)


def draw(settings: Any, rows: list[Row]) -> Figure:
    """Lines are means over seeds in the mode "mean", bars one standard deviation, dotted lines the mode "sample", and
    crosses PGD with expected gradients in the mode "mean"."""
    trainings = groups(rows, "training")
    attacked = [row for row in rows if row["cw"]]
    count = len(trainings) + bool(attacked)
    title = (
        f"{settings.data}, {'-'.join(map(str, settings.hidden))}, {settings.epochs} epochs, gradients over "
        f"{settings.draws} draws, {settings.seeds} seeds"
    )
    figure, (panels,) = figures.new_figure(1, count, width=1.2 + 4.4 * count, height=4.8, title=title)
    for panel, ((training,), mine) in zip(panels, trainings.items()):
        for (method,), own in groups(mine, "method").items():
            _curve(panel, own, method, settings.epsilons)
        figures.name_axes(panel, f"Untargeted FGS, {training} training", "epsilon")
    panels[0].plot([], [], ":", color=INK, linewidth=1.2, label='FGS, mode "sample"')
    panels[0].plot([], [], "x", color=INK, label='PGD, mode "mean"')
    if attacked:
        _bars(panels[-1], attacked)
    for panel in panels:
        panel.set_ylim(-3, 103)
    figures.legend_below(figure, panels[0])
    return figure


def _curve(panel: Any, rows: list[Row], method: str, epsilons: tuple[float, ...]) -> None:
    look = {"color": COLORS[method]}

    def at(mode: str) -> list[list[float]]:
        return [[row["fgs"][place][mode] for row in rows] for place in range(len(epsilons))]

    figures.over_scale(panel, epsilons, at("mean"), marker=MARKERS[method], label=method, **look)
    if method != BASELINE:
        panel.plot(epsilons, 100 * np.mean(at("sample"), 1), ":", linewidth=1.2, **look)
    climbs = [one for row in rows for one in row["looks"] if one["attack"].startswith("PGD, expected gradient")]
    for (epsilon,), mine in groups(climbs, "epsilon").items():
        # Of the two losses that PGD climbs the one that did more harm.
        harm = min(statistics.fmean(one["mean"] for one in own) for own in groups(mine, "attack").values())
        # Beside each other, since many are at 0.
        aside = 0.008 * (METHODS.index(method) - (len(METHODS) - 1) / 2)
        panel.plot(epsilon + aside, 100 * harm, "x", markersize=6, **look)


def _bars(panel: Any, rows: list[Row]) -> None:
    """A group of bars an attack of CW-L2, a bar a network, in the mode "mean", with the mean L2 written on top."""
    methods = groups(rows, "method")
    attacks = [attack["attack"] for attack in max(rows, key=lambda row: len(row["cw"]))["cw"]]
    width = 0.8 / len(methods)
    for number, ((method,), mine) in enumerate(methods.items()):
        for place, attack in enumerate(attacks):
            found = [one for row in mine for one in select(row["cw"], attack=attack)]
            if not found:
                continue
            values = [100 * one["mean"] for one in found]
            mean, deviation = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
            x = place + width * (number - (len(methods) - 1) / 2)
            panel.bar(x, mean, 0.9 * width, yerr=deviation, color=COLORS[method], ecolor=FAINT)
            distances = [one["distance"] for one in found if one["distance"] is not None]
            if distances:
                panel.annotate(
                    f"{statistics.fmean(distances):.2f}", (x, mean + deviation), xytext=(0, 3),
                    textcoords="offset points", ha="center", fontsize=7.5,
                )  # fmt: skip
    short = [attack.removeprefix("CW, ").removeprefix("CW ").replace(", ", ",\n") for attack in attacks]
    panel.set_xticks(range(len(short)), [words.replace("the mean", "the\nmean") for words in short], fontsize=9)
    figures.name_axes(panel, "Untargeted CW-L2; numbers: mean L2", "")

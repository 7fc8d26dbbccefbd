"""The figure of the study of attacks, laid out as the paper's Figure 2: FGS after normal and after adversarial
training, and CW-L2."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nvrm_fast.experiments.report import mean_and_deviation
from nvrm_fast.experiments.stochastic.attacks.tables import Runs, of, values
from nvrm_fast.experiments.stochastic.attacks.training import BASELINE, METHODS

INK, FAINT = "#333333", "#9a9a9a"
COLORS = dict(zip(METHODS, ("#333333", "#e69f00", "#7fb2d9", "#1f5fa8")))
MARKERS = dict(zip(METHODS, "so^D"))


def draw(runs: Runs, epsilons: Sequence[float], path: Path, *, title: str) -> None:
    """Lines are means over seeds in the mode "mean", bars one standard deviation, dotted lines the mode "sample", and
    crosses PGD with expected gradients in the mode "mean"."""
    trainings = values(runs, "training")
    attacked = [run for run in runs if run["cw"]]
    panels = len(trainings) + bool(attacked)
    figure = Figure(figsize=(1.2 + 4.4 * panels, 4.8), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(1, panels, squeeze=False)[0]
    for panel, training in zip(grid, trainings):
        for method in values(runs, "method"):
            _curve(panel, of(runs, training=training, method=method), method, epsilons)
        _dress(panel, f"Untargeted FGS, {training} training")
        panel.set_xlabel("epsilon", color=INK)
    grid[0].plot([], [], ":", color=INK, linewidth=1.2, label='FGS, mode "sample"')
    grid[0].plot([], [], "x", color=INK, label='PGD, mode "mean"')
    if attacked:
        _carlini(grid[-1], attacked)
    names = sorted(zip(*grid[0].get_legend_handles_labels()), key=lambda entry: entry[1] not in METHODS)
    figure.legend(*zip(*names), loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=12, color=INK)
    figure.savefig(path)


def _curve(panel: Any, mine: Runs, method: str, epsilons: Sequence[float]) -> None:
    if not mine:
        return
    look = {"color": COLORS[method]}
    curve = {mode: 100 * np.array([[at[mode] for at in run["fgs"]] for run in mine]) for mode in ("mean", "sample")}
    deviation = curve["mean"].std(0, ddof=1) if len(mine) > 1 else np.zeros(len(epsilons))
    panel.errorbar(
        epsilons, curve["mean"].mean(0), deviation, marker=MARKERS[method], markersize=5, linewidth=1.7, capsize=2,
        label=method, **look,
    )  # fmt: skip
    if method != BASELINE:
        panel.plot(epsilons, curve["sample"].mean(0), ":", linewidth=1.2, **look)
    rows = [[row for row in run["looks"] if row["attack"].startswith("PGD, expected gradient")] for run in mine]
    for epsilon in dict.fromkeys(row["epsilon"] for row in rows[0]):
        # Of the two losses that PGD climbs the one that did more harm.
        harm = min(
            np.mean(
                [row["mean"] for run in rows for row in run if (row["epsilon"], row["attack"]) == (epsilon, attack)]
            )
            for attack in dict.fromkeys(row["attack"] for row in rows[0])
        )
        # Beside each other, since many are at 0.
        aside = 0.008 * (METHODS.index(method) - (len(METHODS) - 1) / 2)
        panel.plot(epsilon + aside, 100 * harm, "x", markersize=6, **look)


def _carlini(panel: Any, runs: Runs) -> None:
    """A group of bars an attack, a bar a network, in the mode "mean", with the mean L2 written on top."""
    methods = values(runs, "method")
    fullest = max(runs, key=lambda run: len(run["cw"]))
    attacks = [row["attack"] for row in fullest["cw"]]
    width = 0.8 / len(methods)
    for number, method in enumerate(methods):
        for place, attack in enumerate(attacks):
            rows = [row for run in of(runs, method=method) for row in run["cw"] if row["attack"] == attack]
            if not rows:
                continue
            mean, deviation = mean_and_deviation([100 * row["mean"] for row in rows])
            x = place + width * (number - (len(methods) - 1) / 2)
            panel.bar(x, mean, 0.9 * width, yerr=deviation, color=COLORS[method], ecolor=FAINT, capsize=2)
            distances = [row["distance"] for row in rows if row["distance"] is not None]
            if distances:
                words = f"{np.mean(distances):.2f}"
                panel.annotate(
                    words, (x, mean + deviation), xytext=(0, 3), textcoords="offset points", ha="center",
                    fontsize=7.5, color=INK,
                )  # fmt: skip
    panel.set_xticks(range(len(attacks)), [_short(attack) for attack in attacks], fontsize=9)
    _dress(panel, "Untargeted CW-L2; numbers: mean L2")


def _short(attack: str) -> str:
    return attack.removeprefix("CW, ").removeprefix("CW ").replace(", ", ",\n").replace("on the mean", "on the\nmean")


def _dress(panel: Any, heading: str) -> None:
    panel.set_title(heading, fontsize=10.5, loc="left", color=INK)
    panel.set_ylim(-3, 103)
    panel.yaxis.set_major_formatter("{x:.0f} %")
    panel.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(FAINT)
    panel.tick_params(colors=INK)

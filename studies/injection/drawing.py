"""The figures of the studies of injection nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nvrm_fast.probe import PhaseDiagram
from nvrm_fast.probe.phases import CATAPULT, DECAY, DECOUPLED, DIVERGENT, PHASES
from studies.figures import INK, name_axes, new_figure

#: The paper's colors: training purple, test green, noise weights blue, next layer red, input weights black.
TRAIN, TEST, NOISE, NEXT, INPUT = "#7b3fa0", "#2e8b57", "#1f5fa8", "#c1440e", "#222222"
FIXED = "#7fb2e5"  # noise weights too
PHASE_COLORS = {DECOUPLED: "#cfe3f5", DECAY: "#cdebd3", CATAPULT: "#fbe6b8", DIVERGENT: "#f6cdc6"}
_LEAST = 1e-6  # smaller values are drawn here, so that a logarithmic axis shows all of a run


def _figure(title: str, panels: int, columns: int, width: float, height: float) -> tuple[Figure, Any, list[Any]]:
    """A figure with a bar across its top and so many panels below it."""
    names = [f"{k}" if k < panels else "." for k in range(-(-panels // columns) * columns)]
    rows = [names[at : at + columns] for at in range(0, len(names), columns)]
    figure = Figure(figsize=(width, height))
    if title:
        figure.suptitle(title)
    axes = figure.subplot_mosaic([["bar"] * columns, *rows], height_ratios=(1, *[3.4] * len(rows)))
    return figure, axes["bar"], [axes[f"{k}"] for k in range(panels)]


def _bar(panel: Any, edges: Sequence[float], phases: Sequence[str], marks: Sequence[float], heading: str) -> None:
    """Phases along sigma: phases[k] between edges[k] and edges[k + 1]; a diamond at each mark."""
    for low, high, phase in zip(edges, edges[1:], phases):
        panel.axvspan(low, high, color=PHASE_COLORS[phase], linewidth=0)
    # At two heights, since decay and catapult are often too narrow for names side by side.
    for phase, height in zip(PHASES, (0.82, 0.82, 0.55, 0.82)):
        spans = [(low, high) for low, high, p in zip(edges, edges[1:], phases) if p == phase]
        if spans:
            low, high = spans[0][0], spans[-1][1]
            panel.text(math.sqrt(low * high), height, phase, ha="center", va="center", fontsize=8.5)
    panel.plot(marks, [0.25] * len(marks), linestyle="", marker="D", color=INK)
    panel.set(xscale="log", xlim=(edges[0], edges[-1]), ylim=(0, 1), yticks=[])
    panel.spines["left"].set_visible(False)
    name_axes(panel, heading, "noise strength σ", percent=False)


def _capped(values: np.ndarray, most: float) -> np.ndarray:
    """Values for a logarithmic axis; a curve ends where it leaves the axis, and zero is drawn at the bottom."""
    values = np.where(np.isfinite(values) & (values <= most), values, np.nan)
    return np.maximum(values, _LEAST)


def draw_linear(curves: Mapping[str, Any], bounds: Mapping[str, float]) -> Figure:
    """Figure 2, top row: a bar of the predicted phases and one panel a strength.

    curves: sigmas, phases, steps and, by strength and step, w0, w1, noise and loss. bounds: of ``linear.Boundaries``.
    """
    sigmas = curves["sigmas"]
    figure, bar, panels = _figure("", len(sigmas), len(sigmas), 13, 4.4)
    edges = [bounds["decoupled"] / 100, bounds["decoupled"], bounds["catapult"]]
    edges += [bounds["divergent_exact"], bounds["divergent_exact"] * 10]
    _bar(bar, edges, PHASES, sigmas, "Linear model: predicted phases, and where the panels are")
    steps = np.array(curves["steps"]) + 1  # so that the start has a place on a logarithmic axis
    for k, panel in enumerate(panels):
        for series, color, label in (
            ("w0", INPUT, "|w0|"),
            ("w1", NEXT, "|w1|"),
            ("noise", NOISE, "|w noise|"),
            ("loss", TRAIN, "loss, noise off"),
        ):
            values = np.abs(np.array(curves[series][k], float))
            panel.plot(steps, _capped(values, 1e4), color=color, label=label)
        panel.set(xscale="log", yscale="log", xlim=(1, steps[-1]), ylim=(1e-5, 1e4))
        name_axes(panel, f"σ = {sigmas[k]:.3g}: {curves['phases'][k]}", "SGD step + 1", percent=False)
    panels[0].legend(fontsize=7.5, loc="upper right")
    return figure


def diagram_edges(diagram: PhaseDiagram) -> tuple[list[float], list[str]]:
    """The phases of a scan as intervals of sigma, with geometric means as edges."""
    order = sorted(range(len(diagram.sigmas)), key=lambda k: diagram.sigmas[k])
    sigmas, phases = [diagram.sigmas[k] for k in order], [diagram.phases[k] for k in order]
    edges = [sigmas[0] / 1.3] + [math.sqrt(a * b) for a, b in zip(sigmas, sigmas[1:])] + [sigmas[-1] * 1.3]
    return edges, phases


def draw_phases(
    diagram: PhaseDiagram, names: Sequence[str], bar: PhaseDiagram, heading: str, bar_heading: str
) -> Figure:
    """Figures 2 (bottom row) and 3: a bar of the phases found by a scan, and one panel a strength."""
    columns = min(3 if len(names) > 4 else 4, len(names))
    rows = -(-len(names) // columns)
    figure, top, panels = _figure(heading, len(names), columns, 4.3 * columns, 1.3 + 3.5 * rows)
    _bar(top, *diagram_edges(bar), diagram.sigmas, bar_heading)
    # Steps from 1 on, so that the start has a place on a logarithmic axis.
    steps = diagram.steps.numpy() + 1
    for k, (sigma, phase, name) in enumerate(zip(diagram.sigmas, diagram.phases, names)):
        panel, shown = panels[k], panels[k].twinx()
        for series, color, label in (
            ("training_loss", TRAIN, "training loss, noise on"),
            ("test_loss", TEST, "test loss, noise off"),
            ("noise_norm", NOISE, "‖noise weights‖"),
            ("next_norm", NEXT, "‖next layer‖"),
        ):
            values = _capped(diagram.series[series][:, k].numpy(), 1e4)
            panel.plot(steps, values, color=color, label=label)
        for series, color in (("training_accuracy", TRAIN), ("test_accuracy", TEST)):
            accuracy = diagram.series[series][:, k].numpy()
            finite = np.isfinite(diagram.series["training_loss"][:, k].numpy())
            shown.plot(steps, np.where(finite, accuracy, np.nan), color=color, linewidth=1.1, linestyle="--")
        panel.set(xscale="log", yscale="log", ylim=(1e-2, 1e4), xlim=(1, steps[-1]))
        shown.set(ylim=(0, 1.02))
        shown.grid(visible=False)
        shown.spines[["left", "bottom"]].set_visible(False)
        shown.spines["right"].set_visible(True)
        if k % columns == columns - 1 or k == len(names) - 1:
            shown.set_ylabel("accuracy (dashed)")
        across = f"SGD step + 1 ({diagram.steps_an_epoch} an epoch)"
        name_axes(panel, f"σ = {sigma:.4g} ({name}): {phase}", across, percent=False)
    panels[0].legend(fontsize=7.5, loc="upper left")
    return figure


def draw_decay(redrawn: PhaseDiagram, fixed: PhaseDiagram, shown: int, heading: str) -> Figure:
    """Figure 1, center and right: one strength, by its number, with both kinds of noise and the fits; decay times over
    strengths."""
    figure, panels = new_figure(1, 2, width=12, height=4.6, title=heading)
    center, right = panels[0]
    curves = [
        (redrawn, "noise", "noise_norm", NOISE, "‖noise weights‖, redrawn"),
        (fixed, "noise", "noise_norm", FIXED, "‖noise weights‖, fixed"),
        (redrawn, "test loss", "test_loss", TEST, "test loss, noise off"),
        (redrawn, "train loss", "train_loss", TRAIN, "training loss, noise off"),
    ]
    for diagram, what, name, color, label in curves:
        time, value = diagram.epochs.numpy(), diagram.series[name][:, shown].numpy()
        start = value[0]
        center.plot(time, value / start, linestyle="", marker="o", markersize=3, color=color, label=label)
        fit = diagram.decay_times(shown)[what]
        if fit is not None and fit.determined:
            inside = time <= (time[-1] if what != "test loss" else time[int(np.nanargmin(value))])
            # A floor below zero is no state of a loss: what would be drawn there is left out.
            curve = np.where(fit(diagram.epochs).numpy() > 0, fit(diagram.epochs).numpy() / start, np.nan)
            center.plot(time[inside], curve[inside], color=color, linewidth=1.3)
            if fit.tau < time[-1]:
                height = (fit.floor + fit.amplitude / math.e) / start
                center.plot(fit.tau, height, marker="*", markersize=13, color=color, markeredgecolor=INK, zorder=5)
    center.set(yscale="log")
    title = f"σ = {redrawn.sigmas[shown]:.4g} ({redrawn.phases[shown]}): values over their start, stars at τ"
    name_axes(center, title, "epoch", percent=False)
    center.legend(fontsize=8)
    edges, phases = diagram_edges(redrawn)
    for low, high, phase in zip(edges, edges[1:], phases):
        right.axvspan(low, high, color=PHASE_COLORS[phase], linewidth=0)
    named = set()
    for number, (diagram, what, color, marker, label) in enumerate(
        (
            (redrawn, "noise", NOISE, "o", "τ noise, redrawn"),
            (fixed, "noise", FIXED, "s", "τ noise, fixed"),
            (redrawn, "test loss", TEST, "o", "τ test loss"),
            (redrawn, "train loss", TRAIN, "o", "τ training loss"),
        )
    ):
        for at, sigma in enumerate(diagram.sigmas):
            fit = None if diagram.phases[at] == DIVERGENT else diagram.decay_times(at)[what]
            if fit is None or not fit.determined or (what == "noise" and diagram.phases[at] == DECOUPLED):
                continue
            sigma *= 1.05 ** (number - 1.5)  # side by side
            high = fit.high if math.isfinite(fit.high) else fit.tau * 10
            right.errorbar(
                sigma, fit.tau, yerr=[[fit.tau - fit.low], [high - fit.tau]], color=color, marker=marker, linestyle="",
                label=None if label in named else label,
            )  # fmt: skip
            named.add(label)
    right.set(xscale="log", yscale="log", xlim=(edges[0], edges[-1]))
    for phase in dict.fromkeys(phases):
        spans = [(a, b) for a, b, p in zip(edges, edges[1:], phases) if p == phase]
        low, high = spans[0][0], spans[-1][1]
        right.text(
            math.sqrt(low * high), 0.98, phase, transform=right.get_xaxis_transform(), fontsize=8, ha="center", va="top"
        )
    name_axes(
        right, "Decay times with 95 % bounds; shaded: the phase of redrawn noise", "noise strength σ", "epochs",
        percent=False,
    )  # fmt: skip
    right.legend(fontsize=8, loc="upper right", bbox_to_anchor=(1, 0.94))
    return figure

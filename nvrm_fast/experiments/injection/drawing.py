"""The figures of the studies of injection nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nvrm_fast.probe import PhaseDiagram, linear
from nvrm_fast.probe.phases import CATAPULT, DECAY, DECOUPLED, DIVERGENT, PHASES

_INK, _FAINT = "#333333", "#9a9a9a"
#: The paper's colours: training purple, test green, noise weights blue, next layer red, input weights black.
TRAIN, TEST, NOISE, NEXT, INPUT = "#7b3fa0", "#2e8b57", "#1f5fa8", "#c1440e", "#222222"
PHASE_COLORS = {DECOUPLED: "#cfe3f5", DECAY: "#cdebd3", CATAPULT: "#fbe6b8", DIVERGENT: "#f6cdc6"}
_LEAST = 1e-6  # smaller values are drawn here, so that a logarithmic axis shows all of a run


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _dress(panel: Any, heading: str, label: str) -> None:
    panel.set_title(heading, fontsize=9.5, loc="left", color=_INK)
    panel.set_xlabel(label, color=_INK, fontsize=9)
    panel.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(_FAINT)
    panel.tick_params(colors=_INK, labelsize=8)


def _bar(panel: Any, edges: Sequence[float], phases: Sequence[str], marks: Sequence[float], heading: str) -> None:
    """Phases along sigma: phases[k] between edges[k] and edges[k + 1]; a diamond at each mark."""
    for low, high, phase in zip(edges, edges[1:], phases):
        panel.axvspan(low, high, color=PHASE_COLORS[phase], linewidth=0)
    # At two heights, since decay and catapult are often too narrow for names side by side.
    for phase, height in zip(PHASES, (0.82, 0.82, 0.55, 0.82)):
        spans = [(low, high) for low, high, p in zip(edges, edges[1:], phases) if p == phase]
        if spans:
            low, high = spans[0][0], spans[-1][1]
            panel.text(math.sqrt(low * high), height, phase, ha="center", va="center", fontsize=8.5, color=_INK)
    panel.plot(marks, [0.25] * len(marks), linestyle="", marker="D", color=_INK, markersize=5)
    panel.set(xscale="log", xlim=(edges[0], edges[-1]), ylim=(0, 1), yticks=[])
    panel.set_title(heading, fontsize=9.5, loc="left", color=_INK)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.tick_params(colors=_INK, labelsize=8)
    panel.set_xlabel("noise strength σ", color=_INK, fontsize=9)


def _capped(values: np.ndarray, most: float) -> np.ndarray:
    """Values for a logarithmic axis; a curve ends where it leaves the axis, and zero is drawn at the bottom."""
    values = np.where(np.isfinite(values) & (values <= most), values, np.nan)
    return np.maximum(values, _LEAST)


def draw_linear(
    path: linear.Trajectory, sigmas: Sequence[float], phases: Sequence[str], bounds: linear.Boundaries, out: Path
) -> None:
    """Figure 2, top row: a bar of the predicted phases and one panel a strength."""
    figure = _figure(13, 4.4)
    grid = figure.add_gridspec(2, len(sigmas), height_ratios=(1, 3.4))
    edges = [float(bounds.decoupled) / 100, float(bounds.decoupled), float(bounds.catapult)]
    edges += [float(bounds.divergent_exact), float(bounds.divergent_exact) * 10]
    _bar(
        figure.add_subplot(grid[0, :]),
        edges,
        PHASES,
        sigmas,
        "Linear model: predicted phases, and where the panels are",
    )
    steps = np.arange(len(path.loss)) + 1  # so that the start has a place on a logarithmic axis
    for k, (sigma, phase) in enumerate(zip(sigmas, phases)):
        panel = figure.add_subplot(grid[1, k])
        for values, color, name in (
            (path.w0, INPUT, "|w0|"),
            (path.w1, NEXT, "|w1|"),
            (path.noise, NOISE, "|w noise|"),
            (path.loss, TRAIN, "loss, noise off"),
        ):
            panel.plot(steps, _capped(values[:, k].abs().numpy(), 1e4), color=color, linewidth=1.5, label=name)
        panel.set(xscale="log", yscale="log", xlim=(1, steps[-1]), ylim=(1e-5, 1e4))
        _dress(panel, f"σ = {sigma:.3g}: {phase}", "SGD step + 1")
        if k == 0:
            panel.legend(fontsize=7.5, frameon=False, loc="upper right")
    figure.savefig(out)


def diagram_edges(diagram: PhaseDiagram) -> tuple[list[float], list[str]]:
    """The phases of a scan as intervals of sigma, with geometric means as edges."""
    order = sorted(range(len(diagram.sigmas)), key=lambda k: diagram.sigmas[k])
    sigmas, phases = [diagram.sigmas[k] for k in order], [diagram.phases[k] for k in order]
    edges = [sigmas[0] / 1.3] + [math.sqrt(a * b) for a, b in zip(sigmas, sigmas[1:])] + [sigmas[-1] * 1.3]
    return edges, phases


def draw_phases(
    diagram: PhaseDiagram, names: Sequence[str], bar: PhaseDiagram, heading: str, bar_heading: str, out: Path
) -> None:
    """Figures 2 (bottom row) and 3: a bar of the phases found by a scan, and one panel a strength."""
    columns = min(3 if len(names) > 4 else 4, len(names))
    rows = -(-len(names) // columns)
    figure = _figure(4.3 * columns, 1.3 + 3.5 * rows)
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=(1, *[3.4] * rows))
    _bar(figure.add_subplot(grid[0, :]), *diagram_edges(bar), diagram.sigmas, bar_heading)
    # Steps from 1 on, so that the start has a place on a logarithmic axis.
    steps = diagram.steps.numpy() + 1
    for k, (sigma, phase, name) in enumerate(zip(diagram.sigmas, diagram.phases, names)):
        panel = figure.add_subplot(grid[1 + k // columns, k % columns])
        shown = panel.twinx()
        for series, color, label in (
            ("training_loss", TRAIN, "training loss, noise on"),
            ("test_loss", TEST, "test loss, noise off"),
            ("noise_norm", NOISE, "‖noise weights‖"),
            ("next_norm", NEXT, "‖next layer‖"),
        ):
            values = _capped(diagram.series[series][:, k].numpy(), 1e4)
            panel.plot(steps, values, color=color, linewidth=1.5, label=label)
        for series, color in (("training_accuracy", TRAIN), ("test_accuracy", TEST)):
            accuracy = diagram.series[series][:, k].numpy()
            finite = np.isfinite(diagram.series["training_loss"][:, k].numpy())
            shown.plot(steps, np.where(finite, accuracy, np.nan), color=color, linewidth=1.1, linestyle="--")
        panel.set(xscale="log", yscale="log", ylim=(1e-2, 1e4), xlim=(1, steps[-1]))
        shown.set(ylim=(0, 1.02))
        shown.tick_params(colors=_INK, labelsize=8)
        shown.spines[["top", "left", "bottom"]].set_visible(False)
        shown.spines["right"].set_color(_FAINT)
        last = k % columns == columns - 1 or k == len(names) - 1
        shown.set_ylabel("accuracy (dashed)" if last else "", color=_INK, fontsize=9)
        _dress(panel, f"σ = {sigma:.4g} ({name}): {phase}", f"SGD step + 1 ({diagram.steps_an_epoch} an epoch)")
        if k == 0:
            panel.legend(fontsize=7.5, frameon=False, loc="upper left")
    figure.suptitle(heading, fontsize=12, color=_INK)
    figure.savefig(out)


def draw_decay(redrawn: PhaseDiagram, fixed: PhaseDiagram, shown: float, heading: str, out: Path) -> None:
    """Figure 1, centre and right: one strength with both kinds of noise and the fits; decay times over strengths."""
    figure = _figure(12, 4.6)
    centre, right = figure.subplots(1, 2)
    k = redrawn.sigmas.index(shown)
    curves = [(redrawn, "noise", "noise_norm", NOISE, "‖noise weights‖, redrawn")]
    if shown in fixed.sigmas:
        curves.append((fixed, "noise", "noise_norm", "#7fb2e5", "‖noise weights‖, fixed"))
    curves += [
        (redrawn, "test loss", "test_loss", TEST, "test loss, noise off"),
        (redrawn, "train loss", "train_loss", TRAIN, "training loss, noise off"),
    ]
    for diagram, what, name, color, label in curves:
        at = diagram.sigmas.index(shown) if diagram is fixed else k
        time, value = diagram.epochs.numpy(), diagram.series[name][:, at].numpy()
        start = value[0]
        centre.plot(time, value / start, linestyle="", marker="o", markersize=3, color=color, label=label)
        fit = diagram.decay_times(at)[what]
        if fit is not None and fit.determined:
            inside = time <= (time[-1] if what != "test loss" else time[int(np.nanargmin(value))])
            # A floor below zero is no state of a loss: what would be drawn there is left out.
            curve = np.where(fit(diagram.epochs).numpy() > 0, fit(diagram.epochs).numpy() / start, np.nan)
            centre.plot(time[inside], curve[inside], color=color, linewidth=1.3)
            if fit.tau < time[-1]:
                height = (fit.floor + fit.amplitude / math.e) / start
                centre.plot(fit.tau, height, marker="*", markersize=13, color=color, markeredgecolor=_INK, zorder=5)
    centre.set(yscale="log")
    _dress(centre, f"σ = {shown:.4g} ({redrawn.phases[k]}): values over their start, stars at τ", "epoch")
    centre.legend(fontsize=8, frameon=False)
    edges, phases = diagram_edges(redrawn)
    for low, high, phase in zip(edges, edges[1:], phases):
        right.axvspan(low, high, color=PHASE_COLORS[phase], linewidth=0)
    named = set()
    for number, (diagram, what, color, marker, label) in enumerate(
        (
            (redrawn, "noise", NOISE, "o", "τ noise, redrawn"),
            (fixed, "noise", "#7fb2e5", "s", "τ noise, fixed"),
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
                sigma, fit.tau, yerr=[[fit.tau - fit.low], [high - fit.tau]], color=color, marker=marker, markersize=5,
                linestyle="", capsize=2, label=None if label in named else label,
            )  # fmt: skip
            named.add(label)
    right.set(xscale="log", yscale="log", xlim=(edges[0], edges[-1]))
    for phase in dict.fromkeys(phases):
        spans = [(a, b) for a, b, p in zip(edges, edges[1:], phases) if p == phase]
        low, high = spans[0][0], spans[-1][1]
        right.text(
            math.sqrt(low * high), 0.98, phase, transform=right.get_xaxis_transform(), fontsize=8, ha="center", va="top"
        )
    _dress(right, "Decay times with 95 % bounds; shaded: the phase of redrawn noise", "noise strength σ")
    right.set_ylabel("epochs", color=_INK, fontsize=9)
    right.legend(fontsize=8, frameon=False, loc="upper right", bbox_to_anchor=(1, 0.94))
    figure.suptitle(heading, fontsize=12, color=_INK)
    figure.savefig(out)

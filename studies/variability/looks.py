"""How the optimizers look in the figures of the NVRM paper's studies, and what their panels share."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from studies.figures import COLORS as PALETTE
from studies.figures import FAINT, INK
from studies.optimizers import ADAM, ANTI_PGD, IVON, M_RWP, MSAM, NVRM_ADAM, NVRM_SGD, PERTURBED_SGD, SAM, SGD
from studies.variability.training import LAST

COLORS = dict(zip((SGD, NVRM_SGD, PERTURBED_SGD, SAM, IVON, ADAM, NVRM_ADAM), PALETTE))
COLORS |= {ANTI_PGD: "#7a5195", M_RWP: "#2f6f4f", MSAM: "#8c564b"}


def title(settings: Any, *words: str) -> str:
    """The data set, some words, and how many seeds there are."""
    return ", ".join((settings.data, *words, f"{settings.seeds} seed{'s' * (settings.seeds > 1)}"))


def mark_drops(panel: Any, drops: Sequence[int], epochs: int, *, told: bool = True) -> None:
    """Dotted lines where the learning rate drops."""
    inside = [drop for drop in drops if drop < epochs]
    for drop in inside:
        panel.axvline(drop + 0.5, color=FAINT, linestyle=":", linewidth=1, zorder=0)
    if inside and told:
        panel.annotate(
            "learning rate drops", (inside[0] + 0.5, 1), xycoords=("data", "axes fraction"), xytext=(3, -2),
            textcoords="offset points", color=FAINT, fontsize=8, va="top",
        )  # fmt: skip


def name_lines(panel: Any, epochs: int) -> None:
    """Write each line's label and the mean of its last values, as tables have it, beside its end; moved apart where
    they would overlap."""
    lines = [line for line in panel.lines if not line.get_label().startswith("_")]
    low, high = panel.get_ylim()
    gap = 0.1 * (high - low)
    ends = sorted(((statistics.fmean(line.get_ydata()[-LAST:]), line) for line in lines), key=lambda end: end[0])
    places: list[float] = []
    for value, _ in ends:
        places.append(max(value, places[-1] + gap) if places else value)
    top = high - gap / 2
    for number in reversed(range(len(places))):  # down again from above the panel
        places[number] = min(places[number], top)
        top = places[number] - gap
    for (value, line), place in zip(ends, places):
        panel.annotate(
            f"{line.get_label()}\n{value:.1f} %", (epochs, place), xytext=(6, 0), textcoords="offset points",
            color=line.get_color(), fontsize=9.5, fontweight="bold", va="center", annotation_clip=False,
        )  # fmt: skip


def right_labels(panel: Any, noise_rate: float, *, told: bool = True) -> None:
    """The share of labels that are right: a network that learns only those has just this training accuracy."""
    clean = 100 * (1 - noise_rate)
    panel.axhline(clean, color=INK, linestyle="--", linewidth=1.1, zorder=1)
    if told:
        panel.annotate(
            f"right labels: {clean:g} %", (0.98, clean), xycoords=("axes fraction", "data"), xytext=(0, 2),
            textcoords="offset points", fontsize=9, ha="right", va="bottom",
        )  # fmt: skip

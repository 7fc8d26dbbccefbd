"""How the methods against wrong labels look in the figures of the SE-SNN paper's studies."""

from __future__ import annotations

from studies.figures import COLORS, MARKERS

_NUMBERS = {
    "baseline": 5, "bootstrap, hard": 4, "bootstrap, soft": 2, "forward": 0, "SE-SNN, weight 0": 6, "SE-SNN": 1,
    "SE-SNN + forward": 3,
}  # fmt: skip
#: Colour and marker of each method.
LOOKS = {name: {"color": COLORS[number], "marker": marker} for (name, number), marker in zip(_NUMBERS.items(), MARKERS)}

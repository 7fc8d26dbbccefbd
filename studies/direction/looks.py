"""How noise on the signal and each sampling of noise on the weights look in the figures."""

from __future__ import annotations

from studies.figures import INK

#: Colour, marker and label; told apart with any kind of colour vision, and in grey by their markers.
PLACES = {
    "reference": (INK, "s", "no noise, Gaussian, magnitude"),
    "signal": ("#2a7f3b", "D", "direction, on the signal"),
    "local": ("#1f5fa8", "o", "direction, on the weights, local"),
    "flipout": ("#8a5fb5", "v", "direction, on the weights, flipout"),
    "shared": ("#c1440e", "^", "direction, on the weights, shared"),
}

"""The kinds of noise that Tables 1 and 2 compare, by name, and how strong each is tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from nvrm_fast import nn as noisy
from studies.figures import INK

Strength = tuple[float, ...]
PLAIN, GAUSS_INPUT, GAUSS_WEIGHT = "none", "gauss-input", "gauss-weight"
SIGNAL, SAMPLINGS = "signal", ("local", "flipout", "shared", "batch")
#: Color, marker and label of where noise is; told apart with any kind of color vision, and in grey by their markers.
PLACES = {
    "reference": (INK, "s", "no noise, Gaussian, magnitude"),
    "signal": ("#2a7f3b", "D", "direction, on the signal"),
    "local": ("#1f5fa8", "o", "direction, on the weights, local"),
    "flipout": ("#8a5fb5", "v", "direction, on the weights, flipout"),
    "shared": ("#c1440e", "^", "direction, on the weights, shared"),
    "batch": ("#b8860b", "P", "direction, on the weights, batch"),
}


@dataclass(frozen=True)
class Law:
    """label: as the thesis's tables have it. noise: of a strength, the layers' direction and magnitude. strengths:
    those that the search tries."""

    label: str
    noise: Callable[..., dict[str, Any]]
    strengths: tuple[Strength, ...]


_ANGLES = ((0.3,), (0.6,), (1.0,))  # radians; standard deviations before truncation
_BETAS = ((10.0,), (3.0,), (1.0,))  # standard deviations 0.34, 0.59 and 0.91 radians
_VARIANCES = ((0.1,), (0.3,), (1.0,))
_BOTH_BETA = ((10.0, 0.1), (3.0, 0.1), (3.0, 0.3))
#: Projected noise turns by about atan(sqrt(alpha fan_in)): with 784 inputs 42, 57 and 70 degrees.
_PROJECTED = ((0.001,), (0.003,), (0.01,))

#: rot-half has the angles of the variational model (section 4.1); it is in no table.
LAWS: dict[str, Law] = {
    "magn-n": Law("Magn N", lambda a: {"magnitude": noisy.NormalMagnitude(a)}, _VARIANCES),
    "rot-b": Law("Rot sB", lambda b: {"direction": noisy.BetaRotation(b)}, _BETAS),
    "rot-b-magn-g": Law(
        "Rot sB, Magn G",
        lambda b, a: {"direction": noisy.BetaRotation(b), "magnitude": noisy.GammaMagnitude(a)},
        _BOTH_BETA,
    ),
    "rot-b-magn-n": Law(
        "Rot sB, Magn N",
        lambda b, a: {"direction": noisy.BetaRotation(b), "magnitude": noisy.NormalMagnitude(a)},
        _BOTH_BETA,
    ),
    "rot-n": Law("Rot N", lambda s: {"direction": noisy.Rotation(s)}, _ANGLES),
    "rot-half": Law("Rot N [0, π/2]", lambda s: {"direction": noisy.Rotation(s, low=0.0)}, _ANGLES),
    "rot-n-magn-n": Law(
        "Rot N, Magn N",
        lambda s, a: {"direction": noisy.Rotation(s), "magnitude": noisy.NormalMagnitude(a)},
        ((0.3, 0.1), (0.6, 0.1), (0.6, 0.3)),
    ),
    "proj": Law("Proj", lambda a: {"direction": noisy.Projected(a)}, _PROJECTED),
    "tang": Law("Tang", lambda a: {"direction": noisy.Tangent(a)}, _PROJECTED),
    "vmf": Law("vMF", lambda k: {"direction": noisy.VonMisesFisher(k)}, ((3000.0,), (1000.0,), (300.0,))),
}
#: Weight noise on magnitudes alone has no direction that objects could share.
WEIGHT_LAWS = ("rot-n-magn-n", "proj", "tang", "rot-b", "rot-n", "vmf")
SIGNAL_LAWS = ("rot-b", "rot-b-magn-g", "rot-b-magn-n", "rot-n", "rot-n-magn-n")

#: All kinds by name; a law on the weights is "law@sampling", on the signal "law@signal".
KINDS: tuple[str, ...] = (
    PLAIN,
    GAUSS_INPUT,
    *(f"{law}@{SIGNAL}" for law in SIGNAL_LAWS),
    "magn-n@local",
    GAUSS_WEIGHT,
    *(f"{law}@{sampling}" for sampling in SAMPLINGS for law in WEIGHT_LAWS),
)


def label(kind: str) -> str:
    """As the thesis's tables name it, sampling left out."""
    plain = {PLAIN: "No reg", GAUSS_INPUT: "Gauss inp", GAUSS_WEIGHT: "Gauss weight"}
    return plain.get(kind) or LAWS[kind.split("@")[0]].label


def strengths(kind: str) -> tuple[Strength, ...]:
    """What the search tries; one empty strength where there is nothing to choose."""
    if kind == PLAIN:
        return ((),)
    return _VARIANCES if kind in (GAUSS_INPUT, GAUSS_WEIGHT) else LAWS[kind.split("@")[0]].strengths


def with_noise(plain: nn.Sequential, kind: str, strength: Strength) -> nn.Sequential:
    """A copy of a plain network whose layers all are weight-normalized and have noise of a kind.

    Noise on the input or the signal is put in front of every layer, the first one too.
    """
    if kind == GAUSS_WEIGHT:
        network = converted(plain, "gaussian", alpha=strength[0])
        for layer in network:
            if isinstance(layer, (nn.Linear, nn.Conv2d)):
                weight_norm(layer)
        return network
    if kind == PLAIN:
        return converted(plain)
    if kind == GAUSS_INPUT:
        return in_front_of_layers(converted(plain), lambda: noisy.GaussianDropout(strength[0]))
    law, place = kind.split("@")
    noise = LAWS[law].noise(*strength)
    if place == SIGNAL:
        return in_front_of_layers(converted(plain), lambda: noisy.SignalNoise(**noise))
    return converted(plain, sampling=place, **noise)


def converted(plain: nn.Sequential, kind: str = "direction", **more: Any) -> nn.Sequential:
    """``nvrm_fast.nn.to_noisy``, torch's global generator left as it was: new layers draw weights only to drop them."""
    with torch.random.fork_rng(devices=[]):
        return noisy.to_noisy(plain, kind, **more)


def in_front_of_layers(network: nn.Sequential, noise: Callable[[], nn.Module]) -> nn.Sequential:
    """The stack with a noise module of its own before each layer that has weights."""
    layers = []
    for layer in network:
        layers += [noise(), layer] if any(True for _ in layer.parameters()) else [layer]
    return nn.Sequential(*layers)

"""Who is compared on one noisy layer: forward and backward of a dense layer and of a convolution."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from nvrm_fast import nn as noisy

SIGMA, ALPHA = 0.3, 0.01
BASELINE = "weight-normalized, torch"
COMPOSITE = "rotation, the thesis's composite in eager torch"


class LayerCase(NamedTuple):
    """make: what is built, with None for the noise of the plain layer. shape: of the input."""

    title: str
    plain: Callable[[], nn.Module]
    shape: tuple[int, ...]
    kind: str


CASES = {
    "dense": LayerCase("Linear(1024, 1024), batch 256", lambda: nn.Linear(1024, 1024), (256, 1024), "dense"),
    "convolution": LayerCase(
        "Conv2d(64, 64, 3, padding=1), batch 16 of 28 x 28",
        lambda: nn.Conv2d(64, 64, 3, padding=1),
        (16, 64, 28, 28),
        "convolution",
    ),
}


class EagerComposite(nn.Module):
    """Rotation noise as the thesis runs it (equations 23, 32 and 48): a tangent direction for each weight vector, drawn
    once for the mini-batch, an angle for each activation, two matrix products, and autograd keeps what it met."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.weight_v = nn.Parameter(plain.weight.detach().clone())
        self.weight_g = nn.Parameter(torch.linalg.vector_norm(self.weight_v.detach(), dim=1, keepdim=True))
        self.bias = nn.Parameter(plain.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        unit = self.weight_v / self.weight_v.norm(dim=1, keepdim=True)
        noise = torch.randn_like(unit)
        tangent = noise - (noise * unit).sum(dim=1, keepdim=True) * unit
        tangent = tangent / tangent.norm(dim=1, keepdim=True)
        s, across = F.linear(x, unit), F.linear(x, tangent)
        half_mass = math.erf(math.pi / 2 / SIGMA * math.sqrt(0.5))
        angle = SIGMA * math.sqrt(2) * torch.erfinv(half_mass * (2 * torch.rand_like(s) - 1))
        return self.weight_g.t() * (angle.cos() * s + angle.sin() * across) + self.bias


def _torch_uncertainty() -> nn.Module | None:
    """Outside reference; None where it is not installed or does not load (it needs this torch's torchvision)."""
    try:
        from torch_uncertainty.layers.bayesian import BayesLinear
    except (ImportError, RuntimeError):
        return None
    return BayesLinear(1024, 1024)


def _bayesian_torch(name: str) -> nn.Module | None:
    """Outside reference; None where it is not installed (pip install --no-deps bayesian-torch)."""
    try:
        from bayesian_torch import layers
    except ImportError:
        return None
    layer = getattr(layers, name)(1024, 1024)
    forward = layer.forward
    layer.forward = lambda x: forward(x, return_kl=False)
    return layer


def contestants(case: LayerCase) -> dict[str, Callable[[], nn.Module | None]]:
    """Name to what makes the layer; the baseline first. A maker may return None: not installed."""
    plain = case.plain

    def direction(noise: noisy.Direction | None, **options) -> Callable[[], nn.Module]:
        return lambda: noisy.noisy_layer(plain(), "direction", direction=noise, **options)

    rows: dict[str, Callable[[], nn.Module | None]] = {
        BASELINE: lambda: weight_norm(plain()),
        "plain, torch": plain,
        "magnitude normal": direction(None, magnitude=noisy.NormalMagnitude(ALPHA)),
        "projected": direction(noisy.Projected(ALPHA)),
        "projected, magnitude normal": direction(noisy.Projected(ALPHA), magnitude=noisy.NormalMagnitude(ALPHA)),
        "projected, magnitude gamma": direction(noisy.Projected(ALPHA), magnitude=noisy.GammaMagnitude(ALPHA)),
        "tangent": direction(noisy.Tangent(ALPHA)),
        "rotation": direction(noisy.Rotation(SIGMA)),
        "rotation, Beta": direction(noisy.BetaRotation(2.0)),
        "von Mises-Fisher": direction(noisy.VonMisesFisher(1000.0)),
        "variational": lambda: noisy.noisy_layer(plain(), "variational"),
        "rotation, shared": direction(noisy.Rotation(SIGMA), sampling="shared"),
        "rotation, flipout": direction(noisy.Rotation(SIGMA), sampling="flipout"),
        "Gaussian on weights, local": lambda: noisy.noisy_layer(plain(), "gaussian", alpha=ALPHA),
    }
    if case.kind == "dense":
        rows[COMPOSITE] = lambda: EagerComposite(plain())
        rows[f"{COMPOSITE}, torch.compile"] = lambda: torch.compile(EagerComposite(plain()))
        rows["bayesian-torch LinearReparameterization"] = lambda: _bayesian_torch("LinearReparameterization")
        rows["bayesian-torch LinearFlipout"] = lambda: _bayesian_torch("LinearFlipout")
        rows["torch-uncertainty BayesLinear"] = _torch_uncertainty
    return rows


def is_compiled(name: str) -> bool:
    """Whether a row is torch.compile's."""
    return name.endswith("torch.compile")


def run(layer: nn.Module, x: Tensor, gradient: Tensor) -> None:
    """One forward and backward pass, the gradient for the input included."""
    layer(x).backward(gradient)


def clear(layer: nn.Module, x: Tensor) -> None:
    x.grad = None
    layer.zero_grad(set_to_none=True)

"""By how much a noise turns a vector: angles from its definition in weight space, and from local sampling's law."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nvrm_fast import nn as noisy
from nvrm_fast.contract.laws import NO_MAGNITUDE
from nvrm_fast.contract.layers import DirectionSettings
from nvrm_fast.ops.direction import law_constants
from nvrm_fast.reference import direction_noise
from nvrm_fast.reference.angles import ANGLES

_VECTORS_A_PASS = 1_000


def cosines_by_law(direction: noisy.Direction, dimensions: int, draws: int, seed: int) -> Tensor:
    """cos of the angle between a vector and its turned copy as local sampling draws it: (draws,) float64."""
    first, second = (None if p is None else torch.full((1,), p, dtype=torch.float64) for p in direction.parameters())
    constants = law_constants(direction, first, second, dimensions, 1, "cpu")
    low, high = direction.ends
    settings = DirectionSettings(0, 0, 0, direction.code, NO_MAGNITUDE, dimensions, 0.0, low, high, True)
    key = torch.tensor([seed], dtype=torch.int64)
    variates = direction_noise.draw(torch.Size((draws, 1, 1)), constants, key, settings)
    cosine, _, _ = ANGLES[direction.code].formula(
        tuple(variate.double() for variate in variates.law),
        constants.double()[:, None, :, None],
        *(None if p is None else p[None, :, None] for p in (first, second)),
        low,
        high,
    )
    return cosine.flatten()


def angles_in_weight_space(
    direction: noisy.Direction, dimensions: int, draws: int, generator: torch.Generator
) -> Tensor:
    """Angles in radians, (draws,) float64, between one random unit vector and copies turned by the noise's definition.

    Equations 16, 19 and 23 of the thesis. Raises TypeError for von Mises-Fisher, which has no such definition.
    """
    vector = torch.randn(dimensions, generator=generator, dtype=torch.float64)
    vector /= vector.norm()
    parts = []
    for start in range(0, draws, _VECTORS_A_PASS):
        count = min(_VECTORS_A_PASS, draws - start)
        turned = _turned(direction, vector, torch.randn(count, dimensions, generator=generator).double(), generator)
        # atan2 keeps small angles that arccos would lose.
        along = turned @ vector
        across = (turned - along[:, None] * vector).norm(dim=1)
        parts.append(torch.atan2(across, along))
    return torch.cat(parts)


def _turned(direction: noisy.Direction, vector: Tensor, gaussian: Tensor, generator: torch.Generator) -> Tensor:
    tangent = gaussian - (gaussian @ vector)[:, None] * vector
    if isinstance(direction, noisy.Tangent):
        return vector + math.sqrt(direction.alpha) * tangent
    if isinstance(direction, noisy.Projected):
        return vector + math.sqrt(direction.alpha) * gaussian
    if isinstance(direction, noisy.Rotation):
        angle = _truncated_normal(direction, len(gaussian), generator)
    elif isinstance(direction, noisy.BetaRotation):
        first, second = (_gamma(direction.beta, len(gaussian), generator) for _ in range(2))
        angle = math.pi * (first / (first + second) - 0.5)
    else:
        raise TypeError(f"{type(direction).__name__} has no definition by vectors here")
    unit = tangent / tangent.norm(dim=1, keepdim=True)
    return torch.cos(angle)[:, None] * vector + torch.sin(angle)[:, None] * unit


def _truncated_normal(direction: noisy.Rotation, draws: int, generator: torch.Generator) -> Tensor:
    """By rejection."""
    kept = torch.empty(0, dtype=torch.float64)
    while len(kept) < draws:
        more = direction.mean + direction.sigma * torch.randn(draws, generator=generator).double()
        kept = torch.cat([kept, more[(more >= direction.low) & (more <= direction.high)]])
    return kept[:draws]


def _gamma(shape: float, draws: int, generator: torch.Generator) -> Tensor:
    return torch._standard_gamma(torch.full((draws,), shape, dtype=torch.float64), generator=generator)

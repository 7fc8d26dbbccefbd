"""Noise as its definition has it: whole weight vectors, drawn in float64 by numpy, one for each object and neuron."""

from __future__ import annotations

import math

import numpy as np
import scipy.stats

from nvrm_fast import nn as noisy

#: Every kind of direction noise, mild to wild, with the parameters that the tests use at each length of the vector.
DIRECTIONS = {
    "projected": lambda n: noisy.Projected(1 / n),
    "projected, strong": lambda n: noisy.Projected(4 / n),
    "tangent": lambda n: noisy.Tangent(1 / n),
    "rotation": lambda n: noisy.Rotation(0.6),
    "rotation, one-sided": lambda n: noisy.Rotation(0.5, mean=0.7, low=0.0),
    "beta rotation": lambda n: noisy.BetaRotation(2.0),
    "beta rotation, to the ends": lambda n: noisy.BetaRotation(0.35),
    "von Mises-Fisher": lambda n: noisy.VonMisesFisher(float(2 * n)),
    "von Mises-Fisher, wide": lambda n: noisy.VonMisesFisher(0.5),
}
MAGNITUDES = {
    "none": None,
    "normal": noisy.NormalMagnitude(0.3),
    "gamma": noisy.GammaMagnitude(0.5),
    "gamma, spiky": noisy.GammaMagnitude(3.0),
}


def tangent_directions(v: np.ndarray, draws: int, generator: np.random.Generator) -> np.ndarray:
    """Uniform unit vectors orthogonal to the unit vector v: (draws, n)."""
    noise = generator.standard_normal((draws, len(v)))
    noise -= np.outer(noise @ v, v)
    return noise / np.linalg.norm(noise, axis=1, keepdims=True)


def angles(direction, draws: int, generator: np.random.Generator) -> np.ndarray:
    """Of the two kinds of rotation (equation 21 of the thesis)."""
    if isinstance(direction, noisy.BetaRotation):
        return math.pi * (generator.beta(direction.beta, direction.beta, draws) - 0.5)
    low, high = ((end - direction.mean) / direction.sigma for end in (direction.low, direction.high))
    law = scipy.stats.truncnorm(low, high, loc=direction.mean, scale=direction.sigma)
    return law.rvs(draws, random_state=generator)


def directions(direction, v: np.ndarray, draws: int, generator: np.random.Generator) -> np.ndarray:
    """Noisy copies of the unit vector v: (draws, n)."""
    if isinstance(direction, noisy.VonMisesFisher):
        return scipy.stats.vonmises_fisher(v, direction.kappa).rvs(draws, random_state=generator)
    if isinstance(direction, noisy.Projected):
        noise = math.sqrt(direction.alpha) * generator.standard_normal((draws, len(v)))
        if isinstance(direction, noisy.Tangent):
            noise -= np.outer(noise @ v, v)
        turned = v + noise
        return turned / np.linalg.norm(turned, axis=1, keepdims=True)
    angle = angles(direction, draws, generator)[:, None]
    return np.cos(angle) * v + np.sin(angle) * tangent_directions(v, draws, generator)


def magnitudes(magnitude, draws: int, generator: np.random.Generator) -> np.ndarray:
    if magnitude is None:
        return np.ones(draws)
    if isinstance(magnitude, noisy.NormalMagnitude):
        return 1 + math.sqrt(magnitude.alpha) * generator.standard_normal(draws)
    return generator.gamma(1 / magnitude.alpha, magnitude.alpha, draws)


def activations(direction, magnitude, v, x, g: float, draws: int, seed: int) -> np.ndarray:
    """g * magnitude * direction . x for `draws` weight vectors; in parts, for the memory's sake."""
    generator = np.random.default_rng(seed)
    parts = []
    for begin in range(0, draws, 5000):
        count = min(5000, draws - begin)
        parts.append(g * magnitudes(magnitude, count, generator) * (directions(direction, v, count, generator) @ x))
    return np.concatenate(parts)

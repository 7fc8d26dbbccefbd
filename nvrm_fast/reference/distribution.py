"""From one random word to two noise values of unit scale (multiplied by b last).

b keeps the meaning that the NVRM paper gives it for each noise type (appendix C.1): N(0, b^2), whose standard
deviation is b; Uniform(-b, b), b / sqrt(3); Laplace(0, b), b * sqrt(2). Rademacher noise is b or -b, standard
deviation b, as in anti-PGD (Orvieto et al., arXiv 2202.02831).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..contract.distributions import register_distribution
from .special_functions import cosine_sine_of_half_turns, fused_multiply_add, negative_ln_of_bits, square_root

#: A random word -> two values of unit scale.
Function = Callable[[Tensor], tuple[Tensor, Tensor]]
#: The function of each code.
BY_CODE: dict[int, Function] = {}


def distribution(name: str, code: int) -> Callable[[Function], Function]:
    """Makes a function the distribution of that name and code, which records and checkpoints hold: never renumber."""

    def register(function: Function) -> Function:
        register_distribution(name, code)
        BY_CODE[code] = function
        return function

    return register


def turned(first: Tensor, second: Tensor, turn: int) -> tuple[Tensor, Tensor]:
    """A word's two values after so many quarter turns (contract/cycles.py)."""
    for _ in range(turn):
        first, second = -second, first
    return first, second


@distribution("gaussian", code=0)
def gaussian(word: Tensor) -> tuple[Tensor, Tensor]:
    """Two values of N(0, 1) by Box-Muller: 18 bits of radius, 14 of angle."""
    radius = square_root(negative_ln_of_bits((word >> 13) | 1, bits=18, factor=2))
    cosine, sine = cosine_sine_of_half_turns(((word & 0x3FFF) * 2 - 16383).float() * 2.0**-14)
    return radius * cosine, radius * sine


@distribution("uniform", code=1)
def uniform(word: Tensor) -> tuple[Tensor, Tensor]:
    """Two values of the uniform distribution on (-1, 1), 16 bits each; 0 and the ends never occur."""
    first, second = (fused_multiply_add(2.0**-15, half.float(), 2.0**-16 - 1.0) for half in (word >> 16, word & 0xFFFF))
    return first, second


@distribution("laplace", code=2)
def laplace(word: Tensor) -> tuple[Tensor, Tensor]:
    """Two values of Laplace(0, 1): an exponential magnitude from 15 bits each, the sign from the sixteenth."""
    values = []
    for half in (word >> 16, word & 0xFFFF):
        magnitude = negative_ln_of_bits(((half & 0x7FFF) << 1) | 1, bits=15, factor=1)
        values.append(torch.where(half & 0x8000 != 0, -magnitude, magnitude))
    return values[0], values[1]


@distribution("rademacher", code=3)
def rademacher(word: Tensor) -> tuple[Tensor, Tensor]:
    """Two values, 1 or -1 with probability 1/2 each: the sign bits of Laplace's halves."""
    signs = [torch.where(half & 0x8000 != 0, -1.0, 1.0) for half in (word >> 16, word & 0xFFFF)]
    return signs[0], signs[1]

"""Philox4x32-7, the counter-based generator of Salmon et al. (SC 2011) with 7 rounds.

The fewest with which it passes BigCrush by its authors' tests; release/noise_battery.py tests it in the orders in which
this project uses counters.
"""

from __future__ import annotations

import torch
from torch import Tensor

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
ROUNDS = 7
WEYL = (0x9E3779B9, 0xBB67AE85)


def _multiply_wide(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of word * multiplier, with the multiplier in halves so that no int64 overflows."""
    high, low = multiplier >> 16, multiplier & 0xFFFF
    middle = word * high + ((word * low) >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | ((word * low) & 0xFFFF)


def philox4x32(
    counter: tuple[Tensor | int, ...], key: tuple[Tensor | int, Tensor | int], rounds: int = ROUNDS
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four output words of each counter.

    counter: four int64 tensors (or ints) with values in [0, 2^32), which broadcast; at least one a tensor.
    key: two ints in [0, 2^32), or tensors of them. rounds: fewer show what tests of randomness can see. Returns four
    int64 tensors with values in [0, 2^32), of the broadcast shape.
    """
    device = next(word.device for word in counter if isinstance(word, Tensor))
    c0, c1, c2, c3 = torch.broadcast_tensors(
        *(torch.as_tensor(word, dtype=torch.int64, device=device) for word in counter)
    )
    k0, k1 = key
    for _ in range(rounds):
        high0, low0 = _multiply_wide(c0, MULTIPLIERS[0])
        high1, low1 = _multiply_wide(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1, c2, c3

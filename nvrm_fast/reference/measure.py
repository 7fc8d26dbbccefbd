"""Measures of clean weights (contract/measures.py): sums that are the same bits in any order, and what they come to."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contract.measures import FRACTION_BITS, HIGH_BITS, LARGEST, NOT_FINITE, RMS, SUM_WORDS
from .philox import MASK

#: Bits of an infinity in float32: values with these or more are not finite.
_INFINITY = 0x7F800000


def positions(numel: int, offset: int, run_length: int, run_stride: int, device: torch.device) -> Tensor:
    """The places of a shard's elements in its full tensor: int64, shape (numel,)."""
    index = torch.arange(numel, dtype=torch.int64, device=device)
    if run_length:
        index = index // run_length * run_stride + index % run_length
    return index + offset


def _squares(x: Tensor) -> Tensor:
    """int64 words of the squares of float32 values that are finite: shape (n, 3)."""
    square = x.abs().clamp(max=LARGEST).double().square()  # exact: 48 bits
    high = (square * 2.0**HIGH_BITS).round()
    low = ((square - high * 2.0**-HIGH_BITS) * 2.0**FRACTION_BITS).round()
    shift = FRACTION_BITS - HIGH_BITS
    a, b = high.long(), low.long()
    a = a + (b >> shift)  # a rest below 0 borrows
    b = b & ((1 << shift) - 1)
    # The integer is a * 2^51 + b.
    return torch.stack([b & MASK, (b >> 32) | ((a << (shift - 32)) & MASK), a >> (64 - shift)], dim=1)


def sums_of(x: Tensor, measure: int, row: Tensor | None, rows: int) -> Tensor:
    """The sums of clean weights: int64, shape (rows, SUM_WORDS).

    x: of any shape and floating dtype. row: of each element in row-major order; None: there is one.
    """
    x = x.flatten().to(torch.float32)
    row = torch.zeros(x.numel(), dtype=torch.int64, device=x.device) if row is None else row
    bits = x.abs().view(torch.int32).long()
    sums = torch.zeros(rows, SUM_WORDS, dtype=torch.int64, device=x.device)
    broken = bits >= _INFINITY
    if measure == RMS:
        words = _squares(torch.where(broken, LARGEST, x))
        sums[:, :NOT_FINITE] = sums[:, :NOT_FINITE].index_add(0, row, words)
    else:
        sums[:, 0] = sums[:, 0].scatter_reduce(0, row, bits, "amax")
    sums[:, NOT_FINITE] = sums[:, NOT_FINITE].index_add(0, row, broken.long())
    return sums


def finish(sums: Tensor, measure: int, count: int) -> Tensor:
    """The measures that sums come to: float32, shape (rows,). The host reads nothing.

    count: elements of a (full) row.
    """
    low, middle, high, broken = sums.unbind(1)
    if measure == RMS:
        middle = middle + (low >> 32)
        high = high + (middle >> 32)
        total = (high.double() * 2.0**64 + (middle & MASK).double() * 2.0**32) + (low & MASK).double()
        # A tensor, because on a GPU torch multiplies by the reciprocal of a number.
        mean = total / torch.full_like(total, max(count, 1))
        found = (mean * 2.0**-FRACTION_BITS).sqrt().float()
    else:
        found = low.to(torch.int32).view(torch.float32)
    return torch.where(broken > 0, torch.nan, found)


def scales_of(scale: float, measures: Tensor) -> Tensor:
    """b of noise on each row: float32, of measures' shape."""
    b = torch.full_like(measures, scale) * measures
    return torch.where(b.isfinite(), b, 0.0)

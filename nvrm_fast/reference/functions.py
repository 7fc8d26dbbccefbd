"""exp, ln, sin, cos and the normal quantile for laws that need more than Box-Muller: correctly rounded steps in a fixed
order, to a few units of float32's last place (the noise's own ln, sin and cos, elementary.py, are coarser).

Same steps and coefficients as csrc/math/special_functions.h. The coefficients are weighted least-squares fits iterated
to equal ripple, each rounded to float32 before the next one was fitted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .elementary import MINUS_LN_2, fused_multiply_add, polynomial, square_root

TWO_THIRDS = 0x3F2AAAAB
#: -ln(1 + f) / f on [-1/3, 1/3], lowest power last.
LOGARITHM = tuple(
    float.fromhex(c)
    for c in (
        "-0x1.1f243cp-3", "0x1.3b0e5cp-3", "-0x1.1ea94cp-3", "0x1.503884p-3", "-0x1.99d3a8p-3",
        "0x1.001450p-2", "-0x1.5554fcp-2", "0x1.ffffd6p-2", "-0x1p0",
    )
)  # fmt: skip
#: sin(pi/4 s) / s and cos(pi/4 s) in powers of s^2, for s in (-1, 1), lowest power last.
SINE = tuple(float.fromhex(c) for c in ("-0x1.331990p-15", "0x1.4680a4p-9", "-0x1.4abc24p-4", "0x1.921fb6p-1"))
COSINE = tuple(float.fromhex(c) for c in ("-0x1.4cfc44p-12", "0x1.03a78cp-6", "-0x1.3bd366p-2", "0x1.fffffep-1"))
#: (1 - exp(-r)) / r for |r| <= ln(2) / 2, lowest power last; within 1.4e-8 of it.
ONE_MINUS_EXPONENTIAL = tuple(
    float.fromhex(c)
    for c in ("-0x1.6b96f4p-10", "0x1.1226d8p-7", "-0x1.5556f8p-5", "0x1.5554b2p-3", "-0x1.fffffep-2", "0x1p0")
)
LOG2_E = float.fromhex("0x1.715476p+0")
LN_2_HIGH = float.fromhex("0x1.62e4p-1")
LN_2_LOW = float.fromhex("0x1.7f7d1cp-20")
#: 1.5 * 2^23: adding it leaves the nearest integer in the low bits.
TO_INTEGER = 12582912.0
TO_INTEGER_BITS = 0x4B400000
#: exp(-LARGEST) is still a normal number; arguments beyond are cut to it.
LARGEST = 80.0
#: quantile(p) / e in powers of w - 2.5 and of sqrt(w) - 3, where e = 2 p - 1 and w = -ln(1 - e^2).
QUANTILE_CENTRE = tuple(
    float.fromhex(c)
    for c in (
        "0x1.61ee96p-25", "0x1.080822p-21", "-0x1.4fae5cp-18", "-0x1.a5eb72p-18", "0x1.443990p-12",
        "-0x1.d0b796p-10", "-0x1.833496p-8", "0x1.652c74p-2", "0x1.0fc8bep+1",
    )
)  # fmt: skip
QUANTILE_TAIL = tuple(
    float.fromhex(c)
    for c in (
        "0x1.da6d18p-14", "-0x1.7986a2p-12", "-0x1.15c464p-15", "0x1.05e970p-9", "-0x1.4ded56p-8",
        "0x1.08f9c8p-7", "-0x1.61ffaap-7", "0x1.b57c76p-7", "0x1.6aa52cp+0", "0x1.00696cp+2",
    )
)  # fmt: skip


def negative_ln(n: Tensor, shift: int, factor: int) -> Tensor:
    """factor * -ln(n / 2^shift) as float32, for odd int64 n in (0, 2^shift); factor is a power of two."""
    bits = n.float().view(torch.int32).long() - (TWO_THIRDS + (shift << 23))
    exponent = (bits >> 23).float()
    f = ((bits & 0x7FFFFF) + TWO_THIRDS).int().view(torch.float32) - 1.0
    q = polynomial(tuple(factor * c for c in LOGARITHM), f)
    return fused_multiply_add(factor * MINUS_LN_2, exponent, q * f)


def negative_ln_of(x: Tensor) -> Tensor:
    """-ln(x) for positive normal float32 x."""
    bits = x.view(torch.int32).long() - TWO_THIRDS
    exponent = (bits >> 23).float()
    f = ((bits & 0x7FFFFF) + TWO_THIRDS).int().view(torch.float32) - 1.0
    return fused_multiply_add(MINUS_LN_2, exponent, polynomial(LOGARITHM, f) * f)


def exponential(y: Tensor) -> tuple[Tensor, Tensor]:
    """exp(-y) and 1 - exp(-y), each to its own relative precision for y >= 0; float32, y cut to [-LARGEST, LARGEST]."""
    y = torch.where(y < LARGEST, y, LARGEST)
    y = torch.where(y > -LARGEST, y, -LARGEST)
    shifted = fused_multiply_add(LOG2_E, y, TO_INTEGER)
    k = shifted - TO_INTEGER
    r = fused_multiply_add(-LN_2_LOW, k, fused_multiply_add(-LN_2_HIGH, k, y))
    e = polynomial(ONE_MINUS_EXPONENTIAL, r) * r
    integer = shifted.view(torch.int32).long() - TO_INTEGER_BITS
    power = ((127 - integer) << 23).int().view(torch.float32)
    return fused_multiply_add(-power, e, power), fused_multiply_add(power, e, 1.0 - power)


def normal_quantile(e: Tensor, tails: Tensor) -> Tensor:
    """The x with P(|N(0, 1)| < |x|) = |e| and e's sign, that is sqrt(2) erfinv(e); tails = 1 - e^2, kept apart from e
    because close to the ends e does not know it. float32; tails of at least 2^-25 (after Giles, 2012)."""
    w = negative_ln_of(tails)
    w = torch.where(w > 0, w, 0.0)
    centre = polynomial(QUANTILE_CENTRE, w - 2.5)
    tail = polynomial(QUANTILE_TAIL, square_root(w) - 3.0)
    return torch.where(w < 5.0, centre, tail) * e


def sine_cosine_of_eighth_turns(s: Tensor) -> tuple[Tensor, Tensor]:
    """sin and cos of (pi / 4) s for float32 s in (-1, 1)."""
    z = s * s
    return polynomial(SINE, z) * s, polynomial(COSINE, z)


def sine_cosine_of_quarter_turns(s: Tensor) -> tuple[Tensor, Tensor]:
    """sin and cos of (pi / 2) s for float32 s in [-1, 1], by the double angle."""
    sine, cosine = sine_cosine_of_eighth_turns(s)
    return (sine + sine) * cosine, (cosine - sine) * (cosine + sine)

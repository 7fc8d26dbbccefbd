"""ln, exp, sin, cos, the normal quantile, square roots and powers from correctly rounded operations in a fixed order:
the same bits on every device, and the same steps and coefficients as csrc/math/special_functions.h.

ln and the pair (cos, sin) stand in two precisions: as exact as the few random bits of the noise need
(negative_ln_of_bits, cosine_sine_of_half_turns; the C++ header says how exact that is), and to a few units of
float32's last place for laws that need more than Box-Muller. The coefficients of the latter, of exp and of the quantile
are weighted least-squares fits iterated to equal ripple, each rounded to float32 before the next one was fitted.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: -ln(1.5 + f) + (f + 0.5) ln 2 on [-1/2, 1/2), lowest power last: for arguments of 18 free bits, and of 15.
LOGARITHM_18 = tuple(
    float.fromhex(c)
    for c in (
        "-0x1.4610b6p-7", "0x1.1d1668p-6", "-0x1.ab8a12p-6", "0x1.90de5ap-5", "-0x1.94960ep-4",
        "0x1.c72858p-3", "0x1.b1db60p-6", "-0x1.e270d6p-5",
    )
)  # fmt: skip
LOGARITHM_15 = tuple(
    float.fromhex(c)
    for c in (
        "0x1.153734p-6", "-0x1.f27e92p-6", "0x1.9255fcp-5", "-0x1.9262d4p-4", "0x1.c71fa0p-3",
        "0x1.b195dep-6", "-0x1.e2705cp-5",
    )
)  # fmt: skip
MINUS_LN_2 = float.fromhex("-0x1.62e430p-1")
#: sqrt(2) sin(pi/2 s) / s and sqrt(2) cos(pi/2 s) in powers of s^2, for s in (-1, 1), lowest power last.
HALF_TURN_SINE = tuple(float.fromhex(c) for c in ("-0x1.91c50ep-8", "0x1.cc2442p-4", "-0x1.d3ad28p-1", "0x1.1c57f2p+1"))
HALF_TURN_COSINE = tuple(
    float.fromhex(c) for c in ("-0x1.bbf534p-6", "0x1.6df1ecp-2", "-0x1.be9754p+0", "0x1.6a09fcp+0")
)
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
EIGHTH_TURN_SINE = tuple(
    float.fromhex(c) for c in ("-0x1.331990p-15", "0x1.4680a4p-9", "-0x1.4abc24p-4", "0x1.921fb6p-1")
)
EIGHTH_TURN_COSINE = tuple(
    float.fromhex(c) for c in ("-0x1.4cfc44p-12", "0x1.03a78cp-6", "-0x1.3bd366p-2", "0x1.fffffep-1")
)
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


def rounded(value: float, dtype: torch.dtype) -> float:
    """value as dtype holds it; multiplying a tensor by it then rounds nothing twice."""
    return float(torch.tensor(value, dtype=torch.float64, device="cpu").to(dtype))


def power(base: float, exponent: int) -> float:
    """base^exponent by repeated squaring: the same multiplications on every device, where libraries' pow differ in the
    last bit. The relative error is at most exponent * 2^-53 (to first order)."""
    result = 1.0
    while exponent > 0:
        if exponent & 1:
            result *= base
        base *= base
        exponent >>= 1
    return result


def fused_multiply_add(a: Tensor | float, b: Tensor, c: Tensor | float) -> Tensor:
    """a * b + c in float32 with one rounding, as the hardware's fma.

    A product of float32 numbers is exact in float64. The sum there is rounded to odd (its error known by two-sum),
    which leaves enough for the rounding to float32 to be right (Boldo and Melquiond, 2008).
    """
    product = torch.as_tensor(a, dtype=torch.float64, device=b.device) * b.double()
    addend = torch.as_tensor(c, dtype=torch.float64, device=b.device)
    total = product + addend
    shadow = total - product
    error = (product - (total - shadow)) + (addend - shadow)
    bits = total.view(torch.int64)
    towards_error = torch.where((error > 0) == (total > 0), 1, -1)
    inexact_and_even = ((error > 0) | (error < 0)) & (bits & 1 == 0)  # infinities have a NaN for their error
    return torch.where(inexact_and_even, bits + towards_error, bits).view(torch.float64).float()


def polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """Horner's rule, one fma a step."""
    value = fused_multiply_add(coefficients[0], x, coefficients[1])
    for coefficient in coefficients[2:]:
        value = fused_multiply_add(value, x, coefficient)
    return value


def square_root(x: Tensor) -> Tensor:
    """Correctly rounded; torch.sqrt is not on every CPU (vector libraries may be off by one in the last place)."""
    if x.dtype == torch.float32:
        return x.double().sqrt().float()
    root = x.sqrt()
    # One Newton step on the exact residual x - root^2, the square taken apart by Dekker's product.
    split = root * 134217729.0  # 2^27 + 1
    high = split - (split - root)
    low = root - high
    square = root * root
    rest = ((high * high - square) + 2 * (high * low)) + low * low
    better = root + ((x - square) - rest) / (2 * root)
    # Zero, subnormal, huge and non-finite numbers have no residual to speak of.
    return torch.where((x > 1e-290) & (x < 1e290), better, root)


def negative_ln_of_bits(n: Tensor, bits: int, factor: int) -> Tensor:
    """factor * -ln(n / 2^(bits + 1)) as float32, for odd int64 n below 2^(bits + 1); factor is a power of two, bits 18
    or 15.

    The argument is 2^e m with m in [1, 2). As an integer, its representation less that of 1 is 2^23 (e + m - 1), so one
    conversion gives e and the linear part of ln m at once; the polynomial adds what the line through the ends of
    [1, 2] misses.
    """
    representation = n.float().view(torch.int32).long()
    linear = (representation - ((128 + bits) << 23)).float()
    f = (representation & 0x7FFFFF | 0x3F800000).int().view(torch.float32) - 1.5
    curve = polynomial(tuple(factor * c for c in {18: LOGARITHM_18, 15: LOGARITHM_15}[bits]), f)
    return fused_multiply_add(factor * MINUS_LN_2 * 2.0**-23, linear, curve)


def cosine_sine_of_half_turns(s: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of pi s for float32 s in (-1, 1), by those of half the angle."""
    z = s * s
    sine, cosine = polynomial(HALF_TURN_SINE, z) * s, polynomial(HALF_TURN_COSINE, z)
    return fused_multiply_add(-sine, sine, 1.0), sine * cosine


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
    center = polynomial(QUANTILE_CENTRE, w - 2.5)
    tail = polynomial(QUANTILE_TAIL, square_root(w) - 3.0)
    return torch.where(w < 5.0, center, tail) * e


def sine_cosine_of_eighth_turns(s: Tensor) -> tuple[Tensor, Tensor]:
    """sin and cos of (pi / 4) s for float32 s in (-1, 1)."""
    z = s * s
    return polynomial(EIGHTH_TURN_SINE, z) * s, polynomial(EIGHTH_TURN_COSINE, z)


def sine_cosine_of_quarter_turns(s: Tensor) -> tuple[Tensor, Tensor]:
    """sin and cos of (pi / 2) s for float32 s in [-1, 1], by the double angle."""
    sine, cosine = sine_cosine_of_eighth_turns(s)
    return (sine + sine) * cosine, (cosine - sine) * (cosine + sine)

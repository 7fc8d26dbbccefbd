"""ln, sin and cos from correctly rounded operations in a fixed order: the same bits on every device.

Same steps and coefficients as csrc/math/elementary.h, which says where they come from and how exact they are.
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
SINE = tuple(float.fromhex(c) for c in ("-0x1.91c50ep-8", "0x1.cc2442p-4", "-0x1.d3ad28p-1", "0x1.1c57f2p+1"))
COSINE = tuple(float.fromhex(c) for c in ("-0x1.bbf534p-6", "0x1.6df1ecp-2", "-0x1.be9754p+0", "0x1.6a09fcp+0"))


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
    sine, cosine = polynomial(SINE, z) * s, polynomial(COSINE, z)
    return fused_multiply_add(-sine, sine, 1.0), sine * cosine

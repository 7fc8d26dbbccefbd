"""ln, sin and cos from correctly rounded operations in a fixed order: the same bits on every device.

Same steps and coefficients as csrc/noise/elementary.h, which says where they come from.
"""

from __future__ import annotations

import torch
from torch import Tensor

TWO_THIRDS = 0x3F2AAAAB
MINUS_LN_2 = float.fromhex("-0x1.62e430p-1")

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


def rounded(value: float, dtype: torch.dtype) -> float:
    """value as dtype holds it; multiplying a tensor by it then rounds nothing twice."""
    return float(torch.tensor(value, dtype=torch.float64).to(dtype))


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


def negative_ln(n: Tensor, shift: int, factor: int) -> Tensor:
    """factor * -ln(n / 2^shift) as float32, for odd int64 n in (0, 2^shift); factor is a power of two."""
    bits = n.float().view(torch.int32).long() - (TWO_THIRDS + (shift << 23))
    exponent = (bits >> 23).float()
    f = ((bits & 0x7FFFFF) + TWO_THIRDS).int().view(torch.float32) - 1.0
    q = polynomial(tuple(factor * c for c in LOGARITHM), f)
    return fused_multiply_add(factor * MINUS_LN_2, exponent, q * f)


def sine_cosine_of_eighth_turns(s: Tensor) -> tuple[Tensor, Tensor]:
    """sin and cos of (pi / 4) s for float32 s in (-1, 1)."""
    z = s * s
    return polynomial(SINE, z) * s, polynomial(COSINE, z)

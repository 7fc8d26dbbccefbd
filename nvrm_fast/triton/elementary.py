"""ln, sin, cos, square root and division from correctly rounded operations, in the order of csrc/noise/elementary.h.

`tl.fma` where the contract has a fused multiply-add and nowhere else; the kernels are launched with
enable_fp_fusion=False, so the compiler forms none by itself.
"""

import triton
import triton.language as tl

from ..reference import elementary as specification

TWO_THIRDS = tl.constexpr(specification.TWO_THIRDS)
MINUS_LN_2 = tl.constexpr(specification.MINUS_LN_2)
L0, L1, L2, L3, L4, L5, L6, L7, L8 = (tl.constexpr(c) for c in specification.LOGARITHM)
# In powers of t = 2048 s instead of s: powers of two cost no rounding and spare a multiplication.
S0, S1, S2, S3 = (tl.constexpr(c * 2.0 ** -(11 * n)) for c, n in zip(specification.SINE, (7, 5, 3, 1)))
C0, C1, C2, C3 = (tl.constexpr(c * 2.0 ** -(11 * n)) for c, n in zip(specification.COSINE, (6, 4, 2, 0)))


@triton.jit
def negative_ln(n, SHIFT: tl.constexpr, FACTOR: tl.constexpr):
    """FACTOR * -ln(n / 2^SHIFT) as float32, for odd uint32 n in (0, 2^SHIFT); FACTOR is a power of two."""
    bits = n.to(tl.int32).to(tl.float32).to(tl.uint32, bitcast=True) - (TWO_THIRDS + (SHIFT << 23))
    exponent = (bits.to(tl.int32, bitcast=True) >> 23).to(tl.float32)
    f = ((bits & 0x7FFFFF) + TWO_THIRDS).to(tl.float32, bitcast=True) - 1.0
    q = tl.fma(f, FACTOR * L0, FACTOR * L1)
    q = tl.fma(q, f, FACTOR * L2)
    q = tl.fma(q, f, FACTOR * L3)
    q = tl.fma(q, f, FACTOR * L4)
    q = tl.fma(q, f, FACTOR * L5)
    q = tl.fma(q, f, FACTOR * L6)
    q = tl.fma(q, f, FACTOR * L7)
    q = tl.fma(q, f, FACTOR * L8)
    return tl.fma(exponent, FACTOR * MINUS_LN_2, q * f)


@triton.jit
def sine_cosine_of_eighth_turns(t):
    """sin and cos of (pi / 4) t / 2048 for float32 t in (-2048, 2048)."""
    z = t * t
    p = tl.fma(z, S0, S1)
    p = tl.fma(p, z, S2)
    p = tl.fma(p, z, S3)
    q = tl.fma(z, C0, C1)
    q = tl.fma(q, z, C2)
    q = tl.fma(q, z, C3)
    return p * t, q


@triton.jit
def square_root(x):
    """Correctly rounded; tl.sqrt is approximate in float32, and tl.sqrt_rn knows no float64."""
    if x.dtype == tl.float32:
        return tl.sqrt_rn(x)
    else:
        return tl.sqrt(x)


@triton.jit
def divide(x, y):
    """Correctly rounded; `/` is approximate in float32, and tl.div_rn knows no float64."""
    if x.dtype == tl.float32:
        return tl.div_rn(x, y)
    else:
        return x / y


@triton.jit
def power(base, exponent):
    """base^exponent for a float64 scalar and an int64 scalar >= 0: power() of nvrm_fast/reference/elementary.py."""
    result = base * 0.0 + 1.0
    while exponent > 0:
        result = tl.where((exponent & 1) != 0, result * base, result)
        base = base * base
        exponent = exponent >> 1
    return result

"""ln, sin, cos, square root and division from correctly rounded operations, in the order of csrc/math/elementary.h.

`tl.fma` where the contract has a fused multiply-add and nowhere else; the kernels are launched with
enable_fp_fusion=False, so the compiler forms none by itself.
"""

import triton
import triton.language as tl

from ..reference import elementary as specification

MINUS_LN_2 = tl.constexpr(specification.MINUS_LN_2)
A0, A1, A2, A3, A4, A5, A6, A7 = (tl.constexpr(c) for c in specification.LOGARITHM_18)
B0, B1, B2, B3, B4, B5, B6 = (tl.constexpr(c) for c in specification.LOGARITHM_15)
# In powers of t = 8192 s instead of s: powers of two cost no rounding and spare a multiplication.
S0, S1, S2, S3 = (tl.constexpr(c * 2.0 ** -(13 * n)) for c, n in zip(specification.SINE, (7, 5, 3, 1)))
C0, C1, C2, C3 = (tl.constexpr(c * 2.0 ** -(13 * n)) for c, n in zip(specification.COSINE, (6, 4, 2, 0)))


@triton.jit
def negative_ln_of_bits(n, BITS: tl.constexpr, FACTOR: tl.constexpr):
    """FACTOR * -ln(n / 2^(BITS + 1)) as float32, for odd uint32 n below 2^(BITS + 1); FACTOR is a power of two, BITS 18
    or 15."""
    # An integer below 2^23 with this exponent in front is a float already; taking 2^23 off normalises it.
    representation = ((n | 0x4B000000).to(tl.float32, bitcast=True) - 8388608.0).to(tl.uint32, bitcast=True)
    linear = (representation - ((128 + BITS) << 23)).to(tl.int32, bitcast=True).to(tl.float32)
    f = (representation & 0x7FFFFF | 0x3F800000).to(tl.float32, bitcast=True) - 1.5
    if BITS == 18:
        q = tl.fma(f, FACTOR * A0, FACTOR * A1)
        q = tl.fma(q, f, FACTOR * A2)
        q = tl.fma(q, f, FACTOR * A3)
        q = tl.fma(q, f, FACTOR * A4)
        q = tl.fma(q, f, FACTOR * A5)
        q = tl.fma(q, f, FACTOR * A6)
        q = tl.fma(q, f, FACTOR * A7)
    else:
        tl.static_assert(BITS == 15)
        q = tl.fma(f, FACTOR * B0, FACTOR * B1)
        q = tl.fma(q, f, FACTOR * B2)
        q = tl.fma(q, f, FACTOR * B3)
        q = tl.fma(q, f, FACTOR * B4)
        q = tl.fma(q, f, FACTOR * B5)
        q = tl.fma(q, f, FACTOR * B6)
    return tl.fma(linear, FACTOR * MINUS_LN_2 * 2.0**-23, q)


@triton.jit
def cosine_sine_of_half_turns(t):
    """cos and sin of pi t / 8192 for float32 t in (-8192, 8192), by those of half the angle."""
    z = t * t
    p = tl.fma(z, S0, S1)
    p = tl.fma(p, z, S2)
    p = tl.fma(p, z, S3)
    p = p * t
    q = tl.fma(z, C0, C1)
    q = tl.fma(q, z, C2)
    q = tl.fma(q, z, C3)
    return tl.fma(-p, p, 1.0), p * q


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
    """base^exponent for a float64 scalar and an int64 scalar >= 0 by repeated squaring, as the reference does it."""
    result = base * 0.0 + 1.0
    while exponent > 0:
        result = tl.where((exponent & 1) != 0, result * base, result)
        base = base * base
        exponent = exponent >> 1
    return result

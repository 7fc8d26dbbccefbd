"""ln, exp, sin, cos, the normal quantile, square root, division and powers from correctly rounded operations, in the
order of csrc/math/special_functions.h and nvrm_fast/reference/special_functions.py.

`tl.fma` where the contract has a fused multiply-add and nowhere else; the kernels are launched with
enable_fp_fusion=False, so the compiler forms none by itself.
"""

import triton
import triton.language as tl

from ..reference import special_functions as specification

MINUS_LN_2 = tl.constexpr(specification.MINUS_LN_2)
A0, A1, A2, A3, A4, A5, A6, A7 = (tl.constexpr(c) for c in specification.LOGARITHM_18)
B0, B1, B2, B3, B4, B5, B6 = (tl.constexpr(c) for c in specification.LOGARITHM_15)
# In powers of t = 8192 s instead of s: powers of two cost no rounding and spare a multiplication.
SINE_H0, SINE_H1, SINE_H2, SINE_H3 = (
    tl.constexpr(c * 2.0 ** -(13 * n)) for c, n in zip(specification.HALF_TURN_SINE, (7, 5, 3, 1))
)
COSINE_H0, COSINE_H1, COSINE_H2, COSINE_H3 = (
    tl.constexpr(c * 2.0 ** -(13 * n)) for c, n in zip(specification.HALF_TURN_COSINE, (6, 4, 2, 0))
)
TWO_THIRDS = tl.constexpr(specification.TWO_THIRDS)
L0, L1, L2, L3, L4, L5, L6, L7, L8 = (tl.constexpr(c) for c in specification.LOGARITHM)
# In powers of t = 2048 s instead of s: powers of two cost no rounding and spare a multiplication.
SINE_E0, SINE_E1, SINE_E2, SINE_E3 = (
    tl.constexpr(c * 2.0 ** -(11 * n)) for c, n in zip(specification.EIGHTH_TURN_SINE, (7, 5, 3, 1))
)
COSINE_E0, COSINE_E1, COSINE_E2, COSINE_E3 = (
    tl.constexpr(c * 2.0 ** -(11 * n)) for c, n in zip(specification.EIGHTH_TURN_COSINE, (6, 4, 2, 0))
)
E0, E1, E2, E3, E4, E5 = (tl.constexpr(c) for c in specification.ONE_MINUS_EXPONENTIAL)
C0, C1, C2, C3, C4, C5, C6, C7, C8 = (tl.constexpr(c) for c in specification.QUANTILE_CENTRE)
T0, T1, T2, T3, T4, T5, T6, T7, T8, T9 = (tl.constexpr(c) for c in specification.QUANTILE_TAIL)
LOG2_E = tl.constexpr(specification.LOG2_E)
LN_2_HIGH = tl.constexpr(specification.LN_2_HIGH)
LN_2_LOW = tl.constexpr(specification.LN_2_LOW)
LARGEST = tl.constexpr(specification.LARGEST)
TO_INTEGER = tl.constexpr(specification.TO_INTEGER)
TO_INTEGER_BITS = tl.constexpr(specification.TO_INTEGER_BITS)


@triton.jit
def negative_ln_of_bits(n, BITS: tl.constexpr, FACTOR: tl.constexpr):
    """FACTOR * -ln(n / 2^(BITS + 1)) as float32, for odd uint32 n below 2^(BITS + 1); FACTOR is a power of two, BITS 18
    or 15."""
    # An integer below 2^23 with this exponent in front is a float already; taking 2^23 off normalizes it.
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
    p = tl.fma(z, SINE_H0, SINE_H1)
    p = tl.fma(p, z, SINE_H2)
    p = tl.fma(p, z, SINE_H3)
    p = p * t
    q = tl.fma(z, COSINE_H0, COSINE_H1)
    q = tl.fma(q, z, COSINE_H2)
    q = tl.fma(q, z, COSINE_H3)
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


@triton.jit
def logarithm_over(f, FACTOR: tl.constexpr):
    """FACTOR * -ln(1 + f) / f for f in [-1/3, 1/3]; FACTOR is a power of two."""
    q = tl.fma(f, FACTOR * L0, FACTOR * L1)
    q = tl.fma(q, f, FACTOR * L2)
    q = tl.fma(q, f, FACTOR * L3)
    q = tl.fma(q, f, FACTOR * L4)
    q = tl.fma(q, f, FACTOR * L5)
    q = tl.fma(q, f, FACTOR * L6)
    q = tl.fma(q, f, FACTOR * L7)
    q = tl.fma(q, f, FACTOR * L8)
    return q


@triton.jit
def negative_ln(n, SHIFT: tl.constexpr, FACTOR: tl.constexpr):
    """FACTOR * -ln(n / 2^SHIFT) as float32, for odd uint32 n in (0, 2^SHIFT); FACTOR is a power of two."""
    bits = n.to(tl.int32).to(tl.float32).to(tl.uint32, bitcast=True) - (TWO_THIRDS + (SHIFT << 23))
    exponent = (bits.to(tl.int32, bitcast=True) >> 23).to(tl.float32)
    f = ((bits & 0x7FFFFF) + TWO_THIRDS).to(tl.float32, bitcast=True) - 1.0
    return tl.fma(exponent, FACTOR * MINUS_LN_2, logarithm_over(f, FACTOR) * f)


@triton.jit
def negative_ln_of(x):
    """-ln(x) for positive normal float32 x."""
    bits = x.to(tl.uint32, bitcast=True) - TWO_THIRDS
    exponent = (bits.to(tl.int32, bitcast=True) >> 23).to(tl.float32)
    f = ((bits & 0x7FFFFF) + TWO_THIRDS).to(tl.float32, bitcast=True) - 1.0
    return tl.fma(exponent, MINUS_LN_2, logarithm_over(f, 1.0) * f)


@triton.jit
def exponential(y):
    """exp(-y) and 1 - exp(-y); y is cut to [-LARGEST, LARGEST]."""
    y = tl.where(y < LARGEST, y, LARGEST)
    y = tl.where(y > -LARGEST, y, -LARGEST)
    shifted = tl.fma(y, LOG2_E, TO_INTEGER)
    k = shifted - TO_INTEGER
    r = tl.fma(k, -LN_2_LOW, tl.fma(k, -LN_2_HIGH, y))
    q = tl.fma(r, E0, E1)
    q = tl.fma(q, r, E2)
    q = tl.fma(q, r, E3)
    q = tl.fma(q, r, E4)
    q = tl.fma(q, r, E5)
    e = q * r
    integer = shifted.to(tl.int32, bitcast=True) - TO_INTEGER_BITS
    power = ((127 - integer) << 23).to(tl.float32, bitcast=True)
    return tl.fma(-power, e, power), tl.fma(power, e, 1.0 - power)


@triton.jit
def normal_quantile(e, tails):
    """The x with P(|N(0, 1)| < |x|) = |e| and e's sign; tails = 1 - e^2."""
    w = negative_ln_of(tails)
    w = tl.where(w > 0.0, w, 0.0)
    c = w - 2.5
    p = tl.fma(c, C0, C1)
    p = tl.fma(p, c, C2)
    p = tl.fma(p, c, C3)
    p = tl.fma(p, c, C4)
    p = tl.fma(p, c, C5)
    p = tl.fma(p, c, C6)
    p = tl.fma(p, c, C7)
    p = tl.fma(p, c, C8)
    t = square_root(w) - 3.0
    q = tl.fma(t, T0, T1)
    q = tl.fma(q, t, T2)
    q = tl.fma(q, t, T3)
    q = tl.fma(q, t, T4)
    q = tl.fma(q, t, T5)
    q = tl.fma(q, t, T6)
    q = tl.fma(q, t, T7)
    q = tl.fma(q, t, T8)
    q = tl.fma(q, t, T9)
    return tl.where(w < 5.0, p, q) * e


@triton.jit
def sine_cosine_of_eighth_turns(t):
    """sin and cos of (pi / 4) t / 2048 for float32 t in (-2048, 2048)."""
    z = t * t
    p = tl.fma(z, SINE_E0, SINE_E1)
    p = tl.fma(p, z, SINE_E2)
    p = tl.fma(p, z, SINE_E3)
    q = tl.fma(z, COSINE_E0, COSINE_E1)
    q = tl.fma(q, z, COSINE_E2)
    q = tl.fma(q, z, COSINE_E3)
    return p * t, q


@triton.jit
def sine_cosine_of_quarter_turns(s):
    """sin and cos of (pi / 2) s for s in [-1, 1], by the double angle."""
    sine, cosine = sine_cosine_of_eighth_turns(s * 2048.0)
    return (sine + sine) * cosine, (cosine - sine) * (cosine + sine)

"""exp, ln, sin, cos and the normal quantile, as nvrm_fast/reference/functions.py and csrc/math/special_functions.h."""

import triton
import triton.language as tl

from ..reference import elementary, functions
from .elementary import square_root

TWO_THIRDS = tl.constexpr(functions.TWO_THIRDS)
MINUS_LN_2 = tl.constexpr(elementary.MINUS_LN_2)
L0, L1, L2, L3, L4, L5, L6, L7, L8 = (tl.constexpr(c) for c in functions.LOGARITHM)
# In powers of t = 2048 s instead of s: powers of two cost no rounding and spare a multiplication.
SINE0, SINE1, SINE2, SINE3 = (tl.constexpr(c * 2.0 ** -(11 * n)) for c, n in zip(functions.SINE, (7, 5, 3, 1)))
COSINE0, COSINE1, COSINE2, COSINE3 = (
    tl.constexpr(c * 2.0 ** -(11 * n)) for c, n in zip(functions.COSINE, (6, 4, 2, 0))
)
E0, E1, E2, E3, E4, E5 = (tl.constexpr(c) for c in functions.ONE_MINUS_EXPONENTIAL)
C0, C1, C2, C3, C4, C5, C6, C7, C8 = (tl.constexpr(c) for c in functions.QUANTILE_CENTRE)
T0, T1, T2, T3, T4, T5, T6, T7, T8, T9 = (tl.constexpr(c) for c in functions.QUANTILE_TAIL)
LOG2_E = tl.constexpr(functions.LOG2_E)
LN_2_HIGH = tl.constexpr(functions.LN_2_HIGH)
LN_2_LOW = tl.constexpr(functions.LN_2_LOW)
LARGEST = tl.constexpr(functions.LARGEST)
TO_INTEGER = tl.constexpr(functions.TO_INTEGER)
TO_INTEGER_BITS = tl.constexpr(functions.TO_INTEGER_BITS)


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
def negative_ln_of(x):
    """-ln(x) for positive normal float32 x."""
    bits = x.to(tl.uint32, bitcast=True) - TWO_THIRDS
    exponent = (bits.to(tl.int32, bitcast=True) >> 23).to(tl.float32)
    f = ((bits & 0x7FFFFF) + TWO_THIRDS).to(tl.float32, bitcast=True) - 1.0
    q = tl.fma(f, L0, L1)
    q = tl.fma(q, f, L2)
    q = tl.fma(q, f, L3)
    q = tl.fma(q, f, L4)
    q = tl.fma(q, f, L5)
    q = tl.fma(q, f, L6)
    q = tl.fma(q, f, L7)
    q = tl.fma(q, f, L8)
    return tl.fma(exponent, MINUS_LN_2, q * f)


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
    p = tl.fma(z, SINE0, SINE1)
    p = tl.fma(p, z, SINE2)
    p = tl.fma(p, z, SINE3)
    q = tl.fma(z, COSINE0, COSINE1)
    q = tl.fma(q, z, COSINE2)
    q = tl.fma(q, z, COSINE3)
    return p * t, q


@triton.jit
def sine_cosine_of_quarter_turns(s):
    """sin and cos of (pi / 2) s for s in [-1, 1], by the double angle."""
    sine, cosine = sine_cosine_of_eighth_turns(s * 2048.0)
    return (sine + sine) * cosine, (cosine - sine) * (cosine + sine)

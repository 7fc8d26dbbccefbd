"""exp, ln and the normal quantile, as nvrm_fast/reference/functions.py and csrc/math/special_functions.h."""

import triton
import triton.language as tl

from ..reference import elementary, functions
from .elementary import sine_cosine_of_eighth_turns, square_root

TWO_THIRDS = tl.constexpr(elementary.TWO_THIRDS)
MINUS_LN_2 = tl.constexpr(elementary.MINUS_LN_2)
L0, L1, L2, L3, L4, L5, L6, L7, L8 = (tl.constexpr(c) for c in elementary.LOGARITHM)
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
def sine_cosine_of_quarter_turns(s):
    """sin and cos of (pi / 2) s for s in [-1, 1], by the double angle."""
    sine, cosine = sine_cosine_of_eighth_turns(s * 2048.0)
    return (sine + sine) * cosine, (cosine - sine) * (cosine + sine)

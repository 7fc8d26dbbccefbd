"""Random numbers of activations and the distributions of the angle, as nvrm_fast/reference/activation.py and angles.py.
A new law: a branch in `turn`, with the code of nvrm_fast/contract/laws.py."""

import triton
import triton.language as tl

from ..contract import laws
from ..reference import activation
from .distribution import flip_sign, gaussian
from .philox import philox4x32
from .special_functions import (
    divide,
    exponential,
    negative_ln,
    negative_ln_of,
    normal_quantile,
    sine_cosine_of_eighth_turns,
    sine_cosine_of_quarter_turns,
    square_root,
)

PROJECTED = tl.constexpr(laws.Projected.code)
TANGENT = tl.constexpr(laws.Tangent.code)
ROTATION = tl.constexpr(laws.Rotation.code)
BETA_ROTATION = tl.constexpr(laws.BetaRotation.code)
VON_MISES_FISHER = tl.constexpr(laws.VonMisesFisher.code)
TRIALS = tl.constexpr(activation.TRIALS)
GAMMA_TRIALS = tl.constexpr(activation.GAMMA_TRIALS)
#: Places in the table of what all activations of a layer share (direction_noise.py fills it).
(
    TANGENT_RATE, SPHERE_RATE, FAN_IN_LESS_ONE, CHI_D, CHI_C, CHI_SURE, CHI_TWO_D, GAMMA_D, GAMMA_C, GAMMA_SURE,
    GAMMA_SCALE, GAMMA_ALPHA, LOW, HIGH,
) = (tl.constexpr(i) for i in range(14))  # fmt: skip
TWO_OVER_PI = tl.constexpr(float.fromhex("0x1.45f306p-1"))
MINUS_PI_OVER_4 = tl.constexpr(float.fromhex("-0x1.921fb6p-1"))


@triton.jit
def words_of(element, trial, stream, step, seed):
    """The four words of each element's block at one trial; element int64, trial an int."""
    return philox4x32(
        element.to(tl.uint32), (element >> 32).to(tl.uint32) | (trial << 24), stream.to(tl.uint32),
        step.to(tl.uint32), seed.to(tl.uint32), (seed >> 32).to(tl.uint32),
    )  # fmt: skip


@triton.jit
def odd_24(word):
    return (word >> 8) | 1


@triton.jit
def cosine_of_turns(word):
    sine, cosine = sine_cosine_of_eighth_turns((word & 0xFFF).to(tl.int32).to(tl.float32) - 2047.5)
    x = tl.where((word & 0x1000) != 0, sine, cosine)
    return flip_sign(x, (word << 18) ^ (word << 19))


@triton.jit
def sphere_coordinate(word, rate, DIMENSION: tl.constexpr):
    """One coordinate of a uniform point on the unit sphere; DIMENSION counts to 3, which stands for any more."""
    cosine = cosine_of_turns(word)
    if DIMENSION == 1:
        return tl.where(cosine < 0.0, -1.0, 1.0)
    elif DIMENSION == 2:
        return cosine
    else:
        _, square = exponential(negative_ln((word >> 13) | 1, 19, 2) * rate)
        return square_root(square) * cosine


@triton.jit
def _pending(accepted):
    return tl.min(tl.min(accepted.to(tl.int32), axis=1), axis=0) == 0


@triton.jit
def gamma_proposal(normal_word, uniform_word, constants):
    """v of one trial of Marsaglia and Tsang and whether it is accepted; constants: where d, c and sure lie."""
    d = tl.load(constants)
    c = tl.load(constants + 1)
    sure = tl.load(constants + 2)
    x, _ = gaussian(normal_word)
    root = tl.fma(x, c, 1.0)
    positive = root > 0.0
    root = tl.where(positive, root, 1.0)
    v = (root * root) * root
    square = x * x
    n = odd_24(uniform_word)
    rest = (2.0**24 - n.to(tl.int32).to(tl.float32)) * 2.0**-24
    accepted = tl.where(sure > 0.0, rest, -1.0) > sure * (square * square)
    if _pending(accepted):
        slack = tl.fma((1.0 - v) - negative_ln_of(v), d, 0.5 * square)
        accepted = accepted | (positive & (negative_ln(n, 24, 1) + slack > 0.0))
    return v, accepted


@triton.jit
def chi(element, mask, w2, w3, stream, step, seed, scalars, FAN_IN: tl.constexpr):
    """The square root of chi^2 with fan_in - 1 degrees of freedom."""
    if FAN_IN == 2:
        x, _ = gaussian(w2)
        return tl.abs(x)
    else:
        v, accepted = gamma_proposal(w2, w3, scalars + CHI_D)
        accepted = accepted | (mask == 0)
        trial = 1
        while _pending(accepted) & (trial < TRIALS):
            _, _, a2, a3 = words_of(element, trial.to(tl.uint32), stream, step, seed)
            again, now = gamma_proposal(a2, a3, scalars + CHI_D)
            v = tl.where(accepted, v, again)
            accepted = accepted | now
            trial += 1
        return square_root(v * tl.load(scalars + CHI_TWO_D))


@triton.jit
def gamma_magnitude(element, mask, stream, step, seed, scalars, BOOST: tl.constexpr):
    w0, w1, w2, _ = words_of(element, (stream * 0 + GAMMA_TRIALS).to(tl.uint32), stream, step, seed)
    v, accepted = gamma_proposal(w0, w1, scalars + GAMMA_D)
    accepted = accepted | (mask == 0)
    trial = 1
    while _pending(accepted) & (trial < TRIALS):
        a0, a1, _, _ = words_of(element, (trial + GAMMA_TRIALS).to(tl.uint32), stream, step, seed)
        again, now = gamma_proposal(a0, a1, scalars + GAMMA_D)
        v = tl.where(accepted, v, again)
        accepted = accepted | now
        trial += 1
    value = v * tl.load(scalars + GAMMA_SCALE)
    if BOOST:
        power, _ = exponential(negative_ln(odd_24(w2), 24, 1) * tl.load(scalars + GAMMA_ALPHA))
        value = value * power
    return value


@triton.jit
def wood_proposal(word, uniform_word, x0, scalars, FAN_IN: tl.constexpr):
    x = sphere_coordinate(word, tl.load(scalars + SPHERE_RATE), FAN_IN)
    p = x0 * x
    o = 1.0 + p
    slack = (divide(p, o) + negative_ln_of(o)) * tl.load(scalars + FAN_IN_LESS_ONE)
    return x, negative_ln(odd_24(uniform_word), 24, 1) + slack > 0.0


@triton.jit
def turn(
    element, mask, w1, w2, w3, stream, step, seed, scalars, constants, neuron, neuron_mask, neurons,
    LAW: tl.constexpr, FAN_IN: tl.constexpr, SLOPES: tl.constexpr,
):  # fmt: skip
    """cos and sin of the angle and its slopes in the law's two parameters. FAN_IN counts to 3 (see sphere_coordinate).

    constants: float32 (rows, neurons), loaded for the neurons of the tile.
    """
    k0 = tl.load(constants + neuron, mask=neuron_mask, other=0.0)
    slope_0 = 0.0
    slope_1 = 0.0
    if LAW == PROJECTED or LAW == TANGENT:
        length = chi(element, mask, w2, w3, stream, step, seed, scalars, FAN_IN)
        across = k0 * length
        one = tl.full(across.shape, 1.0, tl.float32)
        if LAW == PROJECTED:
            _, along = gaussian(w1)
            forward = tl.fma(along, k0 + tl.full(along.shape, -0.0, tl.float32), 1.0)
            inverse = divide(one, square_root(tl.fma(forward, forward, across * across)))
            cosine = forward * inverse
        else:
            inverse = divide(one, square_root(tl.fma(across, across, 1.0)))
            cosine = inverse
        sine = across * inverse
        slope_0 = length * (inverse * inverse)
        slope_1 = slope_0
    elif LAW == ROTATION:
        deviation = tl.load(constants + neurons + neuron, mask=neuron_mask, other=1.0)
        e_low = tl.load(constants + 2 * neurons + neuron, mask=neuron_mask, other=0.0)
        e_high = tl.load(constants + 3 * neurons + neuron, mask=neuron_mask, other=0.0)
        mass = tl.load(constants + 4 * neurons + neuron, mask=neuron_mask, other=1.0)
        above = tl.load(constants + 5 * neurons + neuron, mask=neuron_mask, other=1.0)
        below = tl.load(constants + 6 * neurons + neuron, mask=neuron_mask, other=1.0)
        n = odd_24(w2).to(tl.int32).to(tl.float32)
        gamma = n * 2.0**-24
        rest = (2.0**24 - n) * 2.0**-24
        zero = tl.full(gamma.shape, -0.0, tl.float32)
        e = tl.fma(gamma, e_high + zero, e_low * rest)
        tails = tl.fma(rest, mass + zero, above + zero) * tl.fma(gamma, mass + zero, below + zero)
        x = normal_quantile(e, tails)
        angle = tl.fma(x, deviation + zero, k0 + zero)
        low = tl.load(scalars + LOW)
        high = tl.load(scalars + HIGH)
        angle = tl.where(angle > low, angle, low)
        angle = tl.where(angle < high, angle, high)
        sine, cosine = sine_cosine_of_quarter_turns(angle * TWO_OVER_PI)
        if SLOPES:
            a = tl.load(constants + 7 * neurons + neuron, mask=neuron_mask, other=0.0)
            b = tl.load(constants + 8 * neurons + neuron, mask=neuron_mask, other=0.0)
            density, _ = exponential(((a - x) * (a + x)) * 0.5)
            at_low = rest * density
            density, _ = exponential(((b - x) * (b + x)) * 0.5)
            at_high = gamma * density
            slope_0 = 1.0 - (at_low + at_high)
            slope_1 = x - tl.fma(at_low, a + zero, b * at_high)
    elif LAW == BETA_ROTATION:
        ln = negative_ln((w2 >> 13) | 1, 19, 1)
        c = cosine_of_turns(w2)
        v, m = exponential(ln * k0)
        d = tl.fma(m * c, c, v)
        sine, cosine = sine_cosine_of_quarter_turns(c * square_root(divide(m, d)))
        if SLOPES:
            moved = divide((v * ln) * (k0 * k0), d * d)
            slope_0 = (c * MINUS_PI_OVER_4) * (square_root(divide(d, m)) * moved)
            slope_1 = slope_0
    else:
        tl.static_assert(LAW == VON_MISES_FISHER)
        across_scale = tl.load(constants + neurons + neuron, mask=neuron_mask, other=0.0)
        x, accepted = wood_proposal(w2, w3, k0, scalars, FAN_IN)
        accepted = accepted | (mask == 0)
        trial = 1
        while _pending(accepted) & (trial < TRIALS):
            _, _, a2, a3 = words_of(element, trial.to(tl.uint32), stream, step, seed)
            again, now = wood_proposal(a2, a3, k0, scalars, FAN_IN)
            x = tl.where(accepted, x, again)
            accepted = accepted | now
            trial += 1
        o = 1.0 + k0 * x
        across = tl.fma(-x, x, 1.0)
        across = tl.where(across > 0.0, across, 0.0)
        cosine = divide(k0 + x, o)
        sine = divide(across_scale * square_root(across), o)
    return cosine, sine, slope_0, slope_1

"""From random words to noise of unit scale, as csrc/math/distribution.h. A new distribution: a function here and a
line in `values`, with the code that nvrm_fast/reference/distribution.py gives it."""

import triton
import triton.language as tl

from ..contract.distributions import DISTRIBUTIONS
from .philox import philox4x32
from .special_functions import cosine_sine_of_half_turns, negative_ln_of_bits, square_root

GAUSSIAN = tl.constexpr(DISTRIBUTIONS["gaussian"])
UNIFORM = tl.constexpr(DISTRIBUTIONS["uniform"])
LAPLACE = tl.constexpr(DISTRIBUTIONS["laplace"])
RADEMACHER = tl.constexpr(DISTRIBUTIONS["rademacher"])


@triton.jit
def flip_sign(x, word):
    return (x.to(tl.uint32, bitcast=True) ^ (word & 0x80000000)).to(tl.float32, bitcast=True)


@triton.jit
def gaussian(word):
    """Two values of N(0, 1) by Box-Muller: 18 bits of radius, 14 of angle."""
    radius = square_root(negative_ln_of_bits((word >> 13) | 1, 18, 2))
    cosine, sine = cosine_sine_of_half_turns((word & 0x3FFF).to(tl.int32).to(tl.float32) - 8191.5)
    return radius * cosine, radius * sine


@triton.jit
def uniform_of_half(half):
    return tl.fma(half.to(tl.int32).to(tl.float32), 2.0**-15, 2.0**-16 - 1.0)


@triton.jit
def uniform(word):
    """Two values of the uniform distribution on (-1, 1), 16 bits each; 0 and the ends never occur."""
    return uniform_of_half(word >> 16), uniform_of_half(word & 0xFFFF)


@triton.jit
def laplace(word):
    """Two values of Laplace(0, 1): an exponential magnitude from 15 bits each, the sign from the sixteenth."""
    first = flip_sign(negative_ln_of_bits(((word >> 15) & 0xFFFE) | 1, 15, 1), word)
    second = flip_sign(negative_ln_of_bits(((word << 1) & 0xFFFE) | 1, 15, 1), word << 16)
    return first, second


@triton.jit
def sign_of(word):
    return ((word & 0x80000000) | 0x3F800000).to(tl.float32, bitcast=True)


@triton.jit
def rademacher(word):
    """Two values, 1 or -1 with probability 1/2 each: the sign bits of Laplace's halves."""
    return sign_of(word), sign_of(word << 16)


@triton.jit
def values(word, distribution):
    """A word's two values: float32 tensors of its shape. distribution: a code, of the compiler or of a record."""
    if distribution == GAUSSIAN:
        first, second = gaussian(word)
    elif distribution == UNIFORM:
        first, second = uniform(word)
    elif distribution == RADEMACHER:
        first, second = rademacher(word)
    else:
        first, second = laplace(word)
    return first, second


@triton.jit
def draw(block, stream, step, seed, distribution):
    """Noise of unit scale of whole Philox blocks: their four words' first and second values, float32 of shape
    (blocks, 4) both, which `turned` makes into a tile.

    distribution: its code, a constexpr or a scalar. block: int64, shape (blocks,). stream, step, seed: int64 scalars,
    of which stream and step count modulo 2^32.
    Each block is drawn once and serves the eight elements of its row.
    """
    w0, w1, w2, w3 = philox4x32(
        block.to(tl.uint32), (block >> 32).to(tl.uint32), stream.to(tl.uint32), step.to(tl.uint32),
        seed.to(tl.uint32), (seed >> 32).to(tl.uint32),
    )  # fmt: skip
    # Joins append a dimension of two; in this order the flattened ones count words, then values within a word.
    word = tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (block.shape[0], 4))
    return values(word, distribution)


@triton.jit
def turned(even, odd, scale, turn):
    """scale * noise of whole blocks after so many quarter turns (contract/cycles.py): float32, shape (blocks, 8), one
    column a lane. even, odd: what `draw` gives, for the even and the odd lanes."""
    exchange = (turn & 1) != 0
    noise_even = tl.where(exchange, odd, even) * tl.where((turn == 1) | (turn == 2), -scale, scale)
    noise_odd = tl.where(exchange, even, odd) * tl.where(turn >= 2, -scale, scale)
    return tl.reshape(tl.join(noise_even, noise_odd), (even.shape[0], 8))

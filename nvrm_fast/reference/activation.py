"""Random numbers of one activation: a whole Philox block for each, and further blocks where a proposal is rejected.

Block number = element + trial * 2^56, where element is the row-major index of the activation in the whole output:

    counter = (element_low, element_high | trial << 24, stream, step), key = the forward pass's 64-bit key

    word 0   the tangent coordinate u: 18 bits of radius, 14 of angle
    word 1   a pair of Gaussians: the first for a normal magnitude, the second for projected noise along the direction
    word 2   the distribution of the angle: what is proposed
    word 3   the distribution of the angle: whether it is accepted; if not, words 2 and 3 of the next block are next
    trials from 128 on   the Gamma magnitude: word 0 proposes, word 1 accepts, word 2 of the first is its power
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..contract.layers import GammaConstants
from .distribution import gaussian
from .noise import noise
from .philox import MASK, philox4x32
from .special_functions import (
    exponential,
    fused_multiply_add,
    negative_ln,
    negative_ln_of,
    rounded,
    sine_cosine_of_eighth_turns,
    square_root,
)

#: After so many rejections the last proposal stands; no law here comes near (1e-12 after ten).
TRIALS = 64
GAMMA_TRIALS = 128


class Blocks(NamedTuple):
    """The blocks of a tensor of activations: elements offset .. offset + numel, in `shape`."""

    shape: torch.Size
    key: Tensor
    stream: int
    step: int
    offset: int

    def words(self, trial: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Four int64 tensors of `shape` with values in [0, 2^32)."""
        element = torch.arange(self.shape.numel(), dtype=torch.int64, device=self.key.device) + self.offset
        element = element.view(self.shape)
        key = self.key.reshape(())
        counter = (element & MASK, (element >> 32) | trial << 24, self.stream, self.step)
        return philox4x32(counter, (key & MASK, (key >> 32) & MASK))


def odd_24(word: Tensor) -> Tensor:
    """An odd number of 24 bits: (2 k + 1) / 2^24 is uniform on (0, 1), its complement exact."""
    return (word >> 8) | 1


def radius_and_cosine(word: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """factor * -ln U from the word's top 18 bits, and the cosine of a uniform angle from the other 14."""
    s = ((word & 0xFFF) * 2 - 4095).float() * 2.0**-12
    sine, cosine = sine_cosine_of_eighth_turns(s)
    x = torch.where((word & 0x1000) != 0, sine, cosine)
    negative = ((word >> 13) ^ (word >> 12)) & 1 == 1
    return negative_ln((word >> 13) | 1, shift=19, factor=factor), torch.where(negative, -x, x)


def sphere_coordinate(word: Tensor, dimension: int) -> Tensor:
    """One coordinate of a uniform point on the unit sphere in `dimension` dimensions; float32.

    sqrt(1 - U1^(2 / (dimension - 2))) cos(2 pi U2), the radius that of a two-dimensional marginal. In two dimensions
    the radius is 1, in one the coordinate is a sign.
    """
    two_ln, cosine = radius_and_cosine(word, 2)
    if dimension == 1:
        return torch.where(cosine < 0, -1.0, 1.0)
    if dimension == 2:
        return cosine
    _, square = exponential(two_ln * rounded(1 / (dimension - 2), torch.float32))
    return square_root(square) * cosine


def first_accepted(propose: Callable[[int], tuple[Tensor, Tensor]]) -> Tensor:
    """propose(trial) gives values and which of them are accepted; each element keeps its first accepted one."""
    value, accepted = propose(0)
    for trial in range(1, TRIALS):
        if bool(accepted.all()):
            break
        again, accepted_now = propose(trial)
        value = torch.where(accepted, value, again)
        accepted = accepted | accepted_now
    return value


def gamma_proposal(normal_word: Tensor, uniform_word: Tensor, constants: GammaConstants) -> tuple[Tensor, Tensor]:
    """v of one trial of Marsaglia and Tsang (2000) and whether it is accepted."""
    x, _ = gaussian(normal_word)
    root = fused_multiply_add(rounded(constants.c, torch.float32), x, 1.0)
    positive = root > 0
    root = torch.where(positive, root, 1.0)
    v = (root * root) * root
    square = x * x
    n = odd_24(uniform_word)
    slack = fused_multiply_add(rounded(constants.d, torch.float32), (1.0 - v) - negative_ln_of(v), 0.5 * square)
    accepted = positive & (negative_ln(n, shift=24, factor=1) + slack > 0)
    if constants.sure > 0:
        rest = (2.0**24 - n.float()) * 2.0**-24
        accepted = accepted | (rest > rounded(constants.sure, torch.float32) * (square * square))
    return v, accepted


def gamma_magnitude(blocks: Blocks, alpha: float) -> Tensor:
    """Gamma with mean 1 and variance alpha; float32 of the blocks' shape. Shape 1 / alpha below 1 takes the boost
    Gamma(a) = Gamma(a + 1) U^(1 / a)."""
    constants = GammaConstants.of_shape(1 / alpha)

    def propose(trial: int) -> tuple[Tensor, Tensor]:
        word = blocks.words(GAMMA_TRIALS + trial)
        return gamma_proposal(word[0], word[1], constants)

    value = rounded(alpha * constants.d, torch.float32) * first_accepted(propose)
    if alpha > 1:
        rate = negative_ln(odd_24(blocks.words(GAMMA_TRIALS)[2]), shift=24, factor=1) * rounded(alpha, torch.float32)
        value = value * exponential(rate)[0]
    return value


def gaussian_like(like: Tensor, key: Tensor, stream: int, step: int, offset: int) -> Tensor:
    """N(0, 1) for layers that need one number an activation, in the layout of parameter noise (noise.py).

    Returns float32 of like's shape: elements offset .. offset + numel of the stream whose seed the key holds.
    """
    return noise(
        like.numel(),
        seed=int(key),
        stream=stream,
        step=step,
        distribution=0,
        scale=1.0,
        offset=offset,
        device=like.device,
    ).view(like.shape)

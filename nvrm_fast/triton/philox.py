"""Philox4x32-7 on uint32 tensors: the same words as nvrm_fast/reference/philox.py and csrc/math/philox.h."""

import triton
import triton.language as tl

from ..reference.philox import MULTIPLIERS, ROUNDS, WEYL

MULTIPLIER_0 = tl.constexpr(MULTIPLIERS[0])
MULTIPLIER_1 = tl.constexpr(MULTIPLIERS[1])
WEYL_0 = tl.constexpr(WEYL[0])
WEYL_1 = tl.constexpr(WEYL[1])
N_ROUNDS = tl.constexpr(ROUNDS)


# Not tl.philox: that is itself a jitted function, bound to compiler or interpreter when triton is first imported.
@triton.jit
def philox4x32(c0, c1, c2, c3, k0, k1):
    """Four output words of each counter; counters and keys are uint32 and broadcast against each other."""
    for _ in tl.static_range(N_ROUNDS):
        high_0 = tl.umulhi(c0, MULTIPLIER_0)
        high_1 = tl.umulhi(c2, MULTIPLIER_1)
        low_0 = c0 * MULTIPLIER_0
        low_1 = c2 * MULTIPLIER_1
        c0 = high_1 ^ c1 ^ k0
        c1 = low_1
        c2 = high_0 ^ c3 ^ k1
        c3 = low_0
        k0 = k0 + WEYL_0
        k1 = k1 + WEYL_1
    return c0, c1, c2, c3

"""The pointer table: what one launch is told about every parameter, as int64 words in one piece of device memory.

    header     HEADER words: how many tensors, two seeds, the rule's hyper-parameters, what a GradScaler found
    columns    one word a tensor for each name in COLUMNS, column after column
    programs   for each program: its tensor, then (after all of those) its first superblock

Addresses and integers are stored as they are, real numbers as the bits of their float64. Everything that changes from
step to step lies here and none of it is a kernel argument, so no step compiles anything.
"""

import triton.language as tl

from ..reference.noise import SUPERBLOCK

#: Words of the header.
COUNT, SEED, COAT_SEED, HYPER = (tl.constexpr(i) for i in range(4))
HYPER_WORDS = 8
#: lr, beta1 and beta2 as the user gave them, for bias corrections that are worked out on the device.
BIAS = tl.constexpr(HYPER.value + HYPER_WORDS)
#: Addresses of what torch.amp.GradScaler found, or 0.
GRAD_SCALE, FOUND_INF = (tl.constexpr(BIAS.value + 3 + i) for i in range(2))
HEADER = tl.constexpr(BIAS.value + 5)

COLUMNS = (
    "parameter", "gradient", "master", "state_0", "state_1", "state_2",  # addresses
    "numel",
    "offset",  # global row-major index of the first element
    "stream",
    "step",  # steps done, where step_pointer is 0
    "step_pointer",  # address of the step counter on the device, or 0
    "scale",  # b of the noise to put on
    "coat_scale",  # b of the noise to take off
    "is_first",
    "step_size", "root_scale",  # Adam only
)  # fmt: skip
(
    PARAMETER, GRADIENT, MASTER, STATE_0, STATE_1, STATE_2, NUMEL, OFFSET, STREAM, STEP, STEP_POINTER, SCALE,
    COAT_SCALE, IS_FIRST, STEP_SIZE, ROOT_SCALE,
) = (tl.constexpr(i) for i in range(len(COLUMNS)))  # fmt: skip
COLUMN_COUNT = tl.constexpr(len(COLUMNS))

#: One tile is 8 superblocks: with 4 warps each thread has one Philox block and its 8 elements.
TILE_SUPERBLOCKS = tl.constexpr(8)
TILE_BLOCKS = tl.constexpr(16 * TILE_SUPERBLOCKS.value)
TILE_ELEMENTS = tl.constexpr(SUPERBLOCK * TILE_SUPERBLOCKS.value)
SUPERBLOCK_ELEMENTS = tl.constexpr(SUPERBLOCK)
#: Superblocks of one program: 16 Ki elements, so that its two words of table are a thousandth of a byte an element.
PROGRAM_SUPERBLOCKS = tl.constexpr(128)
WARPS = 4

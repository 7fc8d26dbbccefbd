"""The table: what one launch is told about every parameter, as int64 words in one piece of device memory.

    header     HEADER words: how many tensors, the draw, the rule's hyper-parameters, what a GradScaler found
    columns    one word a tensor for each name in COLUMNS, column after column
    programs   for each program: its tensor, then (after all of those) its first superblock

Addresses and integers are stored as they are, real numbers as the bits of their float64. Everything that changes from
step to step lies here, in records, counters or tensors that it points to, and none of it is a kernel argument, so no
step compiles anything.
"""

import triton.language as tl

from ..reference.noise import SUPERBLOCK

#: Words of the header: how many tensors; key, stream and step of a draw (stream and step for noise alone); b.
COUNT, SEED, STREAM, STEP, SCALE = (tl.constexpr(i) for i in range(5))
#: Weights are left clean after every so many steps, or 0.
DENOISE_EVERY = tl.constexpr(5)
#: Addresses of hyper-parameters in float64 (0: they follow in the header), of grad_scale and of found_inf, or 0.
HYPER_POINTER, GRAD_SCALE, FOUND_INF = (tl.constexpr(6 + i) for i in range(3))
#: 1: noise comes in cycles (contract/cycles.py); else 0.
CYCLE = tl.constexpr(9)
HYPER = tl.constexpr(10)
HYPER_WORDS = 8
HEADER = tl.constexpr(HYPER.value + HYPER_WORDS)

COLUMNS = (
    "parameter", "gradient", "master", "state_0", "state_1", "state_2",  # addresses
    "numel",
    "offset",  # global row-major index of the first element
    "step",  # address of the step counter
    "record",  # address of the record
    "target",  # address of the record of the noise to put on, where no step is done
    "scale",  # address of b, or 0: the header's
    "owner",  # the line that counts this parameter's programs: its own, or the first of a shard that lies in runs
    "programs",  # of the parameter, in the owner's line
    "finished",  # how many of them have ended; the last one writes counter and record
    "measures",  # address of the parameter's measures, or 0
    "rows",  # how many measures a line has
    "row_length",  # elements of a row; 0: one measure for all
    "count",  # elements that a measure is of
    "sums",  # address of words for the sums, zero at first
    "left",  # address of where the sums are left, or 0: the measures are finished
)  # fmt: skip
(
    PARAMETER, GRADIENT, MASTER, STATE_0, STATE_1, STATE_2, NUMEL, OFFSET, STEP_POINTER, RECORD, TARGET,
    SCALE_POINTER, OWNER, PROGRAMS, FINISHED, MEASURES, ROWS, ROW_LENGTH, ROW_COUNT, SUMS, LEFT,
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

"""Measures of clean weights, and rows of relative noise: contract/measures.py in Triton.

Weights come in the tiles of kernels.py, of shape (blocks, 8). A parameter with one measure, and a tile that lies in one
row, are summed up before they are added to memory; of shorter rows 16 neighbors at a time where rows hold a multiple
of 16 elements, else each element by itself.
"""

import triton
import triton.language as tl

from ..contract import measures as contract
from .layout import SUPERBLOCK_ELEMENTS, TILE_BLOCKS, TILE_SUPERBLOCKS
from .special_functions import divide, square_root

RMS = tl.constexpr(contract.RMS)
ABSMAX = tl.constexpr(contract.ABSMAX)
SUM_WORDS = tl.constexpr(contract.SUM_WORDS)
NOT_FINITE = tl.constexpr(contract.NOT_FINITE)
LARGEST = tl.constexpr(contract.LARGEST)
SHIFT = tl.constexpr(contract.FRACTION_BITS - contract.HIGH_BITS)
REST_MASK = tl.constexpr(2**SHIFT.value - 1)
WORD_MASK = tl.constexpr(2**32 - 1)
#: Added to a float64 they round it to a multiple of 2**-13 and of 2**-64; the words that they are.
TO_HIGH, TO_LOW = tl.constexpr(1.5 * 2.0**39), tl.constexpr(1.5 * 2.0**-12)
INFINITY = tl.constexpr(0x7F800000)
NAN_BITS = tl.constexpr(0x7FC00000)
#: Rows that the last program finishes at a time.
ROWS_AT_ONCE = tl.constexpr(128)


@triton.jit
def magnitude_bits(x):
    """int32 bits of |x|, for float32 x."""
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def relative_scale(b, measures):
    """float32 product, 0 where it is not finite."""
    scale = b * measures
    return tl.where(magnitude_bits(scale) < INFINITY, scale, 0.0)


@triton.jit
def row_scales(element, b, line, rows, row_length, mask):
    """b of each element's row: float32 of element's shape. element: places in the full tensor."""
    row = element // row_length
    measures = tl.load(line + row, mask=mask & (row < rows), other=0.0)
    return relative_scale(b, measures)


@triton.jit
def words_of(x):
    """The four words of each float32 value's square: int64 of x's shape."""
    square = tl.minimum(tl.abs(x), LARGEST).to(tl.float64)
    square = tl.where(magnitude_bits(x) < INFINITY, square, LARGEST)
    square = square * square
    high_start = tl.full([1], TO_HIGH, tl.float64)
    low_start = tl.full([1], TO_LOW, tl.float64)
    rounded = square + high_start
    high = rounded.to(tl.int64, bitcast=True) - high_start.to(tl.int64, bitcast=True)
    rest = square - (rounded - high_start)
    low = (rest + low_start).to(tl.int64, bitcast=True) - low_start.to(tl.int64, bitcast=True)
    high = high + (low >> SHIFT)
    low = low & REST_MASK
    return low & WORD_MASK, (low >> 32) | ((high << (SHIFT - 32)) & WORD_MASK), high >> (64 - SHIFT)


@triton.jit
def add_to(sums, row, low, middle, high, broken, mask, MEASURE: tl.constexpr):
    """Adds words to the sums of their rows; all of one shape."""
    at = sums + row * SUM_WORDS
    if MEASURE == RMS:
        tl.atomic_add(at, low, mask=mask)
        tl.atomic_add(at + 1, middle, mask=mask)
        tl.atomic_add(at + 2, high, mask=mask)
    else:
        tl.atomic_max(at, low, mask=mask)
    tl.atomic_add(at + NOT_FINITE, broken, mask=mask & (broken > 0))


@triton.jit
def reduce(x, AXIS: tl.constexpr, MEASURE: tl.constexpr):
    if MEASURE == RMS:
        return tl.sum(x, AXIS)
    else:
        return tl.max(x, AXIS)


@triton.jit
def add_tile(sums, x, mask, first, place, end, row_length, MEASURE: tl.constexpr):
    """Adds a tile of clean weights to the sums.

    x: float32 weights. first: the place in the full tensor of the tile's first element; place: of each from there on.
    end: one behind the tensor's last element. row_length: 0: there is one row.
    """
    broken = tl.where(mask & (magnitude_bits(x) >= INFINITY), 1, 0).to(tl.int64)
    if MEASURE == RMS:
        low, middle, high = words_of(x)
        low = tl.where(mask, low, 0)
        middle = tl.where(mask, middle, 0)
        high = tl.where(mask, high, 0)
    else:
        low = tl.where(mask, magnitude_bits(x).to(tl.int64), 0)
        middle = low
        high = low
    length = tl.maximum(row_length, 1)
    last = tl.minimum(first + TILE_BLOCKS * 8, end) - 1
    row = first // length
    if row_length == 0 or row == last // length:
        here = tl.where(row_length == 0, 0, row)
        add_to(
            sums, here, reduce(reduce(low, 1, MEASURE), 0, MEASURE), tl.sum(tl.sum(middle, 1), 0),
            tl.sum(tl.sum(high, 1), 0), tl.sum(tl.sum(broken, 1), 0), here >= 0, MEASURE,
        )  # fmt: skip
    elif length % 16 == 0:
        # 16 neighbors lie in one row: rows j of the tile, of one superblock and one column.
        some_low = reduce(tl.reshape(low, (TILE_SUPERBLOCKS, 16, 8)), 1, MEASURE)
        some_middle = tl.sum(tl.reshape(middle, (TILE_SUPERBLOCKS, 16, 8)), 1)
        some_high = tl.sum(tl.reshape(high, (TILE_SUPERBLOCKS, 16, 8)), 1)
        some_broken = tl.sum(tl.reshape(broken, (TILE_SUPERBLOCKS, 16, 8)), 1)
        start = SUPERBLOCK_ELEMENTS * tl.arange(0, TILE_SUPERBLOCKS)[:, None] + 16 * tl.arange(0, 8)[None, :]
        is_here = tl.sum(tl.reshape(mask.to(tl.int32), (TILE_SUPERBLOCKS, 16, 8)), 1) > 0
        add_to(
            sums,
            (first + start.to(tl.int64)) // length,
            some_low,
            some_middle,
            some_high,
            some_broken,
            is_here,
            MEASURE,
        )
    else:
        add_to(sums, (first + place.to(tl.int64)) // length, low, middle, high, broken, mask, MEASURE)


@triton.jit
def finish_rows(measures, sums, left, rows, count, moves, finishes, MEASURE: tl.constexpr):
    """For the last program of a parameter: the line of the clean weights to that of the noise that is on, and then the
    measures that the sums come to, or the sums to `left`.

    moves: whether the first is done. finishes: measures, else `left`. count: elements of a row.
    """
    for first in range(0, rows, ROWS_AT_ONCE):
        row = first + tl.arange(0, ROWS_AT_ONCE)
        mask = row < rows
        at = sums + row * SUM_WORDS
        # Others have added to them: past what this multiprocessor may remember.
        low = tl.load(at, mask=mask, other=0, volatile=True)
        middle = tl.load(at + 1, mask=mask, other=0, volatile=True)
        high = tl.load(at + 2, mask=mask, other=0, volatile=True)
        broken = tl.load(at + NOT_FINITE, mask=mask, other=0, volatile=True)
        if moves:
            tl.store(measures + row, tl.load(measures + rows + row, mask=mask), mask=mask)
        if finishes:
            if MEASURE == RMS:
                middle = middle + (low >> 32)
                high = high + (middle >> 32)
                total = (high.to(tl.float64) * 2.0**64 + (middle & WORD_MASK).to(tl.float64) * 2.0**32) + (
                    low & WORD_MASK
                ).to(tl.float64)
                mean = divide(total, tl.maximum(count, 1).to(tl.float64)) * 2.0**-64
                found = square_root(mean).to(tl.float32)
            else:
                found = low.to(tl.int32).to(tl.float32, bitcast=True)
            nan = tl.full([ROWS_AT_ONCE], NAN_BITS, tl.int32).to(tl.float32, bitcast=True)
            tl.store(measures + rows + row, tl.where(broken > 0, nan, found), mask=mask)
        else:
            to = left + row * SUM_WORDS
            tl.store(to, low, mask=mask)
            tl.store(to + 1, middle, mask=mask)
            tl.store(to + 2, high, mask=mask)
            tl.store(to + NOT_FINITE, broken, mask=mask)

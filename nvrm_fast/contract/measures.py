"""Measures: how large clean weights are, so that the scale of the noise on them can be relative to it.

b of the noise is then variability times a measure of the clean weights, of the whole tensor or of each of its rows
(what lies at one index of dimension 0: an output unit, a filter). Codes and numbers stand here; what is computed from
them stands in nvrm_fast/reference/measure.py, csrc/math/measure.h and nvrm_fast/triton/measure.py.

A parameter's measures are a float32 tensor of shape (2, rows) in its own device memory. Line ON holds the measures by
which the noise that is on was scaled: it comes off with them. Line CLEAN holds those of the clean weights that are
there. A step takes noise off by ON, puts noise on by CLEAN, moves CLEAN to ON and leaves the measures of the weights
that it made in CLEAN. Clean weights are the master weights; where there are none they are what taking the noise off
gives, in float32 (float64 for float64 parameters). So a measure is a function of the tensors that a parameter has, and
measuring again gives the same bits.

What is measured is each weight rounded to float32.

    absmax  the largest absolute value
    rms     sqrt(mean of squares). A square of |w| (at most LARGEST, larger ones count as that) is rounded, to even, to
            a multiple of 2**-FRACTION_BITS, and these are added up as integers: their sum has the same bits in any
            order, so for any number of threads, launch shape and world size. Then, in float64,
            sqrt(sum / count * 2**-FRACTION_BITS), rounded to float32. The sum is taken to float64 as
            (word 2 * 2**64 + word 1 * 2**32) + word 0, where words 0 and 1 have 32 bits.

Weights below 2**-33 (1.2e-10) have a square of 0. A measure over a NaN or an infinity is NaN. b is the float32 product
of variability and measure; where that is not finite it is 0: a weight that is broken is left as it is, and so are the
others beside it. A measure over no elements is 0.

A sum is SUM_WORDS int64 words: the integer's words of 32 bits from the lowest one (the third holds the rest), and how
many values were not finite. Words may hold more than 32 bits: carries count when a sum is finished. So partial sums add
up word by word, up to 2**30 elements. For absmax word 0 holds the bits of the largest value, and partial sums are
joined by their maximum.
"""

from __future__ import annotations

from collections.abc import Sequence

#: Codes in operator arguments: never renumber.
NOTHING, RMS, ABSMAX = range(3)
#: What the option `relative` of an optimizer says -> code.
MEASURES: dict[str | None, int] = {None: NOTHING, "rms": RMS, "absmax": ABSMAX}
#: What the option `per` says.
PER = ("tensor", "row")

#: Lines of a parameter's measures.
ON, CLEAN = range(2)

FRACTION_BITS = 64
LARGEST = 65536.0
#: A square is split into a multiple of 2**-HIGH_BITS and a rest, each of which float64 rounds exactly.
HIGH_BITS = 13
#: Words of a sum, and the one that counts values that are not finite.
SUM_WORDS = 4
NOT_FINITE = 3


def rows_of(shape: Sequence[int], per: str) -> int:
    """How many measures a (full, unsharded) parameter of this shape has. Fewer than two dimensions: one."""
    is_by_row = per == "row" and len(shape) > 1 and 0 not in shape
    return shape[0] if is_by_row else 1


def row_length(numel: int, rows: int) -> int:
    """Elements of a row of a (full) parameter with so many elements and measures; 0: it has one measure."""
    return numel // rows if rows > 1 else 0

"""The record: which noise a parameter carries, as eight int64 words in the parameter's own device memory.

The operator that changes the weights reads and writes it, so that weights and record are never of two minds. Where
the parameter is distributed (DTensor) every process has the whole record. csrc/math/record.h says the same in C++.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

#: How many words a record has, and which word is what; see Record.
WORDS = 8
SCALE, SEED, DISTRIBUTION, STREAM, STEP, TURN, RULE_STEPS, NUMEL = range(WORDS)
#: The words that say which noise is on the weights; the others belong to the update rule and to the parameter.
NOISE_WORDS = TURN + 1
#: Bit of the word SCALE: b is that number times the parameter's measures (contract/measures.py).
RELATIVE = 1 << 32


class Record(NamedTuple):
    """A record's words as Python numbers."""

    #: b of the noise that is on the weights, or with is_relative its factor, rounded to float32; 0: they are clean.
    scale: float
    seed: int  # 64 bits in two's complement
    distribution: int  # its code
    stream: int  # in [0, 2^32): the parameter's noise stream, for this draw and the next
    step: int  # of the draw
    turn: int  # of the draw, in quarters (contract/cycles.py): 0 to 3, and 0 for noise that comes in no cycles
    rule_steps: int  # steps that the rule's state has seen; 0: the next gradient is the first
    numel: int  # elements of the (full, unsharded) parameter
    is_relative: bool = False  # b is scale times the parameter's measures, in their line ON; in word SCALE


def scale_bits(scale: float) -> int:
    """The bits of `scale` rounded to float32, as a non-negative integer."""
    try:
        return int(struct.unpack("<I", struct.pack("<f", scale))[0])
    except OverflowError:  # beyond float32: infinity, as a cast gives it
        return 0x7F800000 if scale > 0 else 0xFF800000


def pack(record: Record) -> list[int]:
    """The words of a record."""
    bits = scale_bits(record.scale)
    words = [int(word) for word in record[1:WORDS]]
    return [bits | RELATIVE if record.is_relative and bits else bits, *words]


def unpack(words: list[int]) -> Record:
    """The record that words hold."""
    scale = struct.unpack("<f", struct.pack("<I", words[SCALE] & 0xFFFFFFFF))[0]
    record = Record(scale, *words[1:])  # type: ignore[arg-type]  # is_relative is none of the words
    return record._replace(is_relative=bool(words[SCALE] & RELATIVE))

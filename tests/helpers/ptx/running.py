"""Recorded cases run as PTX, and what was executed of a program."""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Hashable, Mapping

import numpy as np

from .machine import Program
from .recording import Case, Launched
from .source import Kernel

#: Square roots start from it and end in a correction that makes them exact whatever it is off by (csrc/math/lanes.h).
APPROXIMATE = ("rsqrt.approx.ftz.f32", "rcp.approx.ftz.f32")


def different(
    case: Case, program_of: Callable[[Launched], Program], threads_of: Callable[[Launched], int]
) -> list[int]:
    """Runs a case's launches one after the other; which of its allocations are not as the case has them after."""
    held = dict(case.before)
    for launch in case.launches:
        memory = program_of(launch).launch(launch.ctas, threads_of(launch), launch.arguments, held)
        held = {address: memory.result(address).copy() for address in held}
    assert len(case.after) == len(case.before) == len(case.sums)
    return [
        i
        for i, (mine, theirs, is_sums) in enumerate(zip(held.values(), case.after, case.sums))
        if not (_sums_of(mine) == _sums_of(theirs) if is_sums else np.array_equal(mine, theirs))
    ]


def _sums_of(content: np.ndarray) -> list[tuple[int, int]]:
    """The integers of sums, and how many values were not finite, from their words."""
    words = np.frombuffer(content.tobytes(), np.int64).reshape(-1, 4).tolist()
    return [(low + (middle << 32) + (high << 64), broken) for low, middle, high, broken in words]


def report(title: str, programs: Mapping[Hashable, Program]) -> dict[Hashable, float]:
    """Prints which blocks were executed of each kernel, and what the others do; returns the shares."""
    print(f"\n{title}: blocks executed")
    shares = {}
    for name, program in programs.items():
        blocks = program.kernel.blocks
        missed = collections.Counter()
        for place, block in enumerate(blocks):
            if place not in program.covered:
                opcodes = [".".join(instruction.parts) for instruction in block.instructions]
                missed["64-bit division" if {"div.s64", "rem.s64"} & set(opcodes) else opcodes[0]] += 1
        shares[name] = len(program.covered) / len(blocks)
        words = ", ".join(f"{count} {what}" for what, count in missed.most_common(4))
        print(f"  {'' if name is None else name}: {len(program.covered)} of {len(blocks)}; not: {words or '-'}")
    return shares


def check_rounding(kernel: Kernel) -> None:
    """Fails where an instruction may be contracted, or is rounded otherwise than once to nearest."""
    for block in kernel.blocks:
        for instruction in block.instructions:
            name = ".".join(instruction.parts)
            if name in APPROXIMATE:
                continue
            assert not {"approx", "ftz", "full", "sat"} & set(instruction.parts), instruction.text
            if re.match(r"(add|sub|mul|fma|div|sqrt|rcp)\..*f(32|64)$", name):
                assert "rn" in instruction.parts, instruction.text
            assert not name.startswith(("sin", "cos", "ex2", "lg2", "tanh", "mad.f", "fma.f")), instruction.text

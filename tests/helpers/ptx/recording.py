"""The files that tests/ptx/recorded_*.cpp write: cases with their launches, and memory before and after."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

Allocations = dict[int, np.ndarray]


@dataclass
class Launched:
    """kernel: "step", "finish", "records", "noise", or a layer's and its instance. arguments: its parameters as they
    lie in memory."""

    kernel: str
    ctas: int
    arguments: bytes


@dataclass
class Case:
    """A call of an operator: before and after are what every allocation holds, in the same order.

    kind, rule, master and relative are of steps. relative: the parameters have measures. sums: which allocations hold
    words of sums, whose carries may differ.
    """

    name: str
    kind: str
    rule: int
    master: bool
    relative: bool
    before: Allocations
    sums: list[bool]
    launches: list[Launched] = field(default_factory=list)
    after: list[np.ndarray] = field(default_factory=list)


class _Reader:
    def __init__(self, data: memoryview) -> None:
        self.data, self.at = data, 0

    def number(self, code: str) -> int:
        (value,) = struct.unpack_from(f"<{code}", self.data, self.at)
        self.at += struct.calcsize(f"<{code}")
        return value

    def bytes(self) -> bytes:
        size = self.number("Q")
        self.at += size
        return bytes(self.data[self.at - size : self.at])

    def text(self) -> str:
        return self.bytes().decode()

    def pieces(self) -> list[tuple[int, bool, np.ndarray]]:
        """Address, whether words of sums lie there, and content; of pieces that hold anything."""
        found = []
        for _ in range(self.number("Q")):
            piece = self.number("Q"), bool(self.number("i")), np.frombuffer(self.bytes(), np.uint8)
            found += [piece] if len(piece[2]) else []
        return found


def cases(path: Path) -> Iterator[Case]:
    """All cases of a file, one after the other."""
    reader = _Reader(memoryview(path.read_bytes()))
    while (word := reader.text()) != "done":
        if word == "noise":
            ctas, arguments, address = reader.number("I"), reader.bytes(), reader.number("Q")
            after = np.frombuffer(reader.bytes(), np.uint8)
            before = {address: np.zeros_like(after)}
            yield Case("noise", "", 0, False, False, before, [False], [Launched("noise", ctas, arguments)], [after])
            continue
        of_step = word == "case"
        name, kind, rule, master, relative = reader.text(), "", 0, False, False
        if of_step:
            kind, rule = reader.text(), reader.number("i")
            master, relative = bool(reader.number("i")), bool(reader.number("i"))
        pieces = reader.pieces()
        before = {address: content for address, _, content in pieces}
        case = Case(name, kind, rule, master, relative, before, [is_sums for _, is_sums, _ in pieces])
        while (word := reader.text()) != "end":
            if word == "layer":
                word, ctas, arguments = reader.text(), reader.number("I"), reader.bytes()
            elif word in ("step", "finish"):
                ctas, arguments = reader.number("I"), reader.bytes()
            else:
                flags = bytes([reader.number("i"), reader.number("i")])
                ctas, arguments = 1, reader.bytes() + flags
            case.launches.append(Launched(word, ctas, arguments))
        case.after = [content for *_, content in reader.pieces()]
        yield case

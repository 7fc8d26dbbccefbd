"""nvcc's PTX as data: kernels, their parameters, shared memory and basic blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_ENTRY = re.compile(r"^(?:\.(?:visible|weak) )*\.entry (\S+?)\(\n(.*?)\n\)\n(.*?)^\{\n(.*?)^\}", re.M | re.S)
_PARAM = re.compile(r"\.param (?:\.align (\d+) )?\.(\w+) (\w+)(?:\[(\d+)\])?")
_SHARED = re.compile(r"\.shared \.align (\d+) \.(\w+) ([\w$]+)(?:\[(\d+)\])?;")
_LINE = re.compile(r"^(?:@(!?)(%p\d+) +)?([a-z]\w*(?:\.[\w:]+)*)\s*(.*);$")

#: Bytes of the types of PTX.
SIZES = {f"{kind}{bits}": bits // 8 for kind in "bsuf" for bits in (8, 16, 32, 64)}
#: Bytes between two variables in shared memory, so that an overrun of one does not land in the next.
GAP = 64


@dataclass
class Instruction:
    """One line: its number in the file, from 1, opcode parts, operands as text, and the predicate that guards it."""

    line: int
    text: str
    parts: list[str]
    operands: list[str]
    guard: str | None = None
    is_negated: bool = False


@dataclass
class Block:
    """Instructions that are run one after the other. The last may branch, return or wait at the barrier; otherwise the
    next block follows."""

    label: str
    instructions: list[Instruction] = field(default_factory=list)


@dataclass
class Kernel:
    """name: mangled. params: offset and size by name. shared: offset and size by name; blocks in their order."""

    name: str
    params: dict[str, tuple[int, int]]
    param_bytes: int
    shared: dict[str, tuple[int, int]]
    shared_bytes: int
    blocks: list[Block]

    def __post_init__(self) -> None:
        self.places = {block.label: place for place, block in enumerate(self.blocks)}


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def _operands(text: str) -> list[str]:
    """Separated by commas outside of braces and brackets."""
    parts = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*", text)
    return [part.strip() for part in parts]


def _blocks(body: str, first_line: int) -> list[Block]:
    blocks = [Block("entry")]
    for number, raw in enumerate(body.splitlines(), first_line):
        line = re.sub(r"//.*", "", raw).strip()
        if not line or line.startswith("."):
            continue
        if line.endswith(":"):
            if blocks[-1].instructions or blocks[-1].label == "entry":
                blocks.append(Block(line[:-1]))
            else:
                blocks[-1].label = line[:-1]  # what only followed a branch had no line of its own
            continue
        match = _LINE.match(line)
        if match is None:
            raise ValueError(f"cannot read PTX: {line}")
        negated, guard, opcode, rest = match.groups()
        blocks[-1].instructions.append(
            Instruction(number, line, opcode.split("."), _operands(rest), guard, negated == "!")
        )
        if opcode.split(".")[0] in ("bra", "ret", "bar", "exit"):
            blocks.append(Block(f"after {len(blocks)}"))
    return [block for block in blocks if block.instructions or not block.label.startswith(("after", "entry"))]


def kernels_of(ptx: str) -> dict[str, Kernel]:
    """All kernels of a file, by mangled name.

    Raises:
        ValueError: for a line that it cannot read.
    """
    found = {}
    for entry in _ENTRY.finditer(ptx):
        name, head, _, body = entry.groups()
        params, at = {}, 0
        for alignment, kind, param, count in _PARAM.findall(head):
            size = SIZES[kind] * int(count or 1)
            at = _aligned(at, int(alignment or SIZES[kind]))
            params[param] = (at, size)
            at += size
        shared, top = {}, 0
        for alignment, kind, variable, count in _SHARED.findall(body):
            top = _aligned(top + GAP, max(16, int(alignment)))
            shared[variable] = (top, SIZES[kind] * int(count or 1))
            top += shared[variable][1]
        first_line = ptx.count("\n", 0, entry.start(4)) + 1
        if ".local" in body:
            raise ValueError(f"{name} has a stack, which is not expected of these kernels")
        found[name] = Kernel(name, params, at, shared, top + GAP, _blocks(body, first_line))
    return found

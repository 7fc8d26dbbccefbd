"""Runs kernels of nvcc's PTX: all threads of a grid side by side as NumPy arrays.

Each basic block becomes a Python function once. Every thread has a program counter; of all threads that are not done,
those at the earliest block run it together, so threads that parted meet again. A barrier is passed when nobody of the
CTA can come to it any more without passing it.
"""

from __future__ import annotations

import collections
import struct
from collections.abc import Callable

import numpy as np

from . import arithmetic
from .memory import Bytes, Fault, Memory
from .source import SIZES, Block, Instruction, Kernel

DONE = np.int32(1 << 30)
#: Threads that a GPU runs together.
WARP = 32
#: Where a launch's arguments lie; no address of a process is there.
ARGUMENTS = 1 << 62
REGISTERS = {"rd": np.uint64, "rs": np.uint16, "r": np.uint32, "fd": np.float64, "f": np.float32, "p": np.bool_}
#: How a value of this type lies in its register.
HELD = {
    "b8": np.uint8, "u8": np.uint8, "s8": np.int8, "b16": np.uint16, "u16": np.uint16, "s16": np.int16,
    "b32": np.uint32, "u32": np.uint32, "s32": np.int32, "f32": np.float32, "b64": np.uint64, "u64": np.uint64,
    "s64": np.int64, "f64": np.float64, "f16": np.float16, "pred": np.bool_,
}  # fmt: skip
#: What atomic instructions do with the number in memory and their own.
ATOMIC = {"add": np.add, "max": np.maximum}


class Launch:
    """One launch: registers, shared memory and program counters of all its threads."""

    def __init__(self, program: Program, ctas: int, threads: int, memory: Memory) -> None:
        self.program, self.ctas, self.threads, self.memory = program, ctas, threads, memory
        count = ctas * threads
        self.thread = np.arange(count, dtype=np.int32)
        self.tid = (self.thread % threads).astype(np.uint32)
        self.ctaid = (self.thread // threads).astype(np.uint32)
        self.registers: dict[str, np.ndarray] = {}
        self.known: dict[str, np.ndarray] = {}
        kernel = program.kernel
        self.inside = np.zeros(kernel.shared_bytes + 16, bool)
        for offset, size in kernel.shared.values():
            self.inside[offset : offset + size] = True
        size = ctas * kernel.shared_bytes
        self.shared = Bytes(np.zeros(size, np.uint8), np.zeros(size, bool), ctas)
        self.pc = np.zeros(count, np.int32)
        self.waits = np.zeros(count, bool)

    def run(self) -> None:
        """To the end.

        Raises:
            Fault: what memory.py finds, registers without a value, a barrier that not all threads of a CTA come to.
        """
        with np.errstate(all="ignore"):
            while True:
                at = np.where(self.waits, DONE, self.pc)
                place = at.min()
                if place == DONE:
                    if not self.waits.any():
                        return
                    self._pass_barrier()
                    continue
                lanes = np.flatnonzero(at == place)
                self.program.covered.add(int(place))
                self.program.warps[int(place)] += np.count_nonzero(np.diff(lanes // WARP)) + 1
                try:
                    self.program.function(int(place))(self, lanes)
                except Fault as fault:
                    line = getattr(self, "line", "")
                    raise Fault(f"{fault} [{line}]") from None

    def _pass_barrier(self) -> None:
        places = self.pc[self.waits]
        if (places != places[0]).any():
            raise Fault("threads wait at different barriers")
        self.waits[:] = False
        for store in (self.shared, self.memory.bytes):
            store.epoch += 1

    def goto(self, lanes: np.ndarray, place: int) -> None:
        self.pc[lanes] = place

    def wait(self, lanes: np.ndarray, place: int) -> None:
        self.pc[lanes] = place
        self.waits[lanes] = True

    def get(self, name: str, lanes: np.ndarray) -> np.ndarray:
        if name not in self.registers or not self.known[name][lanes].all():
            raise Fault(f"reads {name}, which has no value")
        return self.registers[name][lanes]

    def put(self, name: str, lanes: np.ndarray, value: np.ndarray) -> None:
        kind = REGISTERS[name[1:].rstrip("0123456789")]
        if name not in self.registers:
            self.registers[name] = np.zeros(len(self.pc), kind)
            self.known[name] = np.zeros(len(self.pc), bool)
        value = np.asarray(value)
        if value.dtype != kind:  # bits in a register of another type, or narrower
            value = value.view(kind) if value.dtype.itemsize == np.dtype(kind).itemsize else value.astype(kind)
        self.registers[name][lanes] = value
        self.known[name][lanes] = True

    def load(self, space: str, kind: str, address: np.ndarray, lanes: np.ndarray, width: int) -> list[np.ndarray]:
        size = SIZES[kind]
        if space == "param":  # the launch's arguments, which nobody writes
            at = self.memory.locate(_addresses(address, lanes), size * width, size * width, writes=False)
            found = self.memory.bytes.content[at[:, None] + np.arange(size * width)]
        else:
            at, store = self._at(space, address, size * width, lanes, writes=False)
            found = store.read(at, size * width, self.thread[lanes], self.threads)
        values = np.ascontiguousarray(found).view(HELD[kind])
        return [values[:, i] for i in range(width)]

    def store(self, space: str, kind: str, address: np.ndarray, lanes: np.ndarray, values: list[np.ndarray]) -> None:
        size = SIZES[kind]
        columns = [self._stored(value, kind, len(lanes)) for value in values]
        at, store = self._at(space, address, size * len(values), lanes, writes=True)
        store.write(at, np.concatenate(columns, axis=1), self.thread[lanes], self.threads)

    @staticmethod
    def _stored(value: np.ndarray, kind: str, lanes: int) -> np.ndarray:
        held = np.dtype(HELD[kind])
        value = np.broadcast_to(value, lanes)
        if value.dtype.itemsize > held.itemsize:
            value = value.astype(np.dtype(f"u{held.itemsize}"))
        return np.ascontiguousarray(value).view(np.uint8).reshape(lanes, held.itemsize)

    def _at(self, space: str, address: np.ndarray, count: int, lanes: np.ndarray, *, writes: bool):
        address = _addresses(address, lanes)
        if space != "shared":
            return self.memory.locate(address, count, count, writes=writes), self.memory.bytes
        size = self.program.kernel.shared_bytes
        if (address + np.uint64(count) > size).any() or (address % np.uint64(count)).any():
            raise Fault("an access outside of shared memory, or not aligned")
        local = address.astype(np.int64)
        if not self.inside[local[:, None] + np.arange(count)].all():
            raise Fault("an access between two variables of shared memory")
        return self.ctaid[lanes].astype(np.int64) * size + local, self.shared

    def atomic(
        self, operation: np.ufunc, kind: str, address: np.ndarray, lanes: np.ndarray, value: np.ndarray
    ) -> np.ndarray:
        """One thread after the other, in the order of their numbers; races only with what is not atomic."""
        size = SIZES[kind]
        at, store = self._at("global", address, size, lanes, writes=True)
        old = np.zeros(len(lanes), HELD[kind])
        for i, place in enumerate(at):
            where = slice(place, place + size)
            self._check_atomic(store, int(place), size, lanes[i])
            held = store.content[where].view(HELD[kind])
            old[i] = held[0]
            held[:] = operation(held, np.broadcast_to(value, len(lanes))[i].astype(HELD[kind]))
        return old

    def _check_atomic(self, store: Bytes, place: int, size: int, lane: int) -> None:
        places = (place + np.arange(size))[None]
        thread = self.thread[lane : lane + 1]
        for who, when in ((store.writer, store.written_at), (store.reader, store.read_at)):
            store.check_others(who, when, places, thread, self.threads, "an atomic addition to what others use")


class Program:
    """A kernel made executable. ``covered``: which of its blocks were ever run. ``warps``: how many warps have run each
    block, if threads that parted meet again as soon as they can."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.covered: set[int] = set()
        self.warps: collections.Counter[int] = collections.Counter()
        self._functions: dict[int, Callable[[Launch, np.ndarray], None]] = {}

    def function(self, place: int) -> Callable[[Launch, np.ndarray], None]:
        """The block's function; made when it is first run."""
        if place not in self._functions:
            self._functions[place] = self._made(self.kernel.blocks[place], place)
        return self._functions[place]

    def launch(self, ctas: int, threads: int, arguments: bytes, allocations: dict[int, np.ndarray]) -> Memory:
        """Run it; returns the memory as it is afterwards.

        Raises:
            Fault: as Launch.run.
        """
        if len(arguments) != self.kernel.param_bytes:
            raise ValueError(f"{len(arguments)} bytes of arguments in place of {self.kernel.param_bytes}")
        given = np.frombuffer(arguments, np.uint8).copy()
        memory = Memory({**allocations, ARGUMENTS: given}, ctas, read_only=(ARGUMENTS,))
        Launch(self, ctas, threads, memory).run()
        return memory

    def _made(self, block: Block, place: int) -> Callable[[Launch, np.ndarray], None]:
        steps = [self._step(instruction, place) for instruction in block.instructions]
        texts = [instruction.text for instruction in block.instructions]
        ends = block.instructions[-1].parts[0] in ("bra", "ret", "exit", "bar") if block.instructions else False

        def run(launch: Launch, lanes: np.ndarray) -> None:
            if not ends:
                launch.goto(lanes, place + 1)
            for text, step in zip(texts, steps):
                launch.line = text
                step(launch, lanes)

        return run

    # Operands.

    def _value(self, operand: str, kind: str) -> Callable[[Launch, np.ndarray], np.ndarray]:
        held = HELD[kind]
        if operand == "%tid.x":
            return lambda launch, lanes: launch.tid[lanes]
        if operand == "%ctaid.x":
            return lambda launch, lanes: launch.ctaid[lanes]
        if operand.startswith("%"):
            return lambda launch, lanes: _seen_as(launch.get(operand, lanes), held)
        if operand.startswith(("0f", "0d")):
            code, size = (">f", 8) if operand[1] == "f" else (">d", 16)
            number = np.array(struct.unpack(code, bytes.fromhex(operand[2:].rjust(size, "0")))[0], held)
        elif operand in self.kernel.shared:
            number = np.array(self.kernel.shared[operand][0], np.uint64).astype(held)
        elif operand in self.kernel.params:
            number = np.array(ARGUMENTS + self.kernel.params[operand][0], np.uint64).astype(held)
        else:
            bits = int(operand, 0)
            wide = np.dtype(held).itemsize * 8
            number = np.array(
                bits % (1 << wide) if np.dtype(held).kind == "u" else bits != 0 if held is np.bool_ else bits
            )
            number = number.astype(held)
        return lambda launch, lanes: np.broadcast_to(number, len(lanes))

    def _address(self, operand: str) -> Callable[[Launch, np.ndarray], np.ndarray]:
        base, _, offset = operand.strip("[]").partition("+")
        extra = np.uint64(int(offset or 0) % (1 << 64))
        of_base = self._value(base, "u32" if base.startswith("%r") and not base.startswith("%rd") else "u64")
        return lambda launch, lanes: of_base(launch, lanes).astype(np.uint64) + extra

    # Instructions.

    def _step(self, instruction: Instruction, place: int) -> Callable[[Launch, np.ndarray], None]:
        plain = self._plain(instruction, place)
        guard, negated = instruction.guard, instruction.is_negated
        if guard is None:
            return plain

        def guarded(launch: Launch, lanes: np.ndarray) -> None:
            taken = launch.get(guard, lanes) != negated
            if instruction.parts[0] in ("bra", "ret", "exit"):
                launch.goto(lanes[~taken], place + 1)
            if taken.any():
                plain(launch, lanes[taken])

        return guarded

    def _plain(self, instruction: Instruction, place: int) -> Callable[[Launch, np.ndarray], None]:
        head, *parts = instruction.parts
        operands = instruction.operands
        if head == "bra":
            target = self.kernel.places[operands[-1]]
            return lambda launch, lanes: launch.goto(lanes, target)
        if head in ("ret", "exit"):
            return lambda launch, lanes: launch.goto(lanes, DONE)
        if instruction.parts == ["bar", "sync"] and operands == ["0"]:
            return lambda launch, lanes: launch.wait(lanes, place + 1)
        if head in ("ld", "st"):
            return self._access(head, parts, operands)
        if instruction.parts[:2] == ["atom", "global"] and len(parts) == 3 and parts[1] in ATOMIC:
            operation, kind = ATOMIC[parts[1]], parts[2]
            target, where, value = operands[0], self._address(operands[1]), self._value(operands[2], kind)

            def change(launch: Launch, lanes: np.ndarray) -> None:
                old = launch.atomic(operation, kind, where(launch, lanes), lanes, value(launch, lanes))
                launch.put(target, lanes, old)

            return change
        made = arithmetic.operation(tuple(instruction.parts))
        if made is None:
            raise NotImplementedError(f"PTX: {instruction.text}")
        function, kinds = made
        target, sources = operands[0], [self._value(o, kind) for o, kind in zip(operands[1:], kinds, strict=True)]
        return lambda launch, lanes: launch.put(target, lanes, function(*[s(launch, lanes) for s in sources]))

    def _access(self, head: str, parts: list[str], operands: list[str]) -> Callable[[Launch, np.ndarray], None]:
        kind = parts[-1]
        space = parts[0] if parts[0] in ("global", "shared", "param") else "generic"
        width = int(parts[-2][1]) if len(parts) > 1 and parts[-2] in ("v2", "v4") else 1
        if set(parts) - {space, kind, f"v{width}"}:
            raise NotImplementedError(f"PTX: {head}.{'.'.join(parts)}")
        data, place = (operands[0], operands[1]) if head == "ld" else (operands[1], operands[0])
        where = self._address(place)
        names = [name.strip() for name in data.strip("{}").split(",")]
        if head == "ld":

            def load(launch: Launch, lanes: np.ndarray) -> None:
                for name, value in zip(names, launch.load(space, kind, where(launch, lanes), lanes, width)):
                    launch.put(name, lanes, _widened(value, name))

            return load
        sources = [self._value(name, _held_by(name, kind)) for name in names]
        return lambda launch, lanes: launch.store(
            space, kind, where(launch, lanes), lanes, [source(launch, lanes) for source in sources]
        )


def _addresses(address: np.ndarray, lanes: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.asarray(address), len(lanes)).astype(np.uint64)


def _seen_as(value: np.ndarray, held: type) -> np.ndarray:
    """A register's bits as another type; of a wider register the low ones."""
    if value.dtype == held:
        return value
    wanted = np.dtype(held).itemsize
    if value.dtype.itemsize != wanted:
        value = value.astype(np.dtype(f"u{wanted}"))
    return np.ascontiguousarray(value).view(held)


def _widened(value: np.ndarray, name: str) -> np.ndarray:
    """As it lies in a wider register: with its sign if it has one."""
    held = np.dtype(REGISTERS[name[1:].rstrip("0123456789")])
    if value.dtype.itemsize == held.itemsize:
        return np.ascontiguousarray(value).view(held)
    signed = np.dtype(f"{value.dtype.kind}{held.itemsize}")
    return value.astype(signed).view(held)


def _held_by(name: str, kind: str) -> str:
    """The type in which a stored operand is read: its register's, or the access's for a number."""
    if not name.startswith("%"):
        return kind
    return {"rd": "u64", "rs": "u16", "r": "u32", "fd": "f64", "f": "f32"}[name[1:].rstrip("0123456789")]

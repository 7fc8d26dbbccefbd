"""What a step costs on a GPU, as a model has it: instructions, registers, bytes, and the bounds that follow.

No GPU. nvcc's PTX of a step is run in NumPy (ptx/machine.py) on launches of usual steps (tests/ptx/recorded_costs.cpp),
which tells how often each of its blocks is run. ptxas's machine code says of each instruction which line of PTX it is
for, so its blocks are counted, too, by the pipe that executes them. What is left out: waiting. A kernel reaches a bound
only if there is always a warp that can go on.

    python tests/helpers/gpu_model.py                          # prints
    python tests/helpers/gpu_model.py --write docs/gpus.md     # and puts the tables between the marks of a page

It needs nvcc, ptxas and nvdisasm (of a CUDA toolkit, or the one that Triton brings).
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ptx import recording, running
from ptx.machine import WARP, Program
from ptx.source import Kernel, kernels_of

ROOT = Path(__file__).parents[2]
THREADS = 128  # of a CTA
KINDS = ("float32", "float64", "bfloat16", "float16")
RULES = {
    -1: "noise alone", 0: "SGD", 1: "SGD, momentum", 2: "Adam", 3: "Adam, amsgrad", 4: "Lion",
}  # fmt: skip
STATES = {-1: 0, 0: 0, 1: 1, 2: 2, 3: 3, 4: 1}
BYTES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}
#: Operations that a multiprocessor starts in a cycle, by pipe, for each architecture (CUDA C++ Programming Guide,
#: "Throughput of native arithmetic instructions"; issue: four warps).
_RATES = {"issue": 128, "float": 128, "integer": 64, "special": 16, "float64": 64, "memory": 32}
RATES = {"80": {**_RATES, "float": 64, "float64": 32}, "90": _RATES}
#: The architecture of each GPU's code; multiprocessors, GHz (at which the data sheet's peak of float32 is reached) and
#: GB/s of its memory.
GPUS = {"A100": ("80", 108, 1.41, 2039), "H100": ("90", 132, 1.98, 3350), "H200": ("90", 132, 1.98, 4800)}
REGISTERS = 65536  # of a multiprocessor
#: Operations of the pipes, by the beginning of an instruction's name. Products of integers share a pipe with those of
#: float32, at half its rate on GPUs with 128 lanes, and are counted as integers.
PIPES = (
    ("float64", ("DADD", "DMUL", "DFMA", "DSETP")),
    ("special", ("MUFU", "F2F", "F2I", "I2F.", "I2F ", "F2FP")),
    ("float", ("FADD", "FMUL", "FFMA", "HFMA2", "HADD2", "HMUL2")),
    ("memory", ("LD", "ST", "ATOM", "RED")),
    ("integer", ("IADD", "IMAD", "VIADD", "LOP", "LEA", "SHF", "SEL", "ISETP", "FSETP", "FSEL", "PRMT", "IMNMX",
                 "VIMNMX", "FMNMX", "PLOP", "I2FP", "FCHK", "POPC", "SGXT", "P2R", "R2P")),
)  # fmt: skip
#: Between them a page has the table.
BEGIN, END = "<!-- cost model: make gpu-model -->", "<!-- end of cost model -->"
#: What only takes its turn, and begins like something else: copies, which several pipes can make; constants.
ISSUED = ("MOV", "IMAD.MOV", "CS2R", "LDC")


@dataclass
class Case:
    """An instance on a kind of launch: instructions a warp executes for 32 elements, by pipe ("issue": all), for each
    architecture; registers a thread for each; bytes that an element must cross the memory with."""

    title: str
    instructions: dict[str, dict[str, float]]
    registers: dict[str, int]
    bytes: int

    def picoseconds(self, gpu: str) -> dict[str, float]:
        """What each pipe, and the memory, needs for an element at least."""
        architecture, count, ghz, gigabytes = GPUS[gpu]
        counts = self.instructions[architecture]
        found = {pipe: counts[pipe] / rate / count / ghz * 1e3 for pipe, rate in RATES[architecture].items()}
        return {**found, "bandwidth": self.bytes / gigabytes * 1e3}

    def warps(self, architecture: str) -> int:
        """Resident on a multiprocessor, by registers."""
        rounded = -(-self.registers[architecture] // 8) * 8
        return min(64, REGISTERS // (rounded * WARP) // 4 * 4)


def bytes_of(kind: str, rule: int, master: bool) -> int:
    """What a step reads and writes of an element."""
    parameter = BYTES[kind]
    state = max(parameter, 4) if master else parameter
    own = state if master else parameter
    if rule == -1:  # a master is read, and its parameter written
        return own + parameter
    return 2 * own + parameter + 2 * STATES[rule] * state + (parameter if master else 0)


def nvdisasm() -> str | None:
    """The program's path, or None."""
    found = shutil.which("nvdisasm")
    if found is None and (spec := importlib.util.find_spec("triton")) is not None:
        path = Path(spec.submodule_search_locations[0]) / "backends/nvidia/bin/nvdisasm"
        found = str(path) if path.exists() else None
    return found


def missing() -> list[str]:
    """The programs that the model needs and that are not there."""
    needed = {name: shutil.which(name) for name in ("nvcc", "ptxas", os.environ.get("CXX", "c++").split()[0])}
    return [name for name, path in {**needed, "nvdisasm": nvdisasm()}.items() if path is None]


def _run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
    return done.stdout + done.stderr


def recorded(folder: Path) -> list[recording.Case]:
    """The launches that are counted."""
    compiler, program = os.environ.get("CXX", "c++").split()[0], folder / "costs"
    sources = (ROOT / "tests/ptx/recorded_costs.cpp", ROOT / "csrc/cpu/kernels_portable.cpp")
    _run(compiler, "-std=c++17", "-O1", "-ffp-contract=off", "-Wno-psabi", "-I", ROOT / "csrc", *sources, "-o", program)
    _run(program, folder / "costs.bin")
    return list(recording.cases(folder / "costs.bin"))


def blocks_of_code(listing: str) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """(kernel, [(instruction, line of PTX)]) of each basic block. Left out are subroutines, and what calls the slow way
    of a division or a root: usual numbers do not take it, though it is for the same line."""
    kernel, line, block, is_slow, is_subroutine = "", 0, [], False, False
    for text in listing.splitlines():
        if (start := re.match(r"\.text\.(\S+):|(\$)\S+:|\.L_x_\d+:", text)) is not None:
            if block:
                yield kernel, block
            block, is_slow = [], False
            if start[1] is not None:
                kernel = start[1]
            is_subroutine = start[1] is None and (is_subroutine or start[2] is not None)
        elif (where := re.search(r'//## File ".nv_debug_ptx_txt", line (\d+)', text)) is not None:
            line = int(where[1])
        elif (code := re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ +)?(\S+)", text)) is not None:
            if is_slow or is_subroutine:
                continue
            block.append((code[1], line))
            if code[1].startswith("CALL") and "slowpath" in text:
                block, is_slow = [], True  # to the next label
            elif code[1].startswith(("BRA", "EXIT", "RET", "CALL", "BRX")):
                yield kernel, block
                block = []


def pipe_of(opcode: str) -> str:
    """The pipe that is counted; "issue" for branches, barriers and what else only takes its turn."""
    if opcode.startswith(ISSUED):
        return "issue"
    return next((pipe for pipe, names in PIPES if f"{opcode} ".startswith(names)), "issue")


def instructions(listing: str, program: Program) -> dict[str, int]:
    """How many instructions the warps of what was run have executed, by pipe."""
    blocks = program.kernel.blocks
    ran = {each.line: program.warps[place] for place, block in enumerate(blocks) for each in block.instructions}
    found = dict.fromkeys(RATES["90"], 0)
    for name, block in blocks_of_code(listing):
        if name != program.kernel.name:
            continue
        # All of a block are executed together, but some have come from elsewhere: what most say counts.
        times = collections.Counter(ran.get(line, 0) for _, line in block).most_common(1)[0][0]
        for opcode, _ in block:
            found["issue"] += times
            if (pipe := pipe_of(opcode)) != "issue":
                found[pipe] += times
    return found


def of_kernel(name: str) -> tuple[int, bool] | None:
    """(rule, has master) of a step's mangled name."""
    match = re.search(r"step_kernelI.*?(Sgd|Adam|Lion|NoUpdate)(?:ILb([01])E)?E.*?Lb([01])ELb0E", name)
    if match is None:
        return None
    rules = {
        ("Sgd", "0"): 0,
        ("Sgd", "1"): 1,
        ("Adam", "0"): 2,
        ("Adam", "1"): 3,
        ("Lion", None): 4,
        ("NoUpdate", None): -1,
    }
    return rules[match[1], match[2]], match[3] == "1"


def of_code(
    folder: Path, kind: str
) -> tuple[dict[tuple[int, bool], Kernel], dict[str, dict[str, int]], dict[str, str]]:
    """The kernels of a storage type, and by architecture the registers of each and the listing of all."""
    ptx, source = folder / f"step_{kind}.ptx", ROOT / f"csrc/cuda/step_{kind}.cu"
    _run("nvcc", "-O3", "-std=c++17", "-fmad=false", "-lineinfo", "-arch=sm_90", "-ptx", "-o", ptx, source)
    text = ptx.read_text()
    kernels = {which: kernel for name, kernel in kernels_of(text).items() if (which := of_kernel(name)) is not None}
    registers, listings = {}, {}
    for architecture in RATES:
        # The compiler writes the same PTX for all of them; only its name of them differs.
        target = folder / f"{kind}_{architecture}.ptx"
        target.write_text(text.replace(".target sm_90", f".target sm_{architecture}"))
        cubin = target.with_suffix(".cubin")
        told = _run("ptxas", "-v", "-lineinfo", f"-arch=sm_{architecture}", target, "-o", cubin)
        used = re.findall(r"Compiling entry function '(\S+)'.*?Used (\d+) registers", told, re.DOTALL)
        registers[architecture] = {name: int(count) for name, count in used}
        listings[architecture] = _run(nvdisasm(), "-c", "-gp", cubin)
    return kernels, registers, listings


def measured(folder: Path, kinds: Sequence[str] = KINDS, rules: Collection[int] = tuple(RULES)) -> list[Case]:
    """All cases of these kinds of parameters and rules.

    Raises:
        RuntimeError: where a launch leaves other bytes than the CPU's kernels.
    """
    launches, found = recorded(folder), []
    for kind in kinds:
        kernels, registers, listings = of_code(folder, kind)
        for launch in launches:
            if launch.kind != kind or launch.rule not in rules:
                continue
            kernel = kernels[launch.rule, launch.master]
            program = Program(kernel)
            if running.different(launch, lambda _, program=program: program, lambda _: THREADS):
                raise RuntimeError(f"{launch.name}, {RULES[launch.rule]}: not what the CPU's kernels leave")
            elements = max(map(len, launch.before.values())) // (max(BYTES[kind], 4) if launch.master else BYTES[kind])
            counted = {
                architecture: {pipe: count * WARP / elements for pipe, count in instructions(listing, program).items()}
                for architecture, listing in listings.items()
            }
            options = [kind, RULES[launch.rule], "master weights" if launch.master else "", launch.name]
            found.append(
                Case(
                    ", ".join(filter(None, options)).removesuffix(", contiguous, independent"),
                    counted,
                    {architecture: used[kernel.name] for architecture, used in registers.items()},
                    bytes_of(kind, launch.rule, launch.master),
                )
            )
    return found


def row(case: Case) -> str:
    """A line of the table."""
    counts = case.instructions["90"]
    cells = [
        case.title,
        case.registers["90"],
        case.warps("90"),
        *(f"{counts[pipe]:.0f}" for pipe in RATES["90"]),
        case.bytes,
    ]
    for gpu in GPUS:
        needed = case.picoseconds(gpu)
        bandwidth = needed.pop("bandwidth")
        pipe = max(needed, key=lambda name: needed[name])
        binds = "memory" if bandwidth >= needed[pipe] else pipe
        cells.append(f"{max(bandwidth, needed[pipe]) * 25:.0f}, {binds} ({bandwidth / needed[pipe]:.2f})")
    return "| " + " | ".join(map(str, cells)) + " |"


def compiler() -> str:
    """nvcc's version."""
    return re.search(r"release \S+, (V\S+)", _run("nvcc", "--version"))[1]


def table(cases: Sequence[Case]) -> str:
    """Of all cases, in Markdown."""
    titles = ["float32", "integer", "special", "float64", "load, store"]
    head = ["step", "registers", "warps", "instructions", *titles, "bytes", *GPUS]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1), *map(row, cases)]
    return f"Compiled by nvcc {compiler()}.\n\n" + "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="a page with the marks, such as docs/gpus.md")
    page = parser.parse_args().write
    if (programs := missing()) != []:
        raise SystemExit(f"not on PATH: {', '.join(programs)} (nvdisasm comes with Triton, too: pip install triton)")
    with tempfile.TemporaryDirectory() as folder:
        text = table(measured(Path(folder)))
    print(text)
    if page is not None:
        before, rest = page.read_text().split(BEGIN)
        page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()

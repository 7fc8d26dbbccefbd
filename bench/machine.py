"""The machine and the software a figure was taken on, and the choice of instruction set."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import torch

import nvrm_fast
from nvrm_fast.ops.registry import _native

DEFAULT_THREADS = 2


def benchmarked_instruction_sets() -> list[str]:
    """Vector instruction sets of this processor, widest first; the portable one only where there is no other."""
    if _native is None:
        return []
    available = _native.available_instruction_sets()
    return [name for name in reversed(available) if name != "portable"] or available


def use_instruction_set(name: str | None) -> None:
    """Makes the native kernels use this instruction set from now on; None changes nothing."""
    if name is not None:
        _native.use_instruction_set(name)


@contextlib.contextmanager
def instruction_set_restored() -> Iterator[None]:
    """After the block the native kernels use again what they used before."""
    before = _native.instruction_set()
    try:
        yield
    finally:
        _native.use_instruction_set(before)


def processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # Linux only; elsewhere the platform's own word
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may run on, which on a shared machine are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_facts() -> dict[str, str]:
    """What belongs beside every figure, the time apart."""
    build = _native.build_facts()
    return {
        "processor": f"{processor_name()} ({platform.machine()})",
        "cores": str(usable_cores()),
        "threads used": str(torch.get_num_threads()),
        "instruction sets": ", ".join(_native.available_instruction_sets()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "nvrm_fast": nvrm_fast.__version__,
        "compiler": build["compiler"],
    }

"""Timing on a GPU: its own time by CUDA events, what a call costs the host, memory.

With NVRM_FAST_REHEARSAL=1 everything runs on the CPU with tiny sizes, to try the scripts out where there is no GPU; its
figures mean nothing and say so.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch

import nvrm_fast
from nvrm_fast.ops import registry

REHEARSAL = os.environ.get("NVRM_FAST_REHEARSAL") == "1"
DEVICE = torch.device("cpu" if REHEARSAL else "cuda")
ROUNDS, WARM_UP = (3, 1) if REHEARSAL else (21, 3)
CYCLES_A_SECOND = 2e9  # at most; a pause may be too long, not too short
LONGEST_PAUSE = 0.03
COPIED_ELEMENTS = 1 << (16 if REHEARSAL else 28)
PAST_THE_CACHE = 1 if REHEARSAL else 512 << 20  # bytes that the copies of a small list take together

Run = Callable[[], Any]


def synchronize() -> None:
    if not REHEARSAL:
        torch.cuda.synchronize()


def gpu_name() -> str:
    return "rehearsal on the CPU" if REHEARSAL else torch.cuda.get_device_name()


def seconds_on_the_gpu(runs: list[Run], host: float = 0.0) -> list[float]:
    """Of each round; the runs take turns. host: what a run costs the host: a pause of the GPU at the head of the queue
    lets the host run ahead by that, so that no launch is waited for."""
    taken = []
    pause = int(CYCLES_A_SECOND * min(5e-4 + 1.5 * host, LONGEST_PAUSE))
    for i in range(WARM_UP + ROUNDS):
        run = runs[i % len(runs)]
        if REHEARSAL:
            began = time.perf_counter()
            run()
            seconds = time.perf_counter() - began
        else:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(pause)
            start.record()
            run()
            end.record()
            end.synchronize()
            seconds = 1e-3 * start.elapsed_time(end)
        if i >= WARM_UP:
            taken.append(seconds)
    return taken


def host_seconds(run: Run) -> float:
    """What a call costs the host, launches only: the median."""
    taken = []
    for _ in range(9):
        synchronize()
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    synchronize()
    return statistics.median(taken)


def peak_extra_bytes(run: Run) -> int | None:
    """Memory that a call needs while it runs, beyond what is there before it; None in a rehearsal."""
    if REHEARSAL:
        run()
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def times(seconds: list[float]) -> dict[str, float]:
    return {"seconds": statistics.median(seconds), "fastest": min(seconds), "slowest": max(seconds)}


def copy_bytes_a_second() -> float:
    source = torch.empty(COPIED_ELEMENTS, device=DEVICE).normal_()
    target = torch.empty_like(source)
    return 2 * source.nbytes / statistics.median(seconds_on_the_gpu([lambda: target.copy_(source)]))


def facts() -> dict[str, str]:
    """The GPU, the driver and the software, which belong beside every figure."""
    native = registry._native.build_facts()["cuda"] if registry._native is not None else None
    return {
        "GPU": gpu_name(),
        "driver": driver(),
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda}",
        "Python, Triton": f"{platform.python_version()}, {version_of('triton')}",
        "nvrm_fast": f"{nvrm_fast.__version__}; native kernels: {native or 'not built'}",
        "rounds": f"{ROUNDS} after {WARM_UP}",
    }


def driver() -> str:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version,memory.total,clocks.max.sm,power.limit"]
        told = subprocess.run([*command, "--format=csv,noheader"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown ({type(error).__name__})"
    return told.stdout.strip().splitlines()[0] if told.returncode == 0 and told.stdout.strip() else "unknown"


def version_of(module: str) -> str:
    try:
        return __import__(module).__version__
    except ImportError:
        return "none"

"""Memory that a step takes, measured: by walking the optimizer's state, and at the peak of the resident set.

The peak is the operating system's count of pages that the process has really touched, so that it sees state,
temporaries of torch and whatever native code allocates, and nobody has to know where to look. It only ever rises,
so every measurement has a process of its own. That process is forked from a small server that has the libraries
loaded: a program started by a large process would inherit the large one's peak on Linux.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from .contestants import COMPILED, make_optimizer, state_bytes
from .parameter_lists import PARAMETER_LISTS, SMALL_LIST, copy_parameters, make_gradients, make_parameters

STEPS = 3


class Memory(NamedTuple):
    """Bytes: of the state's tensors, and by how much the peak rose over parameters and gradients (state included);
    None where that cannot be told."""

    state: int
    peak: int | None


def _peak_resident_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def lower_peak() -> int | None:
    """Sets the resident set's peak to what is resident now and returns that, in bytes; None where Linux is not."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return 1024 * int(status.split("VmRSS:")[1].split()[0])


def high_water() -> int:
    """The peak since lower_peak, in bytes."""
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def _measure(rule: str, variant: str, list_name: str, dtype: torch.dtype, threads: int) -> Memory:
    torch.set_num_threads(threads)

    # A few steps of a small list first: modules that torch imports late and thread pools are not the step's memory.
    def small_optimizer():
        small = make_parameters(SMALL_LIST, dtype)
        return make_optimizer(rule, variant, copy_parameters(small, make_gradients(small)))

    warm = small_optimizer()
    for _ in range(0 if variant == COMPILED else STEPS):
        warm.step()

    params = make_parameters(PARAMETER_LISTS[list_name], dtype)
    for param, gradient in zip(params, make_gradients(params)):
        param.grad = gradient
    optimizer = make_optimizer(rule, variant, params)
    if variant == COMPILED:
        # The compiler's own memory is not the step's: compile first, then look how far the steps go beyond.
        optimizer.step()
        before = lower_peak()
        optimizer.step()
        state = state_bytes(optimizer)
        return Memory(state, None if before is None else state + high_water() - before)
    before = _peak_resident_bytes()
    for _ in range(STEPS):
        optimizer.step()
    return Memory(state_bytes(optimizer), _peak_resident_bytes() - before)


def measure_memory(
    rule: str, variants: list[str], list_name: str, dtype: torch.dtype, threads: int
) -> dict[str, Memory]:
    """State and peak of each variant of a rule on a parameter list, each in a fresh process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with context.Pool(1, maxtasksperchild=1) as pool:
        return {
            variant: pool.apply(_measure, (rule, variant, list_name, dtype, threads))
            for variant in dict.fromkeys(variants)
        }

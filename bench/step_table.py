"""The table of steps: time, traffic and memory of every contestant of one rule on one parameter list."""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

import torch

from .compiled import OLD_NOISE
from .contention import waiting_share
from .contestants import COMPILED, FOR_LOOP, RULES, VARIABILITY, bytes_per_element, contestants, make_optimizer
from .gate import RedGate
from .machine import instruction_set_restored, use_instruction_set
from .measure import Entrant, paired_ratio, quartiles, round_robin
from .memory import measure_memory
from .parameter_lists import (
    ONE_TENSOR,
    PARAMETER_LISTS,
    RESNET34,
    copy_parameters,
    describe,
    element_count,
    make_gradients,
    make_parameters,
)

COPY = "copy_"
COPIED_ELEMENTS = 25_000_000  # 200 MB read and written: far beyond any cache


def copy_entrant() -> Entrant:
    """copy_ of a large float32 tensor onto another: what a plain stream through memory reaches."""
    source, target = torch.ones(COPIED_ELEMENTS), torch.zeros(COPIED_ELEMENTS)
    return Entrant(lambda: None, partial(target.copy_, source))


def copy_bandwidth(seconds: list[float]) -> float:
    """Bytes a second at the median, read and written bytes counted."""
    return 2 * 4 * COPIED_ELEMENTS / statistics.median(seconds)


def measure(rounds: int, threads: int) -> list[dict[str, Any]]:
    """Every table: both rules on both lists in float32, and on the network's in bfloat16."""
    cases = [(rule, list_name, torch.float32) for list_name in PARAMETER_LISTS for rule in RULES]
    cases += [(rule, RESNET34, torch.bfloat16) for rule in RULES]
    return [measure_steps(*case, rounds, threads) for case in cases]


def _check_compiled(rule: str, start: list[torch.Tensor], gradients: list[torch.Tensor]) -> None:
    """Under its noise the compiled algorithm must follow the plain rule, and there must be noise."""
    noisy, plain = copy_parameters(start, gradients), copy_parameters(start, gradients)
    compiled, expected = make_optimizer(rule, COMPILED, noisy), make_optimizer(rule, FOR_LOOP, plain)
    for _ in range(2):
        compiled.step()
        expected.step()
    for param, clean in zip(noisy, plain):
        old_noise = compiled.state[param][OLD_NOISE]
        deviation = float(old_noise.std())
        if not torch.allclose(param - old_noise, clean, rtol=0, atol=2e-6) or abs(deviation / VARIABILITY - 1) > 0.01:
            raise RedGate(f"NVRM-{rule} under torch.compile does not do what the published algorithm does")


def measure_steps(rule: str, list_name: str, dtype: torch.dtype, rounds: int, threads: int) -> dict[str, Any]:
    """One table as plain data: seconds, bytes and bytes a second; every time of every round is kept."""
    rows = contestants(rule, dtype, compiled=list_name == ONE_TENSOR)
    elements = element_count(PARAMETER_LISTS[list_name])
    # Memory first, while this process is small and leaves the machine to the measured ones.
    memory = measure_memory(rule, [row.variant for row in rows], list_name, dtype, threads)

    start = make_parameters(PARAMETER_LISTS[list_name], dtype)
    gradients = make_gradients(start)
    if any(row.variant == COMPILED for row in rows):
        _check_compiled(rule, start, gradients)
    optimizers = {
        variant: make_optimizer(rule, variant, copy_parameters(start, gradients))
        for variant in dict.fromkeys(row.variant for row in rows)
    }
    entrants = {
        row.name: Entrant(partial(use_instruction_set, row.instruction_set), optimizers[row.variant].step)
        for row in rows
    }
    with instruction_set_restored():
        seconds, waiting = round_robin({**entrants, COPY: copy_entrant()}, rounds)

    baseline = rows[0]
    # What the plain rule keeps anyway; all that is beyond it is extra.
    plain_state = memory[baseline.variant].state
    copied = copy_bandwidth(seconds[COPY])
    entries = []
    for row in rows:
        median = statistics.median(seconds[row.name])
        moved = bytes_per_element(rule, row.variant, dtype)
        entries.append(
            {
                "contestant": row.name,
                "seconds": quartiles(seconds[row.name])._asdict(),
                "ns an element": median * 1e9 / elements,
                "ratio": paired_ratio(seconds[row.name], seconds[baseline.name])._asdict(),
                "bytes to move an element": moved,
                "bytes a second": moved * elements / median,
                "fraction of copy": moved * elements / median / copied,
                "extra state bytes an element": (memory[row.variant].state - plain_state) / elements,
                "extra peak bytes an element": (
                    None if memory[row.variant].peak is None else (memory[row.variant].peak - plain_state) / elements
                ),
                "all seconds": seconds[row.name],
            }
        )
    return {
        "rule": rule,
        "title": _title(rule, list_name, dtype),
        "elements": elements,
        "baseline": baseline.name,
        "waiting": waiting_share(waiting),
        "copy bytes a second": copied,
        "copy all seconds": seconds[COPY],
        "rows": entries,
    }


def _title(rule: str, list_name: str, dtype: torch.dtype) -> str:
    name = "SGD with momentum 0.9" if rule == "SGD" else rule
    return f"{name}, {str(dtype).removeprefix('torch.')}, {describe(list_name)}"

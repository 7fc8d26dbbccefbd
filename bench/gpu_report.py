"""`python -m bench.gpu_report PART`: the steps on a GPU against torch's fused step, the published algorithm and a copy.

PART: facts (first: begins a run), steps, triton, compiled, graphs, memory. Small lists take turns over several copies
of everything, so that nothing is left in the L2 cache. Every row is written as soon as it is measured (gpu_results.py).
"""

from __future__ import annotations

import argparse
import gc
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from nvrm_fast.ops import registry

from .contestants import (
    COMPILED,
    FUSED,
    IN_PLACE,
    MASTER,
    PUBLISHED,
    RULES,
    VARIABILITY,
    bytes_per_element,
    state_bytes,
)
from .gpu_lists import gpu_lists
from .gpu_measure import (
    DEVICE,
    PAST_THE_CACHE,
    REHEARSAL,
    copy_bytes_a_second,
    facts,
    host_seconds,
    peak_extra_bytes,
    seconds_on_the_gpu,
    synchronize,
    times,
)
from .gpu_results import Results
from .parameter_lists import Shape, element_count

#: What has been promised comes first, in case the time runs out.
ORDER = ("one tensor, 100M", "ResNet-34", "transformer layer (7B)", "one tensor, 1000M", "ViT-L/16", "one tensor, 10M",
         "one tensor, 1M")  # fmt: skip
GRAPHED = ("ResNet-34", "one tensor, 1M", "ViT-L/16")


class Row(NamedTuple):
    name: str
    variant: str
    backend: str | None = None


def ours(rule: str, storage: str, backend: str) -> Row:
    return Row(f"NVRM{rule}, {storage}, {backend}", storage, backend)


def plain(rule: str, dtype: torch.dtype) -> Row:
    """The one that ratios are taken against. In 16 bits it does less than a step with float32 masters."""
    name = f"torch.optim.{rule}, fused"
    return Row(name if dtype == torch.float32 else f"{name}, all in 16 bits", FUSED)


def storages(dtype: torch.dtype) -> tuple[str, ...]:
    return (IN_PLACE, MASTER) if dtype == torch.float32 else (MASTER,)


def rows_of(part: str, rule: str, dtype: torch.dtype) -> list[Row]:
    """The rows that a part adds to a table of steps."""
    if part == "compiled":
        return [Row(f"published NVRM-{rule}, torch.compile", COMPILED)] if dtype == torch.float32 else []
    if part == "triton":
        return [ours(rule, storage, "triton") for storage in storages(dtype)]
    rows = [plain(rule, dtype)] + [ours(rule, storage, "native") for storage in storages(dtype)]
    return rows + ([Row(f"published NVRM-{rule}, eager", PUBLISHED)] if dtype == torch.float32 else [])


def make_optimizer(
    rule: str, row: Row, shapes: list[Shape], dtype: torch.dtype, **options: Any
) -> torch.optim.Optimizer:
    params = [torch.empty(shape, dtype=dtype, device=DEVICE).normal_() for shape in shapes]
    for param in params:
        param.grad = torch.empty_like(param).normal_()
    classes = RULES[rule]
    if row.variant == FUSED:
        return classes.torch(params, **classes.options, fused=True, **options)
    if row.variant in (PUBLISHED, COMPILED):
        kind = classes.published if row.variant == PUBLISHED else classes.compiled
        return kind(params, **classes.options, variability=VARIABILITY)
    return classes.nvrm(
        params,
        **classes.options,
        variability=VARIABILITY,
        master_weights=row.variant == MASTER,
        backend=row.backend,
        seed=0,
        **options,
    )


def measure_step(rule: str, row: Row, shapes: list[Shape], dtype: torch.dtype, copy: float) -> dict[str, Any]:
    elements = element_count(shapes)
    moved = elements * bytes_per_element(rule, row.variant, dtype)
    copies = max(1, min(64, math.ceil(PAST_THE_CACHE / moved)))
    optimizers = [make_optimizer(rule, row, shapes, dtype) for _ in range(copies)]
    runs: list[Callable[[], Any]] = [optimizer.step for optimizer in optimizers]
    for run in runs:
        run()  # creates the state
    host = host_seconds(runs[0])
    figures = times(seconds_on_the_gpu(runs, host))
    return {
        **figures,
        "bytes to move": moved,
        "bytes a second": moved / figures["seconds"],
        "of copy": moved / figures["seconds"] / copy,
        "host seconds": host,
        "extra state": state_bytes(optimizers[0]) / elements - RULES[rule].moments * dtype.itemsize,
        "extra peak": peak_extra_bytes(runs[0]),
    }


def measure_graph(rule: str, row: Row, shapes: list[Shape], dtype: torch.dtype) -> dict[str, Any]:
    """A replay of the captured step."""
    options = {} if row.variant == FUSED and rule == "SGD" else dict(capturable=True)
    optimizer = make_optimizer(rule, row, shapes, dtype, **options)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            optimizer.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    host = host_seconds(graph.replay)
    return {**times(seconds_on_the_gpu([graph.replay], host)), "host seconds": host}


def measure_memory(rule: str, row: Row, shapes: list[Shape], dtype: torch.dtype) -> dict[str, Any]:
    elements = element_count(shapes)
    before = 0 if REHEARSAL else torch.cuda.memory_allocated()
    optimizer = make_optimizer(rule, row, shapes, dtype)
    optimizer.step()
    synchronize()
    kept = state_bytes(optimizer) if REHEARSAL else torch.cuda.memory_allocated() - before
    return {"kept": kept / elements, "peak": (kept + (peak_extra_bytes(optimizer.step) or 0)) / elements}


class Case(NamedTuple):
    """One row of one table."""

    part: str
    title: str
    row: Row
    measure: Callable[[], dict[str, Any]]


def cases(part: str, copy: float) -> Iterator[Case]:
    lists = gpu_lists()
    if REHEARSAL:
        torch.set_num_threads(1)
        lists = {name: [tuple(min(n, 9) for n in shape) for shape in shapes[:9]] for name, shapes in lists.items()}
    for dtype in (torch.float32, torch.bfloat16):
        for name in ORDER:
            shapes = lists[name]
            for rule in RULES:
                title = f"{rule}, {name}, {str(dtype).removeprefix('torch.')}"
                if part in ("steps", "triton", "compiled"):
                    if part == "compiled" and len(shapes) > 1:  # one graph holds all tensors: it takes long to compile
                        continue
                    for row in rows_of(part, rule, dtype):
                        yield Case(
                            "steps", title, row,
                            lambda rule=rule, row=row, s=shapes, t=dtype: measure_step(rule, row, s, t, copy),
                        )  # fmt: skip
                elif part == "graphs" and name in GRAPHED:
                    for row in [plain(rule, dtype), ours(rule, storages(dtype)[0], "native")]:
                        yield Case(
                            "graphs", title, row,
                            lambda rule=rule, row=row, s=shapes, t=dtype: measure_graph(rule, row, s, t),
                        )  # fmt: skip
                elif part == "memory" and name == "ViT-L/16":
                    for row in rows_of("steps", rule, dtype):
                        yield Case(
                            "memory", title, row,
                            lambda rule=rule, row=row, s=shapes, t=dtype: measure_memory(rule, row, s, t),
                        )  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_report", description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("facts", "steps", "triton", "compiled", "graphs", "memory"))
    parser.add_argument("--results", type=Path, required=True, help="the JSON file of this GPU; the .md goes beside it")
    parser.add_argument("--seconds", type=float, default=600, help="begin no further row after this long")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    results = Results(options.results)
    if options.part == "facts":
        results.start(facts(), copy_bytes_a_second())
        return
    done = 0
    for case in cases(options.part, results.copy):
        if time.monotonic() - began > options.seconds:
            print(f"time was up after {done} rows, before {case.title}: {case.row.name}")
            break
        reason = None if case.row.backend is None else registry.why_missing("step_", case.row.backend, DEVICE.type)
        try:
            figures = {"failed": f"cannot serve: {reason}"} if reason else case.measure()
        except Exception as error:  # one row that fails is a row that says so; the others are still wanted
            figures = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"}
        baseline = case.row.variant == FUSED
        results.add(case.part, case.title, case.row.name, case.row.backend, figures, baseline)
        done += 1
        gc.collect()
        if not REHEARSAL:
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()

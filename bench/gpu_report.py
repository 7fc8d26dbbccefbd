"""`python -m bench.gpu_report`: the steps on a GPU against torch's fused step, a copy and the published algorithm.

Times are of the GPU alone, by CUDA events; a pause at the head of the queue lets the host run ahead, so that no launch
is waited for. Small lists take turns over several copies of everything, so that nothing is left in the L2 cache.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import nvrm_fast.optim
from nvrm_fast.ops import registry as backends

from .compiled import CompiledAdam
from .contestants import FUSED, IN_PLACE, MASTER, PUBLISHED, RULES, VARIABILITY, Rule, bytes_per_element
from .gpu_lists import gpu_lists
from .markdown import table
from .parameter_lists import Shape, element_count
from .published import PublishedAdam

RESULTS = Path(__file__).parent / "results"
ROUNDS, WARM_UP = 21, 3
PAST_THE_CACHE = 512 << 20  # bytes that the copies of a small list take together
CYCLES_A_SECOND = 2e9  # at most; a pause may be too long, not too short
LONGEST_PAUSE = 0.03
COPIED_ELEMENTS = 1 << 28

GPU_RULES: dict[str, Rule] = {
    **RULES,
    "AdamW": Rule(torch.optim.AdamW, PublishedAdam, CompiledAdam, nvrm_fast.optim.NVRMAdamW, dict(lr=1e-4), 2),
}


@dataclass(frozen=True)
class Row:
    name: str
    variant: str
    backend: str | None = None


def rows_for(rule: str, dtype: torch.dtype) -> list[Row]:
    """The first is the one that ratios are taken against."""
    plain = f"torch.optim.{rule}, fused"
    rows = [Row(plain if dtype == torch.float32 else f"{plain}, all in 16 bits", FUSED)]
    storages = (IN_PLACE, MASTER) if dtype == torch.float32 else (MASTER,)
    for backend, storage in itertools.product(("native", "triton"), storages):
        if backends.why_missing("sgd_step_", backend, "cuda") is None:
            rows.append(Row(f"NVRM{rule}, {storage}, {backend}", storage, backend))
    if dtype == torch.float32:
        rows.append(Row(f"published NVRM-{rule}, eager", PUBLISHED))
    return rows


def make_optimizer(rule: str, row: Row, shapes: list[Shape], dtype: torch.dtype) -> torch.optim.Optimizer:
    params = [torch.empty(shape, dtype=dtype, device="cuda").normal_() for shape in shapes]
    for param in params:
        param.grad = torch.empty_like(param).normal_()
    classes = GPU_RULES[rule]
    if row.variant == FUSED:
        return classes.torch(params, **classes.options, fused=True)
    if row.variant == PUBLISHED:
        return classes.published(params, **classes.options, variability=VARIABILITY)
    return classes.nvrm(
        params, **classes.options, variability=VARIABILITY, master_weights=row.variant == MASTER, backend=row.backend
    )


def seconds_on_the_gpu(runs: list[Callable[[], Any]], host: float = 0.0) -> list[float]:
    """Of each round; the runs take turns. host: what a run costs the host, which the pause is to cover."""
    taken = []
    pause = int(CYCLES_A_SECOND * min(5e-4 + 1.5 * host, LONGEST_PAUSE))
    for i in range(WARM_UP + ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(pause)
        start.record()
        runs[i % len(runs)]()
        end.record()
        end.synchronize()
        if i >= WARM_UP:
            taken.append(1e-3 * start.elapsed_time(end))
    return taken


def host_seconds(run: Callable[[], Any]) -> float:
    """What a call costs the host, launches only."""
    taken = []
    for _ in range(9):
        torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    torch.cuda.synchronize()
    return statistics.median(taken)


def peak_extra_bytes(run: Callable[[], Any]) -> int:
    """Memory that a step needs while it runs, beyond what is there before and after."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def copy_bytes_a_second() -> float:
    source = torch.empty(COPIED_ELEMENTS, device="cuda").normal_()
    target = torch.empty_like(source)
    seconds = statistics.median(seconds_on_the_gpu([lambda: target.copy_(source)]))
    return 2 * source.nbytes / seconds


def measure_row(rule: str, row: Row, shapes: list[Shape], dtype: torch.dtype) -> dict[str, Any]:
    elements = element_count(shapes)
    moved = elements * width_of(rule, row.variant, dtype)
    copies = max(1, min(64, -(-PAST_THE_CACHE // moved)))
    optimizers = [make_optimizer(rule, row, shapes, dtype) for _ in range(copies)]
    runs = [optimizer.step for optimizer in optimizers]
    for run in runs:
        run()  # creates the state
    host = host_seconds(runs[0])
    seconds = seconds_on_the_gpu(runs, host)
    median = statistics.median(seconds)
    return {
        "contestant": row.name,
        "seconds": median,
        "fastest": min(seconds),
        "slowest": max(seconds),
        "bytes to move": moved,
        "bytes a second": moved / median,
        "host seconds": host,
        "peak extra bytes": peak_extra_bytes(runs[0]),
    }


def width_of(rule: str, variant: str, dtype: torch.dtype) -> int:
    # AdamW moves what Adam moves.
    return bytes_per_element("Adam" if rule == "AdamW" else rule, variant, dtype)


def measure(rule: str, list_name: str, shapes: list[Shape], dtype: torch.dtype, copy: float) -> dict[str, Any]:
    measured = []
    for row in rows_for(rule, dtype):
        try:
            measured.append(measure_row(rule, row, shapes, dtype))
        except torch.cuda.OutOfMemoryError:
            measured.append({"contestant": row.name, "seconds": None})
        gc.collect()
        torch.cuda.empty_cache()
    first = measured[0]["seconds"]
    for found in measured:
        if found["seconds"] is not None:
            found["fraction of copy"] = found["bytes a second"] / copy
            found["ratio"] = found["seconds"] / first if first else None
    return {"rule": rule, "list": list_name, "dtype": str(dtype).removeprefix("torch."), "rows": measured}


def section(measured: dict[str, Any]) -> str:
    header = ["contestant", "ms", "(fastest to slowest)", "ratio to the first", "bytes to move", "GB/s", "of copy_"]
    header += ["host ms", "extra peak bytes"]
    lines = []
    for row in measured["rows"]:
        if row["seconds"] is None:
            lines.append([row["contestant"], "out of memory", *[""] * (len(header) - 2)])
            continue
        lines.append(
            [
                row["contestant"],
                f"{1e3 * row['seconds']:.3f}",
                f"{1e3 * row['fastest']:.3f} to {1e3 * row['slowest']:.3f}",
                "" if row["ratio"] is None else f"{row['ratio']:.3f}",
                f"{row['bytes to move']:_}".replace("_", " "),
                f"{1e-9 * row['bytes a second']:.0f}",
                f"{100 * row['fraction of copy']:.0f} %",
                f"{1e3 * row['host seconds']:.3f}",
                f"{row['peak extra bytes']:_}".replace("_", " "),
            ]
        )
    return f"## {measured['rule']}, {measured['list']}, {measured['dtype']}\n\n{table(header, lines)}\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_report", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=220, help="start no new table after this long")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    name = torch.cuda.get_device_name()
    copy = copy_bytes_a_second()
    compiled = backends._native.build_facts()["cuda"] if backends._native is not None else None
    facts = [
        f"# NVRM steps on {name}\n",
        f"- torch {torch.__version__}, CUDA {torch.version.cuda}; native kernels: {compiled or 'not built'}",
        f"- copy_ of {COPIED_ELEMENTS:_} float32 elements: {1e-9 * copy:.0f} GB/s, read and written bytes counted",
        f"- medians of {ROUNDS} rounds; bytes to move: what one pass over all that the algorithm keeps moves",
        "- extra peak bytes: memory that a step takes while it runs, beyond parameters, gradients and state\n",
    ]
    output = ["\n".join(facts)]
    print(output[0], flush=True)
    tables = []
    # What has been promised comes first, in case the time runs out.
    lists = sorted(gpu_lists().items(), key=lambda item: item[0] not in ("one tensor, 100M", "ResNet-34"))
    cases = [(dtype, entry, rule) for entry in lists for dtype in (torch.float32, torch.bfloat16) for rule in GPU_RULES]
    for dtype, (list_name, shapes), rule in cases:
        if time.monotonic() - began > options.seconds:
            output.append(f"Time was up before {rule}, {list_name}, {dtype}.\n")
            break
        tables.append(measure(rule, list_name, shapes, dtype, copy))
        output.append(section(tables[-1]))
        print(output[-1], flush=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name.lower().replace(' ', '-')}.md"
    path.write_text("\n".join(output), encoding="utf-8")
    everything = {"gpu": name, "torch": torch.__version__, "copy bytes a second": copy, "tables": tables}
    path.with_suffix(".json").write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    print(f"{time.monotonic() - began:.0f} s; written: {path.name}")


if __name__ == "__main__":
    main()

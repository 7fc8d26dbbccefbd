"""The operators in Triton: the arguments of nvrm_fast/reference, checked alike, in one launch for all parameters.

Records and step counters lie in the parameters' device memory and are read and written by the kernel, so that a
captured CUDA graph draws fresh noise at every replay and takes off what is there.

Tensors that are not contiguous in row-major order (channels_last weights among them) go through a contiguous copy and
back: correct, at the cost of that copy and its memory.
"""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from ..contract.arguments import Arguments, MeasureArguments, ReperturbArguments, StepArguments
from ..contract.checks import check_fill, check_measure, check_reperturb, check_step
from ..contract.measures import SUM_WORDS
from ..contract.rules import RULES
from . import kernels
from .rule import NO_RULE
from .table import Header, launch

TYPES = {
    torch.float32: tl.float32, torch.float64: tl.float64, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16,
}  # fmt: skip


def fill_noise_(self: Tensor, seed: int, stream: int, step: int, distribution: int, scale: float, offset: int) -> None:
    """Overwrites a contiguous float32 tensor with elements offset .. offset + numel of one noise stream.

    Raises TypeError or ValueError for another dtype, other strides, a negative offset or an unknown distribution.
    """
    check_fill(self, stream, distribution, offset)
    header = Header(seed=seed, stream=stream, step=step, scale=float(scale))
    columns = {"parameter": [self.data_ptr()]}
    launch(
        kernels.fill_noise_kernel, self.device, header, columns, [self.numel()], [offset], DISTRIBUTION=distribution
    )  # fmt: skip
    if not self.is_inference():
        torch.autograd.graph.increment_version(self)


def _lines(a: Arguments) -> list[tuple[int, int, int, int]]:
    """One line of the table for each parameter, or for each run of a shard that lies in pieces: the parameter, its
    first element, how many there are, their offset."""
    numels = [x.numel() for x in a.params]
    if not any(a.run_lengths):
        return [(i, 0, numel, offset) for i, (numel, offset) in enumerate(zip(numels, a.offsets))]
    return [
        (i, k * length, length or numel, offset + k * stride)
        for i, (numel, offset, length, stride) in enumerate(zip(numels, a.offsets, a.run_lengths, a.run_strides))
        for k in range(max(numel // length, 1) if length else 1)
    ]


def _measure_columns(a: Arguments, lines: list[tuple[int, int, int, int]]) -> tuple[dict[str, list[int]], Tensor]:
    """What the table says of the parameters' measures, and the memory that their sums are collected in."""
    rows = [x.shape[1] for x in a.measures]
    scratch = torch.zeros(sum(rows), SUM_WORDS, dtype=torch.int64, device=a.params[0].device)
    sums = [part.data_ptr() for part in scratch.split(rows)]
    left = [x.data_ptr() for x in getattr(a, "sums", ())] or [0] * len(rows)
    own = {
        "measures": [x.data_ptr() for x in a.measures],
        "rows": rows,
        "row_length": a.row_lengths,
        "count": [x.numel() // n for x, n in zip(a.params, rows)],
        "sums": sums,
        "left": left,
    }
    return {name: [values[i] for i, *_ in lines] for name, values in own.items()}, scratch


def _run(a: Arguments, header: Header, written: dict[str, list[Tensor]], read: dict[str, list[Tensor]],
         words: dict[str, list[Tensor]], kernel: Any = kernels.step_kernel, **constants: Any) -> None:  # fmt: skip
    """Runs a kernel on tensors of any strides; all arguments are checked.

    written, read: columns of tensors with a parameter's elements; words: columns of records and numbers.
    """
    copies = {name: [x.contiguous() for x in tensors] for name, tensors in {**written, **read}.items() if tensors}
    lines = _lines(a)
    columns = {
        name: [tensors[i].data_ptr() + begin * tensors[i].element_size() for i, begin, _, _ in lines]
        for name, tensors in copies.items()
    }
    for name, tensors in words.items():
        columns[name] = [tensors[i].data_ptr() for i, *_ in lines]
    first_line: dict[int, int] = {}
    columns["owner"] = [first_line.setdefault(i, line) for line, (i, *_) in enumerate(lines)]
    scratch = None
    if a.measures:
        own, scratch = _measure_columns(a, lines)
        columns |= own
    dtype = a.params[0].dtype
    launch(
        kernel, a.params[0].device, header, columns, [numel for _, _, numel, _ in lines],
        [offset for *_, offset in lines], DTYPE=TYPES[dtype],
        MATH=tl.float64 if dtype == torch.float64 else tl.float32, WITH_MASTERS=bool(a.masters), **constants,
    )  # fmt: skip
    for name, tensors in written.items():
        for tensor, copy in zip(tensors, copies.get(name, ())):
            if copy is not tensor and copy.data_ptr() != tensor.data_ptr():
                tensor.copy_(copy)
    # The kernel writes behind autograd's back; whoever saved such a tensor for backward must hear of it.
    changed = [*a.measures, *getattr(a, "sums", ())] if getattr(a, "measure", 0) else []
    records = words.get("record", []) if kernel is kernels.step_kernel else []
    for tensors in (*written.values(), records, words.get("step", []), changed):
        torch.autograd.graph.increment_version([x for x in tensors if not x.is_inference()])


def step_(*args: Any) -> None:
    """One step of an update rule; arguments and errors as nvrm_fast.reference.step_."""
    a = StepArguments(*args)
    check_step(a)
    if not a.params:
        return
    n, states = len(a.params), len(RULES[a.rule].states)
    steps = a.steps
    if len({step.data_ptr() for step in steps}) < n:  # counters that parameters share: all are read before one counts
        steps = [step.clone() for step in steps]
    words = {"step": steps, "record": a.records}
    if a.scale_tensors:
        words["scale"] = a.scale_tensors
    _run(
        a,
        Header(
            seed=a.seed,
            scale=float(a.scale),
            denoise_every=a.denoise_every,
            pointers=[0 if x is None else x.data_ptr() for x in (a.hyper_tensor, a.grad_scale, a.found_inf)],
            cycle=a.cycle,
            hyper=a.hyper,
        ),
        written={
            "parameter": a.params,
            "master": a.masters,
            **{f"state_{k}": a.states[k * n : (k + 1) * n] for k in range(states)},
        },
        read={"gradient": a.grads},
        words=words,
        RULE=a.rule,
        STATES=states,
        KEEP_NOISE=bool(a.keep_noise),
        DISTRIBUTION=a.distribution,
        SCALED=a.grad_scale is not None,
        WITH_MEASURES=bool(a.measures),
        MEASURE=a.measure,
        ONE_DRAW=bool(a.cycle) and not a.masters,
    )
    if steps is not a.steps:
        for step, counted in zip(a.steps, [counted - step for step, counted in zip(a.steps, steps)]):
            step.add_(counted)


def reperturb_(*args: Any) -> None:
    """Takes noise off and puts other noise on; arguments and errors as nvrm_fast.reference.reperturb_."""
    a = ReperturbArguments(*args)
    check_reperturb(a)
    if a.params:
        _run(
            a,
            Header(),
            written={"parameter": a.params},
            read={"master": a.masters},
            words={"record": a.records, "target": a.targets},
            RULE=NO_RULE.value,
            STATES=0,
            KEEP_NOISE=False,
            DISTRIBUTION=0,
            SCALED=False,
            WITH_MEASURES=bool(a.measures),
            MEASURE=0,
            ONE_DRAW=False,
        )


def measure_(*args: Any) -> None:
    """Measures clean weights; arguments and errors as nvrm_fast.reference.measure_."""
    a = MeasureArguments(*args)
    check_measure(a)
    if a.params:
        _run(
            a,
            Header(),
            written={},
            read={"parameter": a.params, "master": a.masters},
            words={"record": a.records},
            kernel=kernels.measure_kernel,
            MEASURE=a.measure,
            ONLY_CLEAN=bool(a.only_clean),
        )

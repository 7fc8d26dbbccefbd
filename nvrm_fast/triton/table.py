"""The host side: fills the pointer table (layout.py) and launches one kernel for the whole list of parameters."""

from __future__ import annotations

import functools
from array import array
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..reference.noise import SUPERBLOCK
from .layout import COLUMNS, HYPER_WORDS, PROGRAM_SUPERBLOCKS, WARPS

#: Pinned tables that captured CUDA graphs copy from at every replay: they must outlive the graph, whose end nobody
#: tells us. A few kilobytes for each captured launch.
_captured: list[Tensor] = []


@functools.lru_cache(maxsize=16)
def plan_programs(numels: tuple[int, ...], offsets: tuple[int, ...]) -> tuple[Tensor, int]:
    """Which stretch each program serves: every superblock of every tensor exactly once.

    Returns int64 words on the CPU (the tensor of each program, then the first superblock of each) and their number of
    programs. Empty tensors get none.
    """
    first = torch.tensor([offset // SUPERBLOCK for offset in offsets], dtype=torch.int64)
    last = torch.tensor([-(-(offset + numel) // SUPERBLOCK) for numel, offset in zip(numels, offsets)])
    length = PROGRAM_SUPERBLOCKS.value
    counts = torch.where(torch.tensor(numels) > 0, (last - first + length - 1) // length, 0)
    tensor = torch.repeat_interleave(torch.arange(len(numels)), counts)
    place = torch.arange(len(tensor)) - (counts.cumsum(0) - counts)[tensor]
    return torch.cat([tensor, first[tensor] + length * place]), len(tensor)


def integers(values: Sequence[int]) -> Tensor:
    """int64 words of integers; addresses and seeds fit."""
    return torch.frombuffer(array("q", values), dtype=torch.int64)


def reals(values: Sequence[float]) -> Tensor:
    """int64 words with the bits of float64 numbers."""
    return torch.frombuffer(array("d", values), dtype=torch.int64)


def _words(values: Sequence) -> Tensor:
    return reals(values) if isinstance(values[0], float) else integers(values)


def upload(parts: list[Tensor], device: torch.device) -> Tensor:
    """The parts, one after the other, on `device`: one copy, for which the host does not wait."""
    if device.type == "cpu":
        return torch.cat(parts)
    pinned = torch.empty(sum(len(part) for part in parts), dtype=torch.int64, pin_memory=True)
    torch.cat(parts, out=pinned)
    if torch.cuda.is_current_stream_capturing():
        _captured.append(pinned)
    return pinned.to(device, non_blocking=True)


def launch(
    kernel: Any, device: torch.device, columns: dict[str, Sequence], numels: list[int], offsets: list[int], seed: int,
    coat_seed: int = 0, hyper: Sequence[float] = (), bias: Sequence[float] = (0.0, 0.0, 0.0),
    scaling: Sequence[int] = (0, 0), **constants: Any,
) -> None:  # fmt: skip
    """Launches `kernel` over tensors of `numels` elements that begin at global index `offsets`.

    columns: one int or float a tensor for names of layout.COLUMNS; the rest are 0. seeds: 64 bits in two's complement.
    scaling: addresses of grad_scale and found_inf, or 0.
    constants: what the kernel is compiled for.
    """
    programs, count = plan_programs(tuple(numels), tuple(offsets))
    if count == 0:
        return
    n = len(numels)
    columns = {**columns, "numel": numels, "offset": offsets}
    hyper = [*hyper, *[0.0] * (HYPER_WORDS - len(hyper))]
    parts = [integers([n, seed, coat_seed]), reals([*hyper, *bias]), integers(scaling)]
    parts += [_words(columns.get(name) or [0] * n) for name in COLUMNS]

    def start() -> None:
        # Contraction of a * b + c is off: the contract says where an fma is. One stage: nothing here is a pipeline.
        table = upload([*parts, programs], device)
        kernel[(count,)](table, **constants, num_warps=WARPS, num_stages=1, enable_fp_fusion=False)

    if device.type == "cuda":
        with torch.cuda.device(device):
            start()
    else:
        start()

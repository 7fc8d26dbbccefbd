"""The host side: fills the pointer table (layout.py) and launches one kernel for the whole list of parameters."""

from __future__ import annotations

import functools
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..reference.noise import SUPERBLOCK
from .layout import COLUMNS, HYPER_WORDS, PROGRAM_SUPERBLOCKS, WARPS

#: Pinned tables that captured CUDA graphs copy from at every replay: they must outlive the graph, whose end nobody
#: tells us. A few kilobytes for each captured launch.
_captured: list[Tensor] = []


@functools.lru_cache(maxsize=16)
def plan_programs(numels: tuple[int, ...], offsets: tuple[int, ...]) -> tuple[Tensor, list[int]]:
    """Which stretch each program serves: every superblock of every tensor exactly once.

    Returns int64 words on the CPU (the tensor of each program, then the first superblock of each) and the number of
    each tensor's programs. Empty tensors get one, which counts their step.
    """
    first = torch.tensor([offset // SUPERBLOCK for offset in offsets], dtype=torch.int64)
    last = torch.tensor([-(-(offset + numel) // SUPERBLOCK) for numel, offset in zip(numels, offsets)])
    length = PROGRAM_SUPERBLOCKS.value
    counts = torch.clamp((last - first + length - 1) // length, min=1)
    tensor = torch.repeat_interleave(torch.arange(len(numels)), counts)
    place = torch.arange(len(tensor)) - (counts.cumsum(0) - counts)[tensor]
    return torch.cat([tensor, first[tensor] + length * place]), counts.tolist()


def integers(values: Sequence[int]) -> Tensor:
    """int64 words of integers; addresses and seeds fit."""
    return torch.frombuffer(array("q", values), dtype=torch.int64)


def reals(values: Sequence[float]) -> Tensor:
    """int64 words with the bits of float64 numbers."""
    return torch.frombuffer(array("d", values), dtype=torch.int64)


def upload(parts: list[Tensor], device: torch.device) -> Tensor:
    """The parts, one after the other, on `device`: one copy, for which the host does not wait."""
    if device.type == "cpu":
        return torch.cat(parts)
    pinned = torch.empty(sum(len(part) for part in parts), dtype=torch.int64, pin_memory=True)
    torch.cat(parts, out=pinned)
    if torch.cuda.is_current_stream_capturing():
        _captured.append(pinned)
    return pinned.to(device, non_blocking=True)


class Header(NamedTuple):
    """The header's words, by the names of layout.py."""

    seed: int = 0  # 64 bits in two's complement
    stream: int = 0
    step: int = 0
    scale: float = 0.0
    denoise_every: int = 0
    pointers: Sequence[int] = (0, 0, 0)  # of hyper-parameters, grad_scale and found_inf
    cycle: bool = False
    hyper: Sequence[float] = ()

    def words(self, count: int) -> list[Tensor]:
        return [
            integers([count, self.seed, self.stream, self.step]),
            reals([self.scale]),
            integers([self.denoise_every, *self.pointers, int(self.cycle)]),
            reals([*self.hyper, *[0.0] * (HYPER_WORDS - len(self.hyper))]),
        ]


def launch(
    kernel: Any, device: torch.device, header: Header, columns: dict[str, Sequence[int]], numels: list[int],
    offsets: list[int], **constants: Any,
) -> None:  # fmt: skip
    """Launches `kernel` over at least one tensor, of `numels` elements that begin at global index `offsets`.

    columns: one word a tensor for names of layout.COLUMNS; the rest are 0, and `programs` is filled in here.
    constants: what the kernel is compiled for.
    """
    n = len(numels)
    if n == 0:
        return
    programs, counts = plan_programs(tuple(numels), tuple(offsets))
    owned = [0] * n
    for owner, count in zip(columns.get("owner", range(n)), counts):
        owned[owner] += count
    columns = {**columns, "numel": numels, "offset": offsets, "programs": owned}
    parts = header.words(n) + [integers(columns.get(name) or [0] * n) for name in COLUMNS]

    def start() -> None:
        # Contraction of a * b + c is off: the contract says where an fma is. One stage: nothing here is a pipeline.
        table = upload([*parts, programs], device)
        kernel[(sum(counts),)](table, **constants, num_warps=WARPS, num_stages=1, enable_fp_fusion=False)

    if device.type == "cuda":
        with torch.cuda.device(device):
            start()
    else:
        start()

"""The noise contract: every value is a function of (seed, stream, step, element), and of nothing else.

value = distribution(Philox4x32-7(key = seed, counter = (block_low, block_high, stream, step)), lane)

Noise that comes in cycles (contract/cycles.py) is such a value, too, that of the other lane of its word or one with its
sign turned.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..contract.checks import check_fill
from .distribution import BY_CODE, turned
from .philox import MASK, philox4x32
from .special_functions import rounded

#: One superblock is 16 blocks; each gives four words, each word two values: 128 elements, a value's row of 16
#: neighbors from 16 consecutive blocks.
SUPERBLOCK = 128
BLOCKS = 16
#: The reference works on so many superblocks at a time: it trades a few hundred bytes an element for being readable.
CHUNK = 4096


def _superblocks(
    first: int, count: int, seed: int, stream: int, step: int, distribution: int, turn: int, device
) -> Tensor:  # fmt: skip
    """Unit-scale noise of whole superblocks: float32, shape (count * 128,)."""
    block = torch.arange(BLOCKS * first, BLOCKS * (first + count), dtype=torch.int64, device=device)
    counter = (block & MASK, (block >> 32) & MASK, stream, step & MASK)
    words = philox4x32(counter, (seed & MASK, (seed >> 32) & MASK))
    values = [value for word in words for value in turned(*BY_CODE[distribution](word), turn)]
    # values[lane][block] -> element 128 s + 16 lane + j, for block 16 s + j
    return torch.stack([value.view(count, BLOCKS) for value in values], dim=1).flatten()


def noise(
    numel: int, *, seed: int, stream: int, step: int, distribution: int, scale: float, offset: int, turn: int = 0,
    device="cpu",
) -> Tensor:  # fmt: skip
    """Elements offset .. offset + numel of one stream at one step, turned: float32, shape (numel,)."""
    out = torch.empty(numel, dtype=torch.float32, device=device)
    scale = rounded(scale, torch.float32)
    first, last = offset // SUPERBLOCK, -(-(offset + numel) // SUPERBLOCK)
    for begin in range(first, last, CHUNK):
        count = min(CHUNK, last - begin)
        chunk = _superblocks(begin, count, seed, stream, step, distribution, turn, device) * scale
        start = begin * SUPERBLOCK
        low, high = max(start, offset), min(start + count * SUPERBLOCK, offset + numel)
        out[low - offset : high - offset] = chunk[low - start : high - start]
    return out


def noise_at(index: Tensor, key: Tensor, stream: int, step: int, distribution: int) -> Tensor:
    """Unit-scale noise at the elements `index` (int64, any shape) of one stream: float32 of that shape.

    key: int64 of shape (2,), the low and the high 32 bits of the seed. A tensor, so that a key drawn on a GPU never
    travels to the CPU.
    """
    superblock, place = index // SUPERBLOCK, index % SUPERBLOCK
    lane, block = place // BLOCKS, BLOCKS * superblock + place % BLOCKS
    words = torch.stack(philox4x32((block & MASK, (block >> 32) & MASK, stream, step), (key[0], key[1])))
    word = words.gather(0, (lane // 2).unsqueeze(0)).squeeze(0)
    first, second = BY_CODE[distribution](word)
    return torch.where(lane % 2 == 0, first, second)


def fill_noise_(self: Tensor, seed: int, stream: int, step: int, distribution: int, scale: float, offset: int) -> None:
    """Overwrites a float32 tensor with noise; see `noise`."""
    check_fill(self, stream, distribution, offset)
    self.copy_(
        noise(
            self.numel(), seed=seed, stream=stream, step=step, distribution=distribution,
            scale=scale, offset=offset, device=self.device,
        ).view_as(self)
    )  # fmt: skip


def add_noise(
    clean: Tensor, *, seed: int, stream: int, step: int, distribution: int, scale: float, offset: int,
    turn: int = 0, run_length: int = 0, run_stride: int = 0, row_scales: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """clean + noise, element by element in row-major order; clean itself where scale is 0, down to the sign of zero.

    run_length: clean is a shard that lies in runs of so many elements, run_stride apart; 0: in one piece.
    row_scales: float32, a factor for each element in row-major order.
    """
    if rounded(scale, torch.float32) == 0:
        return clean
    where: dict[str, Any] = dict(
        seed=seed, stream=stream, step=step, distribution=distribution, scale=scale, turn=turn, device=clean.device
    )
    if run_length == 0:
        draw = noise(clean.numel(), offset=offset, **where)
    else:
        runs = range(clean.numel() // run_length)
        draw = torch.cat([noise(0, offset=0, **where)] + [
            noise(run_length, offset=offset + k * run_stride, **where) for k in runs
        ])  # fmt: skip
    if row_scales is not None:
        draw = draw * row_scales
    return clean + draw.view(clean.shape).to(clean.dtype)

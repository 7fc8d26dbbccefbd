"""Noise that belongs to an example: elements of a stream picked by index, so that nothing is stored.

The noise contract's parameter layout, read at any elements in any order: example k of a stream with n nodes has the
elements k * n .. k * n + n - 1, and `nvrm_fast.noise(n, ..., offset=k * n)` returns the same bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nvrm_fast.reference.distribution import BY_CODE
from nvrm_fast.reference.noise import BLOCKS, SUPERBLOCK
from nvrm_fast.reference.philox import MASK, philox4x32


def elements(index: Tensor, key: Tensor, *, stream: int, step: int = 0, distribution: int = 0) -> Tensor:
    """Unit-scale noise at the elements `index` of one stream.

    Args:
        index: int64, any shape, on any device; element indices, not negative.
        key: int64 of shape (2,) on the device of `index`: the low and the high 32 bits of the seed. A tensor, so that
            a key drawn on a GPU never travels to the CPU.
        stream: which tensor draws, in [0, 2^32).
        step: which draw, in [0, 2^32).
        distribution: a code of `nvrm_fast.reference.DISTRIBUTIONS`.

    Returns:
        float32 of the shape of `index`.
    """
    superblock, place = index // SUPERBLOCK, index % SUPERBLOCK
    lane, block = place // BLOCKS, BLOCKS * superblock + place % BLOCKS
    words = torch.stack(philox4x32((block & MASK, (block >> 32) & MASK, stream, step), (key[0], key[1])))
    word = words.gather(0, (lane // 2).unsqueeze(0)).squeeze(0)
    first, second = BY_CODE[distribution](word)
    return torch.where(lane % 2 == 0, first, second)


def key_of_seed(seed: int, device: torch.device | str = "cpu") -> Tensor:
    """The 64 bits of a seed as the key that `elements` takes: int64 of shape (2,)."""
    return torch.tensor([seed & MASK, seed >> 32], dtype=torch.int64, device=device)


def drawn_key(device: torch.device | str = "cpu") -> Tensor:
    """One 64-bit key from torch's generator for the device, kept on the device: int64 of shape (2,)."""
    return torch.randint(2**32, (2,), dtype=torch.int64, device=device)


def example_noise(examples: Tensor, nodes: int, key: Tensor, *, stream: int, distribution: int = 0) -> Tensor:
    """Unit-scale noise of so many nodes for each example: float32 of shape (len(examples), nodes).

    Args:
        examples: int64 of shape (N,), the examples' indices.
        nodes: values an example.
        key, stream, distribution: as `elements` takes them; the step is 0, since an example keeps its values.
    """
    places = examples.unsqueeze(1) * nodes + torch.arange(nodes, device=examples.device)
    return elements(places, key, stream=stream, distribution=distribution)

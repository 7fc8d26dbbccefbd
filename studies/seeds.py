"""Where random numbers come from, for all studies."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def derive(seed: int, purpose: str) -> int:
    """A seed for one purpose, unrelated to that of any other purpose or seed: 63 bits of a BLAKE2b hash of both.

    The runner derives a cell's seed from its number and the study's name; what a cell does derives from that the seeds
    of its initialization, its batches and whatever else is random. Two cells of one seed thus share all that is drawn
    for the same purpose, unless the purpose names what tells them apart: ``derive(seed, f"noise of task {number}")``.

    Returns:
        From 0 to 2^63 - 1, as torch and nvrm_fast take it. Torch's generator on the CPU looks at the lower 32 bits
        alone, so seeds made by adding powers of two from 2^32 on would give the same numbers there.
    """
    digest = hashlib.blake2b(f"{seed} {purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def shuffled(labels: Tensor, seed: int, purpose: str) -> Tensor:
    """The numbers of all labels in an order for one purpose, (N,) int64 on their device. The first so many are part of
    any more."""
    generator = torch.Generator().manual_seed(derive(seed, purpose))
    return torch.randperm(len(labels), generator=generator).to(labels.device)


def held_out(labels: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """The numbers of a random share of all labels, at least one and not all, and those of the others."""
    order = shuffled(labels, seed, "held-out images")
    out = min(max(1, round(share * len(labels))), len(labels) - 1)
    return order[:out], order[out:]

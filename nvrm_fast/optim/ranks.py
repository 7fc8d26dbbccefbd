"""Coats of their own for the processes of a data-parallel training."""

from __future__ import annotations

import torch

# An odd number of 64 bits: neighbouring ranks get keys that differ in many bits, and no two ranks the same.
_STRIDE = 0x9E3779B97F4A7C15


def seed_of_rank(seed: int) -> int:
    """The seed with which this process draws; on rank 0, and where nothing is distributed, `seed` itself."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank = torch.distributed.get_rank() if distributed else 0
    return (seed + rank * _STRIDE) % 2**64

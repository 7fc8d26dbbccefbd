"""Integers that name a draw: their ranges, and how 64 bits travel in signed words."""

from __future__ import annotations

import hashlib
import numbers

import torch

#: An odd number of 64 bits: neighboring ranks get keys that differ in many bits, and no two ranks the same.
RANK_STRIDE = 0x9E3779B97F4A7C15


def check_integer(value: int, bits: int, name: str) -> int:
    """value, if it is an integer in [0, 2^bits). Raises TypeError or ValueError that names the argument."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r} ({type(value).__name__}): use int({name})")
    if not 0 <= value < 2**bits:
        raise ValueError(f"{name} must be in [0, 2^{bits}), got {value}")
    return value


def check_number(value: float, name: str) -> float:
    """value, if it is a number. Raises TypeError that names the argument."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    return float(value)


def signed_seed(seed: int) -> int:
    """A 64-bit seed in two's complement, as the operators take it."""
    check_integer(seed, 64, "seed")
    return seed - 2**64 if seed >= 2**63 else seed


def default_seed(earlier: int) -> int:
    """The seed of an optimizer that is given none, by how many optimizers its process has made before it.

    The first has 0; each further one a hash of the number, so that no two draw the same noise and every run of a
    program draws what the one before drew.
    """
    if earlier == 0:
        return 0
    return int.from_bytes(hashlib.blake2b(f"optimizer {earlier}".encode(), digest_size=8).digest(), "little")


def seed_of_rank(seed: int) -> int:
    """The seed with which this process of a data-parallel training draws noise of its own.

    On rank 0, and where nothing is distributed, it is `seed` itself.
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank = torch.distributed.get_rank() if distributed else 0
    return (seed + rank * RANK_STRIDE) % 2**64

"""Where random numbers come from: one function for all studies."""

from __future__ import annotations

# The seeds that the studies had before there was one function for them.
_OFFSETS = {"labels": 0, "weights": 0, "noise": 0, "batches": 2**32, "torch": 2**34}
_OFFSETS |= {"search": 1000, "validation": 2**33, "perturbed copies": 2**40, "permutations": 2**34, "Fisher": 2**35}
_OFFSETS |= {"held-out images": 2**31, "layer noise": 2**33, "deviations": 2**34, "attacks": 2**34, "pruning": 2**35}
_OFFSETS |= {"training images": 2**31, "layer noise": 2**33, "gradient noise": 2**34, "measured batches": 2**35}


def derive(seed: int, purpose: str) -> int:
    """A seed for one purpose, unrelated to that of any other purpose.

    The runner derives a cell's seed from its number and the study's name; what a cell does derives from that the seeds
    of its initialisation, its batches and whatever else is random. Two cells of one seed thus share all that is drawn
    for the same purpose, unless the purpose names what tells them apart: ``derive(seed, f"noise of task {number}")``.
    """
    return seed + _OFFSETS.get(purpose, 0)

"""Which noise stream each parameter draws from."""

from __future__ import annotations

import hashlib


def stream_of_name(name: str) -> int:
    """32 bits of the BLAKE2b hash of a parameter's name: the same in every process and on every platform."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "little")


def assign_streams(names: list[str] | None, count: int, taken: set[int]) -> list[int]:
    """One stream for each of `count` further parameters, none of them in `taken`.

    By the hash of the name where there are names, else by position in the optimizer. Where two collide, the later
    parameter gets the next free stream, so the result depends only on names and their order.
    """
    streams = []
    used = set(taken)
    for i in range(count):
        stream = stream_of_name(names[i]) if names is not None else len(taken) + i
        while stream in used:
            stream = (stream + 1) % 2**32
        used.add(stream)
        streams.append(stream)
    return streams

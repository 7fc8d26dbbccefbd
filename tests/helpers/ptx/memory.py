"""Memory of an interpreted launch: every access inside of an allocation, aligned, of bytes that have a value, and in no
race with another thread."""

from __future__ import annotations

import numpy as np

#: In the place of a thread: none so far; threads of several CTAs; less than minus this: several threads of one CTA.
NOBODY, MANY, THREADS_OF = -1, -2, 10


class Fault(Exception):
    """What a GPU may do anything at: the launch is wrong."""


class Bytes:
    """Bytes with, for each, whether it has a value, and who wrote and read it since when.

    Two accesses of one byte by different threads, at least one a write, are a race unless both threads are of one CTA
    and a barrier lies between. ``epoch`` counts a CTA's barriers.
    """

    def __init__(self, content: np.ndarray, is_known: np.ndarray, ctas: int) -> None:
        self.content, self.is_known = content, is_known
        self.epoch = np.zeros(ctas, np.int32)
        size = len(content)
        self.writer = np.full(size, NOBODY, np.int32)
        self.reader = np.full(size, NOBODY, np.int32)
        self.written_at = np.zeros(size, np.int32)
        self.read_at = np.zeros(size, np.int32)

    def check_others(self, who: np.ndarray, when: np.ndarray, places: np.ndarray, thread: np.ndarray, size: int,
                     what: str) -> None:  # fmt: skip
        """Nobody else used these bytes without a barrier between. thread: number in the grid; size: a CTA's threads."""
        other, mine = who[places], thread[:, None]
        foreign = (other != NOBODY) & (other != mine)
        if not foreign.any():
            return
        ordered = (_cta(other, size) == mine // size) & (when[places] < self.epoch[mine // size])
        if (foreign & ~ordered).any():
            raise Fault(f"race: {what}")

    def read(self, at: np.ndarray, count: int, thread: np.ndarray, size: int) -> np.ndarray:
        """(lanes, count) uint8 from the bytes at ``at``. thread: number in the grid; size: threads of a CTA."""
        places = at[:, None] + np.arange(count)
        if not self.is_known[places].all():
            raise Fault("reads bytes that nobody has written")
        self.check_others(self.writer, self.written_at, places, thread, size, "reads what another thread writes")
        flat, owner = places.ravel(), np.repeat(thread, count)
        cta = owner // size
        before = self.reader[flat]
        is_over = (_cta(before, size) == cta) & (self.read_at[flat] < self.epoch[cta])  # behind a barrier
        self.reader[flat] = owner  # one of them, where several read the same now
        now = self.reader[flat]
        among_these = now != owner
        earlier = (before != NOBODY) & (before != owner) & ~is_over
        several = among_these | earlier
        if several.any():
            apart = (now // size != cta) | (earlier & (_cta(before, size) != cta))
            self.reader[flat[several]] = -(cta[several] + THREADS_OF)
            self.reader[flat[apart]] = MANY
        self.read_at[flat] = self.epoch[cta]
        return self.content[places]

    def write(self, at: np.ndarray, values: np.ndarray, thread: np.ndarray, size: int) -> None:
        """values: (lanes, count) uint8."""
        places = at[:, None] + np.arange(values.shape[1])
        if len(at) > 1 and len(np.unique(places)) != places.size:
            raise Fault("race: several threads write one place at once")
        self.check_others(self.writer, self.written_at, places, thread, size, "writes what another thread writes")
        self.check_others(self.reader, self.read_at, places, thread, size, "writes what another thread reads")
        self.content[places] = values
        self.is_known[places] = True
        self.writer[places] = thread[:, None]
        self.written_at[places] = self.epoch[thread // size][:, None]


def _cta(who: np.ndarray, size: int) -> np.ndarray:
    """The CTA of a thread, or of several threads of one; -1 where there is none, or several."""
    return np.where(who >= 0, who // size, np.where(who <= -THREADS_OF, -who - THREADS_OF, -1))


class Memory:
    """Allocations at addresses of one space. Between any two there is room that belongs to nobody."""

    def __init__(self, allocations: dict[int, np.ndarray], ctas: int, read_only: tuple[int, ...] = ()) -> None:
        """allocations: uint8 by address; what is read_only may not be written."""
        bases = sorted(base for base, content in allocations.items() if len(content))
        self.bases = np.array(bases, np.uint64)
        sizes = np.array([len(allocations[base]) for base in bases], np.uint64)
        self.ends = self.bases + sizes
        if (self.ends[:-1] > self.bases[1:]).any():
            raise ValueError("allocations overlap")
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        content = np.concatenate([allocations[base] for base in bases])
        self.is_fixed = np.isin(self.bases, np.array(read_only, np.uint64))
        self.bytes = Bytes(content, np.ones(len(content), bool), ctas)

    def locate(self, address: np.ndarray, count: int, alignment: int, *, writes: bool) -> np.ndarray:
        """Where these addresses' ``count`` bytes lie among all bytes, (lanes,) int64.

        Raises:
            Fault: outside of every allocation, over an end, not aligned, or a write to what is read only.
        """
        if (address % np.uint64(alignment)).any():
            raise Fault(f"an access of {count} bytes that is not aligned to {alignment}")
        which = np.searchsorted(self.bases, address, side="right") - 1
        if (which < 0).any() or (address + np.uint64(count) > self.ends[which]).any():
            raise Fault("an access outside of every allocation")
        if writes and self.is_fixed[which].any():
            raise Fault("a write to the launch's arguments")
        return (address - self.bases[which]).astype(np.int64) + self.starts[which]

    def result(self, base: int) -> np.ndarray:
        """What an allocation holds now."""
        place = int(np.searchsorted(self.bases, np.uint64(base)))
        return self.bytes.content[self.starts[place] : self.starts[place + 1]]

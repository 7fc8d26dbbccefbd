"""Timing side by side, and what is made of the times."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .contention import seconds_waited


class Entrant(NamedTuple):
    """prepare is called before every run and not timed."""

    prepare: Callable[[], Any]
    run: Callable[[], Any]


class Quartiles(NamedTuple):
    low: float
    median: float
    high: float


class Rounds(NamedTuple):
    """seconds: of each entrant in each round. waiting: share of each round's time that threads waited for a core."""

    seconds: dict[str, list[float]]
    waiting: list[float | None]


WARM_UP_ROUNDS = 3


def round_robin(
    entrants: dict[str, Entrant], rounds: int, clock: Callable[[], int] = time.perf_counter_ns
) -> Rounds:  # fmt: skip
    """Times the entrants side by side: every round runs each of them once.

    The machine is shared, so its speed drifts; what ran in the same round met the same machine, and ratios are taken
    within a round. The order is shuffled anew each round, so that nobody always runs behind the same other one.
    clock: in nanoseconds; time.process_time_ns counts the processor's time only.
    """
    order = list(entrants)
    shuffled = random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in entrants}
    waiting: list[float | None] = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        for i in range(WARM_UP_ROUNDS + rounds):
            shuffled.shuffle(order)
            waited_before = seconds_waited()
            times = {name: _seconds(entrants[name], clock) for name in order}
            waited_after = seconds_waited()
            # The first rounds create state, start threads and touch pages for the first time.
            if i >= WARM_UP_ROUNDS:
                for name, elapsed in times.items():
                    seconds[name].append(elapsed)
                known = waited_before is not None and waited_after is not None
                waiting.append((waited_after - waited_before) / sum(times.values()) if known else None)
    finally:
        if collecting:
            gc.enable()
    return Rounds(seconds, waiting)


def _seconds(entrant: Entrant, clock: Callable[[], int]) -> float:
    entrant.prepare()
    start = clock()
    entrant.run()
    return (clock() - start) * 1e-9


def quartiles(values: Sequence[float]) -> Quartiles:
    return Quartiles(*statistics.quantiles(values, n=4, method="inclusive"))


def paired_ratio(seconds: Sequence[float], baseline: Sequence[float]) -> Quartiles:
    """Quartiles of the ratios of the times of one round, over all rounds."""
    return quartiles([mine / theirs for mine, theirs in zip(seconds, baseline, strict=True)])

"""How long the threads of this process had to wait for a core: whether somebody else was using the machine.

On a busy machine a parallel region lasts until its last thread has got a core, several milliseconds late as a rule. A
step that opens one region for all parameters loses that once, a step that opens one for each tensor a hundred times,
so that the comparison then shows how many regions there are and little else, by factors of fifty. Shuffling and pairing
cannot mend that; it has to be seen.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

#: Of the time of a round's steps, at the median round. Seen on two cores: up to 4 % with nothing else of weight
#: running, 60 to 100 % beside one busy program of the same priority.
BUSY_SHARE = 0.1

_TASKS = Path("/proc/self/task")


def seconds_waited() -> float | None:
    """Time that all threads together have been ready to run without a core so far; None where nothing tells (Linux
    does, in the second figure of schedstat)."""
    total = 0
    try:
        for task in _TASKS.iterdir():
            total += int((task / "schedstat").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return total * 1e-9


def waiting_share(rounds: Sequence[float | None]) -> float | None:
    """The median of the rounds' shares, or None where they are unknown."""
    return None if not rounds or None in rounds else statistics.median(rounds)


def is_busy(share: float | None) -> bool:
    """Whether so much waiting makes ratios worthless. What is unknown passes: the tables say that it is unknown."""
    return share is not None and share > BUSY_SHARE


def describe(share: float | None) -> str:
    if share is None:
        return "Whether the threads had to wait for a core is not known on this system."
    told = f"The threads waited for a core for {100 * share:.1f} % of the time"
    if is_busy(share):
        return f"**{told}: the machine is busy, so no ratios are reported. Run again on a quiet one.**"
    return f"{told} (median round)."

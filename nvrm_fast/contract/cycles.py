"""Cycles: one draw of noise for four steps, turned by a quarter from each to the next.

A word's two values (x, y) become (-y, x), (-x, -y) and (y, -x). So each step's noise has the distribution, an element's
noise at one step is independent of its noise at the next, the third is the first with its sign turned, and the four sum
to zero. A step that takes off and puts on noise of one cycle makes the values once.
"""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

#: What the option `draws` of an optimizer says.
DRAWS = ("independent", "cycle")
#: Steps of a cycle, and turns of a draw.
TURNS = 4

Step = TypeVar("Step", int, Tensor)


def draw_and_turn(step: Step, cycle: bool) -> tuple[Step, Step]:
    """Which draw the step with this number (from 1) puts on a parameter, and turned by how many quarters; tensors of
    int64 are taken element by element. In cycles those are step // 4 and step % 4: the first has three steps."""
    return (step // TURNS, step % TURNS) if cycle else (step, step * 0)


def check_draws(value: object) -> None:
    """Raises ValueError for what the option `draws` cannot be."""
    if value not in DRAWS:
        raise ValueError(f"draws must be one of {', '.join(map(repr, DRAWS))}; got {value!r}")

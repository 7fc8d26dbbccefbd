"""Few combinations of options in which every two options meet with all their values."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from every_kernel import EVERY_KERNEL


def covering(*options: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Of the product of the options, so much that each value of one meets each of another, and as many threes of them
    meet as there is room for; where EVERY_KERNEL, all."""
    values = [list(option) for option in options]
    product = list(itertools.product(*map(range, map(len, values))))
    sets = {row: [set(itertools.combinations(enumerate(row), size)) for size in (2, 3)] for row in product}
    pairs, threes = (set().union(*(of_row[i] for of_row in sets.values())) for i in (0, 1))
    chosen = product if EVERY_KERNEL else []
    while pairs and not EVERY_KERNEL:
        best = max(product, key=lambda row: (len(sets[row][0] & pairs), len(sets[row][1] & threes)))
        chosen.append(best)
        pairs, threes = pairs - sets[best][0], threes - sets[best][1]
    return [tuple(value[i] for value, i in zip(values, row)) for row in chosen]

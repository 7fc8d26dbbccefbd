"""Label noise as in the code of Han et al. 2018 (Co-teaching), which the paper uses (section 4.3, appendix C.1).

Every label is flipped independently with probability ``rate``, so the rate is exact in expectation and every
single data set scatters around it. A flipped label always goes to *another* class:

- ``asymmetric``: class i becomes class i + 1, the last class becomes class 0 ("pair flip");
- ``symmetric``: class i becomes one of the other classes, each with the same probability;
- ``patterned``: class i becomes one other class, drawn at random once for the data set (Hendrycks et al. 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from studies import StudyError

Kind = Literal["asymmetric", "symmetric", "patterned"]
# How many classes further a flipped label moves (modulo the number of classes), for every label.
KINDS: dict[str, Callable[[Tensor, int, torch.Generator], Tensor]] = {
    "asymmetric": lambda labels, classes, generator: torch.ones_like(labels),
    "symmetric": lambda labels, classes, generator: torch.randint(1, classes, labels.shape, generator=generator),
    "patterned": lambda labels, classes, generator: torch.randint(1, classes, (classes,), generator=generator)[labels],
}


def flip_labels(
    labels: Tensor, classes: int, rate: float, kind: str, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Corrupt labels.

    Args:
        labels: (N,) int64 on the CPU, values in [0, classes).
        classes: how many classes there are, at least 2.
        rate: probability that a label is flipped, in [0, 1].
        kind: a key of ``KINDS``.
        generator: CPU generator; the only source of randomness.

    Returns:
        The corrupted labels, (N,) int64, and the mask of flipped ones, (N,) bool. ``labels`` stays as it is.

    Raises:
        StudyError: for a rate outside [0, 1], an unknown kind, fewer than 2 classes or labels outside the classes.
    """
    if not 0.0 <= rate <= 1.0:
        raise StudyError(f"rate is {rate}, but a probability is needed: choose it from 0 to 1")
    if kind not in KINDS:
        raise StudyError(f"kind is {kind!r}: choose one of {', '.join(KINDS)}")
    if classes < 2:
        raise StudyError(f"classes is {classes}: label noise needs at least 2 classes")
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise StudyError(f"labels has values outside 0..{classes - 1}: pass the right number of classes")
    # float64, because a float32 draw would round a rate such as 0.4 to a multiple of 2^-24.
    flipped = torch.rand(labels.shape, generator=generator, dtype=torch.float64) < rate
    moved = (labels + KINDS[kind](labels, classes, generator)) % classes
    return torch.where(flipped, moved, labels), flipped

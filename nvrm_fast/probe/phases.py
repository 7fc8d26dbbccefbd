"""Which of the four phases a run was in: from its curves alone, simulated or real."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DECOUPLED, DECAY, CATAPULT, DIVERGENT = PHASES = ("decoupled", "decay", "catapult", "divergent")

MEANING = {
    DECOUPLED: "too weak to matter: training goes on as without noise, and the noise weights wander",
    DECAY: "the network notices the noise and turns it down while it learns",
    CATAPULT: "the noise first overwhelms training, then the weights shrink and learning resumes",
    DIVERGENT: "the noise wins: training blows up or learns nothing",
}


@dataclass(frozen=True)
class Criteria:
    """Thresholds of `classify`.

    decayed: the noise weights' norm at the end, over the start: at most this is a decay. A node of many features
        shrinks slowly, since few directions of W_NI reach the outputs; a random walk only lengthens it (a node of very
        few features may also shrink by chance: take less there). A decay slower than the run is long is not seen, so
        the boundary between decoupled and decay belongs to a length of training.
    rise: the training loss at its peak, over the start: more than this is a catapult. Loss of small batches
        fluctuates by itself, so keep it above 1.5.
    learned: how far the loss without noise must fall, as a share of how far an undisturbed network's falls; less is a
        failure to learn. Without an undisturbed network any fall will do.
    last: share of the records at the end whose median counts as "the end".
    """

    decayed: float = 0.95
    rise: float = 2.0
    learned: float = 0.2
    last: float = 0.1


def classify(
    noise_norm: Tensor,
    training_loss: Tensor,
    clean_loss: Tensor | None = None,
    criteria: Criteria | None = None,
    *,
    undisturbed: Tensor | None = None,
) -> list[str] | str:
    """The phase of every run of a batch (Levi et al. 2022, section 3).

    In this order: a run that ends in inf or NaN, or that has learned nothing by its end, is divergent (where neurons
    saturate or are normalized, divergence takes this form: footnote 7 of the paper); else one whose training loss rose
    above `rise` times its start, a catapult; else one whose noise weights shrank to `decayed` of their start, in
    decay; else decoupled.

    Args:
        noise_norm: norm of W_NI over time, (T,) or (T, runs); T at least 2. Its start must not be 0.
        training_loss: with the noise on, same shape.
        clean_loss: without noise, same shape; the training loss by default.
        criteria: thresholds.
        undisturbed: the clean loss of a run without noise, or with next to none, (T,).

    Returns:
        One name for (T,), a list for (T, runs).

    Raises:
        ValueError: for shapes that differ or fewer than two records.
    """
    criteria = criteria or Criteria()
    clean_loss = training_loss if clean_loss is None else clean_loss
    if not noise_norm.shape == training_loss.shape == clean_loss.shape:
        raise ValueError(
            f"noise_norm {list(noise_norm.shape)}, training_loss {list(training_loss.shape)} and clean_loss "
            f"{list(clean_loss.shape)} must have one shape"
        )
    if len(noise_norm) < 2:
        raise ValueError(f"a phase needs two records or more, got {len(noise_norm)}")
    if noise_norm.dim() == 1:
        return classify(
            noise_norm[:, None], training_loss[:, None], clean_loss[:, None], criteria, undisturbed=undisturbed
        )[0]
    noise_norm, training_loss, clean_loss = (
        series.detach().double() for series in (noise_norm.abs(), training_loss, clean_loss)
    )
    count = max(1, round(criteria.last * (len(noise_norm) - 1)))

    def end(series: Tensor) -> Tensor:
        return series[-count:].nanmedian(0).values

    # At one moment only: overflow in the middle of a run that came back is a catapult.
    broken = ~(torch.isfinite(noise_norm[-1]) & torch.isfinite(training_loss[-1]) & torch.isfinite(clean_loss[-1]))
    needed = 0.0
    if undisturbed is not None:
        undisturbed = undisturbed.detach().double()
        needed = criteria.learned * float((undisturbed[0] - end(undisturbed)).clamp_min(0))
    # Written so that a NaN counts as failed.
    failed = broken | ~(clean_loss[0] - end(clean_loss) > needed)
    rose = ~(training_loss.amax(0) <= criteria.rise * training_loss[0])
    decayed = end(noise_norm) <= criteria.decayed * noise_norm[0]
    return [
        DIVERGENT if is_failed else CATAPULT if is_rise else DECAY if is_decay else DECOUPLED
        for is_failed, is_rise, is_decay in zip(failed.tolist(), rose.tolist(), decayed.tolist())
    ]


def between(sigmas: Sequence[float], phases: Sequence[str]) -> list[tuple[str, str, float, float]]:
    """Where the phase changes: (from, to, last sigma before, first sigma after), in the order of sigma."""
    ordered = sorted(zip(sigmas, phases))
    return [(p, q, a, b) for (a, p), (b, q) in zip(ordered, ordered[1:]) if p != q]

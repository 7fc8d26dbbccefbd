"""Losses that are to withstand wrong labels: bootstrapping (Reed et al., 2015) and forward correction (Patrini et al.,
2017). Each maps logits (N, classes) and labels (N,) to a scalar."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, nll_loss

Loss = Callable[[Tensor, Tensor], Tensor]
#: Weight of the given label, as Reed et al. chose them.
SOFT, HARD = 0.95, 0.8
#: The share of a class's probabilities that counts as outliers when the corruption is estimated (Patrini et al.).
PERCENTILE = 0.97


def bootstrap_soft(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy with targets SOFT label + (1 - SOFT) prediction."""
    logarithms = log_softmax(logits, 1)
    own = -(logarithms.exp() * logarithms).sum(1).mean()
    return SOFT * nll_loss(logarithms, labels) + (1 - SOFT) * own


def bootstrap_hard(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy with targets HARD label + (1 - HARD) the class predicted now."""
    return HARD * cross_entropy(logits, labels) + (1 - HARD) * cross_entropy(logits, logits.argmax(1))


def forward_correction(corruption: Tensor) -> Loss:
    """Cross entropy of corrupted labels: probabilities go through corruption[true, given], (classes, classes)."""

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return nll_loss((logits.softmax(1) @ corruption).clamp_min(1e-7).log(), labels)

    return loss


@torch.no_grad()
def estimated_corruption(probabilities: Tensor, percentile: float | None = PERCENTILE) -> Tensor:
    """The corruption matrix [true, given] from a network trained on wrong labels: (classes, classes), rows sum to 1.

    probabilities: (N, classes) on the training images. For each class the row is what the network says of the image
    whose probability of that class is the largest below the percentile, which leaves outliers out; with None the
    largest of all, as for data sets with few images a class.
    """
    rows = []
    for own in probabilities.T:
        if percentile is not None:
            own = torch.where(own < torch.quantile(own, percentile, interpolation="higher"), own, -1.0)
        rows.append(probabilities[own.argmax()])
    corruption = torch.stack(rows)
    return corruption / corruption.sum(1, keepdim=True)

"""The methods against wrong labels that SE-SNN's Figure 3a and Table 4 compare, their losses, and how their lines look.

Losses that are to withstand wrong labels: bootstrapping (Reed et al., 2015) and forward correction (Patrini et al.,
2017). Each maps logits (N, classes) and labels (N,) to a scalar.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, nll_loss

from studies.figures import COLORS, MARKERS

Loss = Callable[[Tensor, Tensor], Tensor]
#: Weight of the given label, as Reed et al. chose them.
KEPT_SOFT, KEPT_HARD = 0.95, 0.8
#: The share of a class's probabilities that counts as outliers when the corruption is estimated (Patrini et al.).
PERCENTILE = 0.97


def bootstrap_soft(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy with targets KEPT_SOFT label + (1 - KEPT_SOFT) prediction."""
    logarithms = log_softmax(logits, 1)
    own = -(logarithms.exp() * logarithms).sum(1).mean()
    return KEPT_SOFT * nll_loss(logarithms, labels) + (1 - KEPT_SOFT) * own


def bootstrap_hard(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy with targets KEPT_HARD label + (1 - KEPT_HARD) the class predicted now."""
    return KEPT_HARD * cross_entropy(logits, labels) + (1 - KEPT_HARD) * cross_entropy(logits, logits.argmax(1))


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


PLAIN, HARD, SOFT, FORWARD = "cross entropy", "bootstrap, hard", "bootstrap, soft", "forward"
BASELINE, SE_SNN = "baseline", "SE-SNN"


@dataclass(frozen=True)
class Method:
    """A line of the table. loss: one of the four above. weight_factor: multiplies the regularizer's weight."""

    stochastic: bool
    loss: str
    weight_factor: float = 1.0

    @property
    def estimated_by(self) -> str | None:
        """The method whose trained network shows forward correction the corruption; None for other"""
        return (SE_SNN if self.stochastic else BASELINE) if self.loss == FORWARD else None


METHODS: dict[str, Method] = {
    BASELINE: Method(False, PLAIN),
    "bootstrap, hard": Method(False, HARD),
    "bootstrap, soft": Method(False, SOFT),
    "forward": Method(False, FORWARD),
    "SE-SNN, weight 0": Method(True, PLAIN, weight_factor=0.0),
    SE_SNN: Method(True, PLAIN),
    "SE-SNN + forward": Method(True, FORWARD),
}
MethodName = Literal[tuple(METHODS)]
#: Color and marker of each.
LOOKS = {
    name: {"color": COLORS[number], "marker": marker}
    for name, number, marker in zip(METHODS, (5, 4, 2, 0, 6, 1, 3), MARKERS)
}


def loss_of(name: str, corruption: Tensor | None) -> Loss:
    """The loss of this name; forward correction's takes the estimated corruption matrix."""
    if name == FORWARD:
        return forward_correction(corruption)
    return {PLAIN: cross_entropy, HARD: bootstrap_hard, SOFT: bootstrap_soft}[name]


class Summed(nn.Module):
    """Two parallel layers whose outputs are added: as many weights as a stochastic layer, but no noise."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x)

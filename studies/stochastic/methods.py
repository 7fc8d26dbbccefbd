"""The methods against wrong labels that SE-SNN's Figure 3a and Table 4 compare, and how their lines look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from studies.figures import COLORS, MARKERS
from studies.stochastic import losses
from studies.stochastic.losses import Loss

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
        """The method whose trained network shows forward correction the corruption; None for other losses."""
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
        return losses.forward_correction(corruption)
    return {PLAIN: cross_entropy, HARD: losses.bootstrap_hard, SOFT: losses.bootstrap_soft}[name]


class Summed(nn.Module):
    """Two parallel layers whose outputs are added: as many weights as a stochastic layer, but no noise."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x)

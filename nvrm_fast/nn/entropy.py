"""Regularizers of stochastic layers: what keeps their standard deviations from collapsing.

Layers make the sums that a regularizer needs in the pass that draws their noise; log sigma is worked out from the raw
value before softplus, so it stays exact and its gradient finite for any sigma, however small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..contract.layers import DIVERGENCE, ELEMENT, NEURON, SAMPLE
from ..ops.transforms import transformed

_OVER = {"neuron": NEURON, "sample": SAMPLE, "element": ELEMENT}
_REDUCTIONS = ("mean", "sum")


class _MissingEntropy(torch.autograd.Function):
    """mean((margin - sums / averaged)^+): as one function, because a small layer's time is in how many there are."""

    @staticmethod
    def forward(ctx: Any, sums: Tensor, averaged: int, margin: float) -> Tensor:
        missing = torch.rsub(sums, margin, alpha=1 / averaged).relu_()
        ctx.save_for_backward(missing)
        ctx.share = -1 / (averaged * sums.numel())
        return missing.mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (missing,) = ctx.saved_tensors
        return missing.sign() * (grad * ctx.share), None, None


@dataclass(frozen=True)
class MaxEntropy:
    """The max-entropy regularizer: a penalty where mean log sigma falls below a margin b; b - mean above 0, else 0.

    over: "neuron"   log sigma averaged over samples for each neuron (equation 5, pruning)
          "sample"   averaged over neurons for each sample (equation 6, label noise)
          "element"  not averaged before the margin (equation 7, adversarial defence)
    margin: b. In a convolution neurons are channels in equation 5, whose samples are then all positions of all
    examples; equations 6 and 7 take every channel and position of an example for a neuron.
    reduction: "mean" over neurons, as the equations print it, or "sum": as many times that as a layer has neurons, so
    that each is paid for by itself, as StandardNormal's are. The margin stays that of one log sigma. At the weights
    that the paper names the mean hardly acts on a layer of a hundred neurons.

    Raises ValueError for another `over` or `reduction`, or a margin that is not finite. Source: "Simple and Effective
    Stochastic Neural Networks", section 2.
    """

    over: str
    margin: float
    reduction: str = "mean"

    def __post_init__(self) -> None:
        if self.over not in _OVER:
            raise ValueError(f"over must be one of {', '.join(_OVER)}; got {self.over!r}")
        if self.reduction not in _REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(_REDUCTIONS)}; got {self.reduction!r}")
        if not math.isfinite(self.margin):
            raise ValueError(f"margin must be finite, got {self.margin}")

    @property
    def sums(self) -> int:
        """Code of the sums that the kernel makes."""
        return _OVER[self.over]

    def loss(self, sums: Tensor, samples: int, neurons: int, positions: int) -> Tensor:
        """The penalty of one pass, a scalar, from the kernel's sums."""
        mean = self._mean(sums, samples, neurons, positions)
        if self.reduction == "mean":
            return mean
        return mean * (neurons if self.over == "neuron" else neurons * positions)

    def _mean(self, sums: Tensor, samples: int, neurons: int, positions: int) -> Tensor:
        if self.over == "element":
            return sums.sum() / (samples * neurons * positions)
        averaged = samples * positions if self.over == "neuron" else neurons * positions
        if torch.compiler.is_compiling() or transformed():
            return (self.margin - sums / averaged).clamp_min(0).mean()
        return _MissingEntropy.apply(sums, averaged, self.margin)


@dataclass(frozen=True)
class StandardNormal:
    """KL of the predicted Gaussians from N(0, 1), summed over neurons, averaged over samples: the rate of the
    variational information bottleneck (Alemi et al., 2017, equation 17), beta of which is the weight in the loss."""

    margin = 0.0
    sums = DIVERGENCE

    def loss(self, sums: Tensor, samples: int, neurons: int, positions: int) -> Tensor:
        """The divergence of one pass, a scalar, from the kernel's sums."""
        return sums.sum() / samples

"""The variational lower bound over mini-batches (thesis of P. Kirichenko, 2018, equations 8, 33 and 34)."""

from __future__ import annotations

from torch import Tensor, nn

from .variational import Variational


def divergence(model: nn.Module) -> Tensor | float:
    """KL of all variational layers, summed; a layer that occurs twice counts once. 0.0 where there is none."""
    return sum((layer.divergence() for layer in model.modules() if isinstance(layer, Variational)), start=0.0)


def warm_up(step: int, steps: int) -> float:
    """Weight of the divergence that grows linearly from 0 to 1 in so many steps; 1 from then on, or if steps is 0."""
    if step < 0 or steps < 0:
        raise ValueError(f"step and steps must not be negative, got {step} and {steps}")
    return min(1.0, step / steps) if steps else 1.0


def elbo_loss(negative_log_likelihood: Tensor, model: nn.Module, data_size: int, weight: float = 1.0) -> Tensor:
    """The negative lower bound for one example: mean negative log likelihood + weight * KL / data_size.

    negative_log_likelihood: the mini-batch's mean, as F.cross_entropy returns it (equation 33 divided by N).
    data_size: N, how many examples the training set has. weight: of the divergence, such as warm_up(step, steps).
    Raises ValueError for a data_size that is not positive or a negative weight.
    """
    if data_size <= 0:
        raise ValueError(f"data_size must be positive, got {data_size}")
    if weight < 0:
        raise ValueError(f"weight must not be negative, got {weight}")
    return negative_log_likelihood + weight / data_size * divergence(model)

"""A model's regularizer: given to all its stochastic layers, and collected over them.

noisy.set_regularizer(model, noisy.MaxEntropy("sample", margin=math.log(4)))
loss = F.cross_entropy(model(x), y) + 0.01 * noisy.regularizer_loss(model)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .entropy import MaxEntropy, StandardNormal
from .passes import is_open
from .stochastic import Stochastic


def stochastic_modules(model: nn.Module) -> list[tuple[str, Stochastic]]:
    """The stochastic layers of a model with their names; one that occurs twice is listed once."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, Stochastic)]


def set_regularizer(model: nn.Module, regularizer: MaxEntropy | StandardNormal | None) -> None:
    """Gives every stochastic layer of a model a regularizer, or with None takes it away. Passes so far are forgotten.

    A regularizer for one layer only: set_regularizer(model.layer, ...). Raises TypeError for another object and
    ValueError where the model has no stochastic layer.
    """
    if regularizer is not None and not isinstance(regularizer, (MaxEntropy, StandardNormal)):
        raise TypeError(f"regularizer must be MaxEntropy, StandardNormal or None, got {type(regularizer).__name__}")
    layers = stochastic_modules(model)
    if not layers:
        raise ValueError("the model has no stochastic layer to regularize")
    for _, layer in layers:
        layer.regularizer = regularizer
        layer._passes, layer._replayed = (), ()


@contextlib.contextmanager
def without_regularizer(model: nn.Module) -> Iterator[None]:
    """In the block no pass of the model's stochastic layers counts for a regularizer: for an attack's passes, and for
    others in training mode whose output reaches no loss."""
    before = [(layer, layer._regularized) for _, layer in stochastic_modules(model)]
    for layer, _ in before:
        layer._regularized = False
    try:
        yield
    finally:
        for layer, regularized in before:
            layer._regularized = regularized


def regularizer_loss(model: nn.Module) -> Tensor:
    """The regularizers of all stochastic layers, summed over layers: a scalar with a gradient.

    Counts the forward passes since the last call, which it forgets, that were made in training mode (layer.training)
    with gradients, and whose output has not been differentiated yet: an attack's passes are over when the step's loss
    is made. Several passes of one layer (samples of the noise, or a layer that occurs twice) are averaged. Passes in
    activation checkpoints of either kind count once. Others in training mode go into `without_regularizer(model)`.

    Raises RuntimeError where there was none: in eval(), in the mode "mean", under no_grad, after the output's own
    backward(), or before set_regularizer.
    """
    total = None
    for _, layer in stochastic_modules(model):
        if layer.regularizer is None:
            continue
        losses = [layer.regularizer.loss(*sums) for sums in layer._passes if is_open(sums[0])]
        losses += [one.penalty() for one in layer._replayed if not one.taken]
        layer._passes = ()
        if not losses:
            continue
        mean = losses[0] if len(losses) == 1 else torch.stack(losses).mean()
        total = mean if total is None else total + mean
    if total is None:
        raise RuntimeError(
            "no stochastic layer has made a forward pass since the last call: set_regularizer comes first, and passes "
            'in eval(), in the mode "mean" or under torch.no_grad() do not count, nor those whose output has been '
            "differentiated already"
        )
    return total

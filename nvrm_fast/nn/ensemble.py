"""Many samples of a noisy network at once, and what an ensemble of them says."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..contract.seeds import check_integer
from ..prediction import Prediction, prediction
from .noise_mode import noisy_modules


def _batch_dim(model: nn.Module, x: Tensor, batch_dim: int | None) -> int:
    """Where the batch is: as said, or 0 where no layer of the model asks for it elsewhere. Raises ValueError."""
    if batch_dim is not None:
        if not -x.dim() <= batch_dim < x.dim():
            raise ValueError(f"batch_dim must be a dimension of x, which has shape {list(x.shape)}; got {batch_dim}")
        return batch_dim % x.dim()
    for name, module in model.named_modules():
        if getattr(module, "batch_first", True) is False and x.dim() >= 3:
            raise ValueError(
                f"{name or 'the model'} ({type(module).__name__}) has batch_first=False: say where x, of shape "
                f"{list(x.shape)}, has its batch (batch_dim=1 for (sequence, batch, ...), 0 for (batch, ...))"
            )
    return 0


def mc(model: nn.Module, x: Tensor, samples: int, *, batch_dim: int | None = None) -> Tensor:
    """Outputs of `samples` passes over a batch: (samples, ...), each of the model's output's shape.

    With local sampling every example has noise of its own, so that one pass over the repeated batch is as many samples.
    Where a layer shares noise among examples, or all noise is fixed, a pass for each sample is made: with fixed noise
    seeds seed, seed + 1, ...

    batch_dim: the dimension of x and of the output that counts the examples; by default the first. A model with a layer
    of torch that has batch_first=False (nn.LSTM, nn.MultiheadAttention) must be told.

    Raises ValueError for fewer than one sample, an unknown batch_dim, and an output whose batch_dim does not count the
    examples; TypeError for samples that are no int or an output that is no tensor.
    """
    check_integer(samples, 63, "samples")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    if x.dim() == 0:
        raise ValueError("x must have a batch dimension, got a scalar")
    dim = _batch_dim(model, x, batch_dim)
    layers = [layer for _, layer in noisy_modules(model)]
    fixed = any(layer.mode == "fixed" for layer in layers)
    if fixed or any(layer.sampling != "local" for layer in layers):
        seeds = [layer.seed for layer in layers]
        try:
            outputs = []
            for sample in range(samples):
                for layer, seed in zip(layers, seeds):
                    layer.seed = (seed + sample) % 2**64
                outputs.append(_checked(model(x), x, x.shape[dim], dim))
            return torch.stack(outputs)
        finally:
            for layer, seed in zip(layers, seeds):
                layer.seed = seed
    y = _checked(model(torch.cat([x] * samples, dim)), x, samples * x.shape[dim], dim)
    return y.unflatten(dim, (samples, x.shape[dim])).movedim(dim, 0)


def _checked(y: Tensor, x: Tensor, examples: int, dim: int) -> Tensor:
    if not isinstance(y, Tensor):
        raise TypeError(f"the model must return one tensor, got {type(y).__name__}: wrap it so that it does")
    if y.dim() <= dim or y.shape[dim] != examples:
        raise ValueError(
            f"batch_dim is {dim}, where {examples} examples went in, but the output has shape {list(y.shape)}: the "
            "model must return one entry an example in this dimension"
        )
    return y


def predict(
    model: nn.Module, x: Tensor, samples: int = 50, *, batch_dim: int | None = None, class_dim: int | None = None
) -> Prediction:
    """The ensemble's prediction (equation 49 of the thesis) from the model's logits, without gradients.

    Runs the noisy layers in the mode they are in; in the mode mean all samples are the same network. batch_dim: as `mc`
    takes it; class_dim: as `prediction`. Raises what they raise.
    """
    with torch.no_grad():
        return prediction(mc(model, x, samples, batch_dim=batch_dim), class_dim=class_dim)

"""Many samples of a noisy network at once, and what an ensemble of them says."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .noise_mode import noisy_modules


def mc(model: nn.Module, x: Tensor, samples: int) -> Tensor:
    """Outputs of `samples` passes over a batch: (samples, batch, ...).

    With local sampling every row has noise of its own, so that one pass over the repeated batch is as many samples.
    Where a layer shares noise among objects, or all noise is fixed, a pass for each sample is made: with fixed noise
    seeds seed, seed + 1, ... Raises ValueError for fewer than 1.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    layers = [layer for _, layer in noisy_modules(model)]
    fixed = any(layer.mode == "fixed" for layer in layers)
    if fixed or any(layer.sampling != "local" for layer in layers):
        seeds = [layer.seed for layer in layers]
        try:
            outputs = []
            for sample in range(samples):
                for layer, seed in zip(layers, seeds):
                    layer.seed = (seed + sample) % 2**64
                outputs.append(model(x))
            return torch.stack(outputs)
        finally:
            for layer, seed in zip(layers, seeds):
                layer.seed = seed
    y = model(x.repeat(samples, *[1] * (x.dim() - 1)))
    return y.unflatten(0, (samples, x.shape[0]))


class Prediction(NamedTuple):
    """Of an ensemble, for each object. probabilities: their mean (batch, classes). entropy: of that mean, in nats.
    mutual_information: between class and weights, the part of the entropy that the samples disagree about."""

    probabilities: Tensor
    entropy: Tensor
    mutual_information: Tensor


def predict(model: nn.Module, x: Tensor, samples: int = 50) -> Prediction:
    """The ensemble's prediction (equation 49 of the thesis) from logits of shape (batch, classes), without gradients.

    Runs the noisy layers in the mode they are in; in the mode mean all samples are the same network.
    """
    with torch.no_grad():
        return prediction(mc(model, x, samples))


def prediction(logits: Tensor) -> Prediction:
    """Prediction from logits (samples, batch, classes), in at least float32."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    log_probabilities = torch.log_softmax(logits.to(dtype), dim=-1)
    probabilities = log_probabilities.exp()
    mean = probabilities.mean(dim=0)
    entropy = torch.special.entr(mean).sum(dim=-1)
    expected = torch.special.entr(probabilities).sum(dim=-1).mean(dim=0)
    return Prediction(mean, entropy, (entropy - expected).clamp_min(0))

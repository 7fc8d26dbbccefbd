"""Neurons whose magnitude posterior has collapsed to zero: found, silenced, and taken out of a network."""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .variational import Variational, VariationalLinear

#: ln alpha above which a magnitude is noise about zero: binary dropout with a rate above 0.95 (Molchanov et al., 2017).
COLLAPSED = 3.0


def collapsed(layer: Variational, threshold: float = COLLAPSED) -> Tensor:
    """Which weight vectors of a layer have ln alpha above the threshold or no magnitude at all: bool, (neurons,)."""
    return (layer.log_alpha().detach() > threshold) | (layer.weight_g.detach().flatten() == 0) | layer.silenced


@torch.no_grad()
def prune(model: nn.Module, threshold: float = COLLAPSED) -> dict[str, int]:
    """Silences collapsed weight vectors: magnitude 0, no noise, nothing added to the divergence, for good.

    Returns how many of each layer are silent then, by the layer's name.
    """
    counts = {}
    for name, layer in model.named_modules():
        if isinstance(layer, Variational):
            dead = collapsed(layer, threshold)
            layer.weight_g.view(-1)[dead] = 0.0
            layer.silenced |= dead
            counts[name] = int(dead.sum())
    return counts


@torch.no_grad()
def compress(model: nn.Sequential, threshold: float = COLLAPSED) -> nn.Sequential:
    """The deterministic network of a stack of dense layers without its collapsed neurons.

    model: nn.Sequential of VariationalLinear layers and element-wise activations (nn.ReLU and the like) between them.
    A collapsed output unit is a constant, activation(bias), which goes into the next layer's bias; a collapsed input
    unit (normalize="input") takes no part. The result equals the pruned model in the mode mean, up to rounding.

    Raises TypeError for other layers; they would need rules of their own.
    """
    model = copy.deepcopy(model)
    prune(model, threshold)
    elementwise = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Identity, nn.Flatten)
    for module in model:
        if not isinstance(module, (VariationalLinear, *elementwise)):
            raise TypeError(f"compress knows VariationalLinear and activations like ReLU, not {type(module).__name__}")
    places = [i for i, module in enumerate(model) if isinstance(module, VariationalLinear)]
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    for i in places:
        plain = cast(VariationalLinear, model[i]).to_linear()
        weights.append(plain.weight)
        biases.append(torch.zeros(plain.out_features).to(plain.weight) if plain.bias is None else plain.bias)
    for k in range(len(places) - 1):
        used = weights[k + 1].ne(0).any(dim=0)
        alive = weights[k].ne(0).any(dim=1) & used
        constant = biases[k]
        for module in list(model)[places[k] + 1 : places[k + 1]]:
            constant = constant if isinstance(module, nn.Flatten) else module(constant)
        biases[k + 1] = biases[k + 1] + F.linear(constant * (~alive & used), weights[k + 1])
        weights[k], biases[k], weights[k + 1] = weights[k][alive], biases[k][alive], weights[k + 1][:, alive]
    small: list[nn.Module] = list(model)
    for i, weight, bias in zip(places, weights, biases):
        linear = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
        small[i] = linear
    return nn.Sequential(*small).train(model.training)

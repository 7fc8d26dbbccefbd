"""What a network costs by the paper's counts: weights, multiplications and the memory of its hidden feature maps."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from nvrm_fast.experiments.networks import ImageShape
from nvrm_fast.experiments.stochastic.pruning.networks import count, hidden


@dataclass(frozen=True)
class Cost:
    """weights: all parameters, biases too. multiplications: of one image, by convolutions and dense layers; additions,
    biases, normalisation and pooling are not counted (SE-SNN, footnote 2). memory: values of the hidden feature maps of
    one image: what every hidden layer makes, before pooling, and the pooled maps that the first dense layer takes."""

    weights: int
    multiplications: int
    memory: int


def cost(network: nn.Sequential, shape: ImageShape) -> Cost:
    """The cost of a deterministic stack of layers on images of a shape (channels, height, width)."""
    by_layer, maps = _walk(network, shape)
    return Cost(sum(p.numel() for p in network.parameters()), sum(by_layer.values()), sum(maps))


def saved(network: nn.Sequential, shape: ImageShape) -> dict[int, float]:
    """By place of the module that makes neurons: the share of the network's multiplications that go with one of them,
    those that make it and those that use it."""
    by_layer, _ = _walk(network, shape)
    places = sorted(by_layer)
    shares = {}
    for group in hidden(network):
        used_by = next(place for place in places if place > group.place)
        both = by_layer.get(group.place, 0) + by_layer[used_by]
        shares[group.place] = both / count(network[group.place]) / sum(by_layer.values())
    return shares


@torch.no_grad()
def _walk(network: nn.Sequential, shape: ImageShape) -> tuple[dict[int, int], list[int]]:
    """Multiplications by place of the layer, and the sizes of the hidden feature maps."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()  # one image has no variance for batch normalisation
    x = torch.zeros(1, *shape, device=next(network.parameters()).device)
    multiplications: dict[int, int] = {}
    maps, pooled = [], False
    for place, module in enumerate(network):
        if isinstance(module, nn.Linear) and pooled:
            maps.append(x[0].numel())
        x = module(x)
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            positions = x[0, 0].numel()
            multiplications[place] = module.weight.numel() * positions
            maps.append(x[0].numel())
        pooled = isinstance(module, nn.MaxPool2d) or (pooled and isinstance(module, nn.Flatten))
    for module, training in modes:
        module.training = training
    return multiplications, maps[:-1]  # without the classes

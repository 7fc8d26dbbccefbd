"""The networks that SE-SNN prunes, as flat stacks of torch's layers, their stochastic twins, and what they cost.

Flat, so that the place of a layer is its name, and the ReLU that a layer's neurons go through is the next one after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from nvrm_fast import nn as noisy
from studies import models
from studies.models import ImageShape, started


class Inputs(nn.Module):
    """The inputs (N, inputs) that a dense network still looks at: where those of the first layer can be pruned too."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("kept", torch.arange(count))

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.kept]


class Hidden(NamedTuple):
    """One group of neurons: the place of the module that makes them, and of the one whose output their values are."""

    place: int
    value: int


def mlp(shape: ImageShape, classes: int, width: float) -> nn.Sequential:
    """inputs-128-128-classes (appendix B.2), whose inputs can be pruned as well."""
    flatten, *layers = models.mlp(shape, classes, (max(1, round(128 * width)),) * 2)
    return nn.Sequential(flatten, Inputs(shape[0] * shape[1] * shape[2]), *layers)


def _of_channels(build: Callable[..., nn.Sequential]) -> Callable[[ImageShape, int, float], nn.Sequential]:
    return lambda shape, classes, width: build(shape, classes, max(1, round(64 * width)))


#: Each takes the image shape, the number of classes and what the planned numbers of neurons are multiplied by.
NETWORKS: dict[str, Callable[[ImageShape, int, float], nn.Sequential]] = {
    "lenet5": models.lenet5,
    "vgg16": _of_channels(models.vgg16),
    "vgg16-convolutional": _of_channels(models.vgg16_convolutional),
    "mlp": mlp,
}
NetworkName = Literal[tuple(NETWORKS)]


def stochastic(network: nn.Sequential, *, seed: int, initial_deviation: float | None = None) -> nn.Sequential:
    """The same network with every layer but the classifier stochastic, the same means. Deviations start at random, or
    everywhere at the same value."""
    last = str(_layers(network)[-1])
    return started(
        noisy.to_noisy, network, "stochastic", where=lambda name, layer: name != last,
        initial_deviation=initial_deviation, seed=seed,
    )  # fmt: skip


def hidden(network: nn.Sequential) -> list[Hidden]:
    """The groups of neurons that can be pruned, in the order of the forward pass: all but the classifier's."""
    groups = []
    for place in _layers(network)[:-1]:
        relu = next(later for later in range(place, len(network)) if isinstance(network[later], nn.ReLU))
        groups.append(Hidden(place, relu))
    inputs = [Hidden(place, place) for place, module in enumerate(network) if isinstance(module, Inputs)]
    return inputs + groups


def widths(network: nn.Sequential) -> list[int]:
    """How many neurons each group of ``hidden`` has."""
    return [count(network[group.place]) for group in hidden(network)]


def count(module: nn.Module) -> int:
    """How many neurons a module makes: units, channels, or kept inputs."""
    if isinstance(module, Inputs):
        return len(module.kept)
    return module.out_channels if isinstance(module, nn.Conv2d) else module.out_features


def _layers(network: nn.Sequential) -> list[int]:
    return [place for place, module in enumerate(network) if isinstance(module, (nn.Conv2d, nn.Linear))]


@dataclass(frozen=True)
class Cost:
    """weights: all parameters, biases too. multiplications: of one image, by convolutions and dense layers; additions,
    biases, normalization and pooling are not counted (SE-SNN, footnote 2). memory: values of the hidden feature maps of
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
    network.eval()  # one image has no variance for batch normalization
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

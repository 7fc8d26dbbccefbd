"""The networks that SE-SNN prunes, as flat stacks of torch's layers, and their stochastic twins.

Flat, so that the place of a layer is its name, and the ReLU that a layer's neurons go through is the next one after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nvrm_fast import nn as noisy
from nvrm_fast.experiments import StudyError
from nvrm_fast.experiments.networks import ImageShape

_POOL = 0  # in the plans below: 2 x 2 max pooling instead of a convolution of so many channels
_VGG_16 = (64, 64, _POOL, 128, 128, _POOL, *(3 * (256,)), _POOL, *(3 * (512,)), _POOL, *(3 * (512,)), _POOL)
_VGG_16_LONG = (64, 64, _POOL, 128, 128, _POOL, *(4 * (256,)), _POOL, *(4 * (512,)), _POOL, *(4 * (512,)), _POOL)


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
    inputs, units = shape[0] * shape[1] * shape[2], _units(128, width)
    return nn.Sequential(
        nn.Flatten(),
        Inputs(inputs),
        nn.Linear(inputs, units),
        nn.ReLU(),
        nn.Linear(units, units),
        nn.ReLU(),
        nn.Linear(units, classes),
    )


def lenet5(shape: ImageShape, classes: int, width: float) -> nn.Sequential:
    """LeNet-5-Caffe, 20-50-800-500: two 5 x 5 convolutions with ReLU and 2 x 2 max pooling, then 500 ReLUs.

    Raises:
        StudyError: for images of less than 16 x 16 pixels.
    """
    if min(shape[1:]) < 16:
        raise StudyError(
            f"--network lenet5 needs images of at least 16 x 16 pixels, not {shape[1]} x {shape[2]}: use mlp"
        )
    positions = (((shape[1] - 4) // 2 - 4) // 2) * (((shape[2] - 4) // 2 - 4) // 2)
    first, second, third = (_units(channels, width) for channels in (20, 50, 500))
    return nn.Sequential(
        nn.Conv2d(shape[0], first, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * positions, third),
        nn.ReLU(),
        nn.Linear(third, classes),
    )


def vgg16(shape: ImageShape, classes: int, width: float) -> nn.Sequential:
    """VGG-16 for CIFAR-10: 13 convolutions with batch normalisation, two dense layers of 512 in place of 4096."""
    layers, channels = _convolutions(shape, _VGG_16, width)
    units = _units(512, width)
    dense = [nn.Linear(channels, units), nn.ReLU(), nn.Linear(units, units), nn.ReLU(), nn.Linear(units, classes)]
    return nn.Sequential(*layers, nn.Flatten(), *dense)


def vgg16_convolutional(shape: ImageShape, classes: int, width: float) -> nn.Sequential:
    """The variant for CIFAR-100 (Liu et al., 2017): three more convolutions in place of the two dense layers."""
    layers, channels = _convolutions(shape, _VGG_16_LONG, width)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, classes))


NETWORKS: dict[str, Callable[[ImageShape, int, float], nn.Sequential]] = {
    "lenet5": lenet5,
    "vgg16": vgg16,
    "vgg16-convolutional": vgg16_convolutional,
    "mlp": mlp,
}


def _convolutions(shape: ImageShape, plan: tuple[int, ...], width: float) -> tuple[list[nn.Module], int]:
    channels, height, across = shape
    if max(height, across) > 32:
        raise StudyError(f"vgg16 is for images of at most 32 x 32 pixels, not {height} x {across}: use lenet5")
    # Five poolings leave one position of 32 x 32; smaller images get a border of zeros.
    high, wide = 32 - height, 32 - across
    layers: list[nn.Module] = [nn.ZeroPad2d((wide // 2, wide - wide // 2, high // 2, high - high // 2))]
    for planned in plan:
        if planned == _POOL:
            layers.append(nn.MaxPool2d(2))
        else:
            units = _units(planned, width)
            layers += [nn.Conv2d(channels, units, 3, padding=1), nn.BatchNorm2d(units), nn.ReLU()]
            channels = units
    return layers, channels


def _units(planned: int, width: float) -> int:
    return max(1, round(planned * width))


def build(name: str, shape: ImageShape, classes: int, width: float, *, seed: int) -> nn.Sequential:
    """A deterministic network, torch's initialisation by a seed; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return NETWORKS[name](shape, classes, width)


def stochastic(network: nn.Sequential, *, seed: int, initial_deviation: float | None = None) -> nn.Sequential:
    """The same network with every layer but the classifier stochastic, the same means. Deviations start at random, or
    everywhere at the same value."""
    last = str(_layers(network)[-1])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed + 2**34)
        return noisy.to_noisy(
            network, "stochastic", where=lambda name, layer: name != last, initial_deviation=initial_deviation
        )


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

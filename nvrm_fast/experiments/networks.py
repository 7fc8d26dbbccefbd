"""The studies' networks by name: two small ones without normalisation, and those of the NVRM paper's Table 1.

Each builder takes the image shape (channels, height, width), the number of classes and a width, and returns a
module that maps float32 images (N, channels, height, width) to logits (N, classes).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from nvrm_fast.experiments import StudyError, paper_networks

ImageShape = tuple[int, int, int]


def mlp(shape: ImageShape, classes: int, width: int) -> nn.Module:
    """Fully connected, two hidden layers of ``width`` ReLUs (the paper's FCN of appendix C.2 has 1024)."""
    channels, height, image_width = shape
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * height * image_width, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, classes),
    )


def cnn(shape: ImageShape, classes: int, width: int) -> nn.Module:
    """Two 5 x 5 convolutions of ``width`` and ``2 * width`` channels, each with ReLU and 2 x 2 max pooling,
    then one hidden layer of ``16 * width`` ReLUs: LeNet's plan. Images need at least 12 x 12 pixels."""
    channels, height, image_width = shape
    if min(height, image_width) < 12:
        raise StudyError(
            f"--network cnn needs images of at least 12 x 12 pixels, not {height} x {image_width}: use mlp"
        )
    positions = ((height // 2 - 4) // 2) * ((image_width // 2 - 4) // 2)
    return nn.Sequential(
        nn.Conv2d(channels, width, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * width * positions, 16 * width),
        nn.ReLU(),
        nn.Linear(16 * width, classes),
    )


class _Plan(NamedTuple):
    build: Callable[[ImageShape, int, int], nn.Module]
    default_width: int


NETWORKS: dict[str, _Plan] = {
    "cnn": _Plan(cnn, 8),
    "mlp": _Plan(mlp, 256),
    "vgg16": _Plan(paper_networks.vgg16, 64),
    "mobilenetv2": _Plan(paper_networks.mobilenetv2, 32),
    "resnet34": _Plan(paper_networks.resnet34, 64),
}


def build_network(name: str, shape: ImageShape, classes: int, width: int | None = None, *, seed: int) -> nn.Module:
    """A network on the CPU whose initial weights depend on ``seed`` only; torch's global generator is left as it was.

    Args:
        name: a key of ``NETWORKS``.
        shape: (channels, height, width) of one image.
        classes: number of logits.
        width: hidden units of the mlp or channels of the first layer; None takes the network's default.
        seed: seed of the initialisation (torch's default initialisation of each layer).

    Raises:
        StudyError: for an unknown name, a width below 1 or images too small for the network.
    """
    if name not in NETWORKS:
        raise StudyError(f"--network is {name!r}: choose one of {', '.join(NETWORKS)}")
    if width is not None and width < 1:
        raise StudyError(f"--width is {width}: choose 1 or more")
    plan = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return plan.build(shape, classes, plan.default_width if width is None else width)

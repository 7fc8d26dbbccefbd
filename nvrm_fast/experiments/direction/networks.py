"""The thesis's networks as plain stacks of layers, to be made noisy: section 5.1 and 5.2."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from nvrm_fast.experiments import StudyError
from nvrm_fast.experiments.networks import ImageShape


def fully_connected(shape: ImageShape, classes: int, hidden: Sequence[int], *, seed: int) -> nn.Sequential:
    """ReLU layers of so many units and a linear one: images (N, channels, height, width) to logits (N, classes)."""
    widths = [shape[0] * shape[1] * shape[2], *hidden, classes]

    def layers() -> list[nn.Module]:
        return [nn.Linear(fan_in, units) for fan_in, units in zip(widths, widths[1:])]

    first, *rest = _initialised(layers, seed)
    return nn.Sequential(nn.Flatten(), first, *(module for layer in rest for module in (nn.ReLU(), layer)))


def lenet_5(shape: ImageShape, classes: int, *, seed: int) -> nn.Sequential:
    """Convolutions 5 x 5 of 20 and 50 filters, each with ReLU and 2 x 2 max pooling, then 500 ReLUs.

    Raises:
        StudyError: for images of less than 16 x 16 pixels.
    """
    if min(shape[1:]) < 16:
        raise StudyError(f"lenet-5 needs images of at least 16 x 16 pixels, not {shape[1]} x {shape[2]}")
    positions = (((shape[1] - 4) // 2 - 4) // 2) * (((shape[2] - 4) // 2 - 4) // 2)

    def layers() -> list[nn.Module]:
        return [
            nn.Conv2d(shape[0], 20, 5),
            nn.Conv2d(20, 50, 5),
            nn.Linear(50 * positions, 500),
            nn.Linear(500, classes),
        ]

    first, second, third, last = _initialised(layers, seed)
    pooled = [nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(first, *pooled, second, *pooled, nn.Flatten(), third, nn.ReLU(), last)


def _initialised(layers: Callable[[], list[nn.Module]], seed: int) -> list[nn.Module]:
    """torch's default initialisation by a seed; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return layers()


LENETS: dict[str, Callable[..., nn.Sequential]] = {
    "lenet-300-100": lambda shape, classes, *, seed: fully_connected(shape, classes, (300, 100), seed=seed),
    "lenet-500-300": lambda shape, classes, *, seed: fully_connected(shape, classes, (500, 300), seed=seed),
    "lenet-5": lenet_5,
}

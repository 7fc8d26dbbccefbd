"""Every network once: plain stacks of torch's layers for images, from the smallest to those of the papers' tables.

Each builder takes the image shape (channels, height, width), the number of classes and its size, and returns a module
that maps float32 images (N, channels, height, width) to logits (N, classes). ``started`` makes the initial weights
follow from a seed. Noisy and stochastic networks are made of these by ``nvrm_fast.nn.to_noisy``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from studies import StudyError

ImageShape = tuple[int, int, int]


def started(build: Callable[..., nn.Module], *given: object, seed: int, **more: object) -> nn.Module:
    """``build(*given, **more)`` with torch's default initialization by a seed; the global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build(*given, **more)


def mlp(shape: ImageShape, classes: int, hidden: Sequence[int]) -> nn.Sequential:
    """Fully connected: hidden layers of so many ReLUs, then a linear one."""
    channels, height, image_width = shape
    layers: list[nn.Module] = [nn.Flatten()]
    inputs = channels * height * image_width
    for units in hidden:
        layers += [nn.Linear(inputs, units), nn.ReLU()]
        inputs = units
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


def cnn(shape: ImageShape, classes: int, width: int) -> nn.Sequential:
    """Two 5 x 5 convolutions of ``width`` and ``2 * width`` channels, each with ReLU and 2 x 2 max pooling, then one
    hidden layer of ``16 * width`` ReLUs: LeNet's plan, with a border at the first convolution.

    Raises:
        StudyError: for images of less than 12 x 12 pixels.
    """
    return _lenet(shape, classes, (width, 2 * width, 16 * width), padding=2, least=12, name="cnn")


def lenet5(shape: ImageShape, classes: int, width: float = 1.0) -> nn.Sequential:
    """LeNet-5 as Caffe has it, 20-50-500: two 5 x 5 convolutions with ReLU and 2 x 2 max pooling, then 500 ReLUs.
    width: multiplies the numbers of neurons.

    Raises:
        StudyError: for images of less than 16 x 16 pixels.
    """
    units = tuple(max(1, round(planned * width)) for planned in (20, 50, 500))
    return _lenet(shape, classes, units, padding=0, least=16, name="lenet5")


def _lenet(
    shape: ImageShape, classes: int, units: tuple[int, ...], *, padding: int, least: int, name: str
) -> nn.Sequential:
    channels, height, image_width = shape
    if min(height, image_width) < least:
        raise StudyError(
            f"--network {name} needs images of at least {least} x {least} pixels, not {height} x {image_width}: use mlp"
        )

    def left(pixels: int) -> int:
        return ((pixels - 4 + 2 * padding) // 2 - 4) // 2

    first, second, third = units
    return nn.Sequential(
        nn.Conv2d(channels, first, 5, padding=padding),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * left(height) * left(image_width), third),
        nn.ReLU(),
        nn.Linear(third, classes),
    )


# The convolutional networks of the NVRM paper, Table 1, for images of 32 x 32 pixels or so. The table does not show
# normalization; the published code normalizes every convolution over the batch, and so it is here. `width` is the
# number of channels at the first resolution (64 in VGG-16 and ResNet-34, 32 in MobileNetV2); all others follow in
# proportion, so that a small one can be tried on a CPU.


def _convolution(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
    ]


def vgg16(shape: ImageShape, classes: int, width: int) -> nn.Sequential:
    """VGG-16 (Simonyan and Zisserman, 2015) with two hidden layers of 8 * width units. Any image size: pooling
    rounds odd sizes up, which changes nothing for 32 x 32 pixels."""
    hidden = 8 * width
    convolutions = _vgg(shape[0], width, (2, 2, 3, 3, 3))
    # ReLU not in place: a stochastic layer's output, a view, does not allow it.
    head = [nn.Linear(_vgg_values(shape, width), hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.Flatten(), *head, nn.Linear(hidden, classes))


def vgg16_convolutional(shape: ImageShape, classes: int, width: int) -> nn.Sequential:
    """VGG-16 with three more convolutions in place of the two hidden layers (Liu et al., 2017)."""
    convolutions = _vgg(shape[0], width, (2, 2, 4, 4, 4))
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(_vgg_values(shape, width), classes))


def _vgg(channels: int, width: int, counts: tuple[int, ...]) -> list[nn.Module]:
    """So many convolutions at each resolution, with pooling after them."""
    layers: list[nn.Module] = []
    for factor, count in zip((1, 2, 4, 8, 8), counts):
        for _ in range(count):
            layers += [*_convolution(channels, factor * width, 3), nn.ReLU(inplace=True)]
            channels = factor * width
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
    return layers


def _vgg_values(shape: ImageShape, width: int) -> int:
    """What is left after five poolings."""
    return 8 * width * (-(-shape[1] // 32)) * (-(-shape[2] // 32))


class _Residual(nn.Module):
    """after(body(x) + shortcut(x))."""

    def __init__(self, body: nn.Module, shortcut: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut, self.after = body, shortcut, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.body(x) + self.shortcut(x))


def _basic_block(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    body = nn.Sequential(
        *_convolution(in_channels, out_channels, 3, stride), nn.ReLU(inplace=True),
        *_convolution(out_channels, out_channels, 3),
    )  # fmt: skip
    alike = stride == 1 and in_channels == out_channels
    shortcut = nn.Identity() if alike else nn.Sequential(*_convolution(in_channels, out_channels, 1, stride))
    return _Residual(body, shortcut, nn.ReLU(inplace=True))


def resnet34(shape: ImageShape, classes: int, width: int) -> nn.Module:
    """ResNet-34 (He et al., 2016) in its form for small images: a 3 x 3 convolution in front, no pooling before the
    blocks. Any image size."""
    layers: list[nn.Module] = [*_convolution(shape[0], width, 3), nn.ReLU(inplace=True)]
    channels = width
    for stage, count in enumerate((3, 4, 6, 3)):
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(_basic_block(channels, width * 2**stage, stride))
            channels = width * 2**stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def _bottleneck(in_channels: int, out_channels: int, expansion: int, stride: int) -> nn.Module:
    wide = expansion * in_channels
    body = nn.Sequential(
        *_convolution(in_channels, wide, 1), nn.ReLU6(inplace=True),
        *_convolution(wide, wide, 3, stride, groups=wide), nn.ReLU6(inplace=True),
        *_convolution(wide, out_channels, 1),
    )  # fmt: skip
    alike = stride == 1 and in_channels == out_channels
    return _Residual(body, nn.Identity(), nn.Identity()) if alike else body


def mobilenetv2(shape: ImageShape, classes: int, width: int) -> nn.Module:
    """MobileNetV2 (Sandler et al., 2018) that halves the image three times, where Table 1 has round brackets. Channels
    are width / 32 times the table's, rounded up. Any image size."""

    def scaled(channels: int) -> int:
        return -(-channels * width // 32)

    channels = scaled(32)
    layers: list[nn.Module] = [*_convolution(shape[0], channels, 3), nn.ReLU6(inplace=True)]
    # (expansion, channels, blocks, stride of the first)
    stages = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, out, count, first in stages:
        for block in range(count):
            layers.append(_bottleneck(channels, scaled(out), expansion, first if block == 0 else 1))
            channels = scaled(out)
    hidden = scaled(1280)
    layers += [*_convolution(channels, hidden, 1), nn.ReLU6(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(hidden, classes))


class _Plan(NamedTuple):
    build: Callable[[ImageShape, int, int], nn.Module]
    default_width: int


NETWORKS: dict[str, _Plan] = {
    "cnn": _Plan(cnn, 8),
    "mlp": _Plan(lambda shape, classes, width: mlp(shape, classes, (width, width)), 256),
    "vgg16": _Plan(vgg16, 64),
    "mobilenetv2": _Plan(mobilenetv2, 32),
    "resnet34": _Plan(resnet34, 64),
}
#: Widths at which two cores train those of the paper's table in seconds an epoch.
SMALL_WIDTHS = {"vgg16": 8, "resnet34": 4, "mobilenetv2": 8}
NetworkName = Literal["cnn", "mlp", "vgg16", "mobilenetv2", "resnet34"]


def build(name: str, shape: ImageShape, classes: int, width: int | None = None, *, seed: int) -> nn.Module:
    """A network of ``NETWORKS`` on the CPU. width: units of the mlp's two hidden layers or channels of the first layer
    of the others; None takes the network's default."""
    plan = NETWORKS[name]
    return started(plan.build, shape, classes, plan.default_width if width is None else width, seed=seed)


def with_dropout(network: nn.Module, p: float) -> nn.Module:
    """The network with dropout (Srivastava et al., 2014) before its last linear layer, itself changed."""
    name = last_linear(network)
    network.set_submodule(name, nn.Sequential(nn.Dropout(p), network.get_submodule(name)))
    return network


def last_linear(network: nn.Module) -> str:
    """The name of the last linear layer, which gives the logits."""
    return [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]

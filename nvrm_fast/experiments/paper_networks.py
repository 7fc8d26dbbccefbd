"""The convolutional networks of the NVRM paper's Table 1, for images of 32 x 32 pixels or so.

The table does not show normalisation; the published code normalises every convolution over the batch, and so it is
here. `width` is the number of channels at the first resolution (64 in VGG-16 and ResNet-34, 32 in MobileNetV2): all
others follow in proportion, so that a small one can be tried on a CPU.
"""

from __future__ import annotations

from torch import Tensor, nn

ImageShape = tuple[int, int, int]


def _convolution(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
    ]


def vgg16(shape: ImageShape, classes: int, width: int) -> nn.Module:
    """VGG-16 (Simonyan and Zisserman, 2015) with two hidden layers of 8 * width units. Any image size: pooling
    rounds odd sizes up, which changes nothing for 32 x 32 pixels."""
    channels, height, image_width = shape
    layers: list[nn.Module] = []
    for factor, count in ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3)):
        for _ in range(count):
            layers += [*_convolution(channels, factor * width, 3), nn.ReLU(inplace=True)]
            channels = factor * width
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
    hidden = 8 * width
    positions = -(-height // 32) * -(-image_width // 32)
    head = [nn.Linear(hidden * positions, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, hidden)]
    return nn.Sequential(*layers, nn.Flatten(), *head, nn.ReLU(inplace=True), nn.Linear(hidden, classes))


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

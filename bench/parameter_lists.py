"""What is stepped: lists of parameter shapes, and parameters with gradients made from them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Shape = tuple[int, ...]

ONE_TENSOR = "one tensor"
RESNET34 = "ResNet-34"


def resnet34_shapes() -> list[Shape]:
    """The parameters of ResNet-34 for ImageNet (He et al. 2016, table 1) in the order of the forward pass.

    7 x 7 stem, basic blocks 3, 4, 6, 3, projection shortcuts, 1000 classes: 110 tensors, 21 797 672 elements. Two
    thirds of the tensors hold 1024 elements at most and five hold two million each, so that both the cost of a tensor
    and the cost of an element show.
    """

    def convolution_and_norm(channels_in: int, channels_out: int, kernel: int) -> list[Shape]:
        return [(channels_out, channels_in, kernel, kernel), (channels_out,), (channels_out,)]

    shapes = convolution_and_norm(3, 64, 7)
    channels_in = 64
    for channels, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for _ in range(blocks):
            shapes += convolution_and_norm(channels_in, channels, 3)
            shapes += convolution_and_norm(channels, channels, 3)
            if channels_in != channels:
                shapes += convolution_and_norm(channels_in, channels, 1)
            channels_in = channels
    return shapes + [(1000, 512), (1000,)]


PARAMETER_LISTS: dict[str, list[Shape]] = {ONE_TENSOR: [(25_000_000,)], RESNET34: resnet34_shapes()}

#: Odd sizes, so that vector bodies, tails and tensors shorter than one vector are all in it.
SMALL_LIST: list[Shape] = [(4099,), (33, 65), (16, 3, 3, 3), (257,), (1,), (7,)]


def element_count(shapes: Sequence[Shape]) -> int:
    return sum(math.prod(shape) for shape in shapes)


def describe(name: str) -> str:
    """What a list is, how many tensors and elements, in one line."""
    shapes = PARAMETER_LISTS[name]
    elements = f"{element_count(shapes):_} elements".replace("_", " ")
    if name == ONE_TENSOR:
        return f"one tensor of {elements}"
    return f"{name} (ImageNet stem and head: {len(shapes)} tensors, {elements})"


def make_parameters(shapes: Sequence[Shape], dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
    """Parameters N(0, 1). Filled in place: a temporary here would hide one of a step in the memory measurement."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.empty(shape, dtype=dtype).normal_(generator=generator) for shape in shapes]


def make_gradients(parameters: Sequence[Tensor], seed: int = 1) -> list[Tensor]:
    """Gradients N(0, 1) in the parameters' shapes and dtype."""
    return make_parameters([tuple(p.shape) for p in parameters], parameters[0].dtype, seed)


def copy_parameters(parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
    """Own copies of the parameters, with the given gradients: these are only read, so all optimizers share them."""
    copies = [p.detach().clone() for p in parameters]
    for copy, gradient in zip(copies, gradients):
        copy.grad = gradient
    return copies

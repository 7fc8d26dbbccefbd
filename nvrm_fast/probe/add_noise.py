"""z + W_NI eps with autograd: eps is drawn twice, in forward and in backward, and never saved."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .example_noise import elements, example_noise


class Draw(NamedTuple):
    """How eps is drawn: everything but the key and the examples, which are tensors."""

    nodes: int
    sigma: float
    stream: int
    distribution: int
    dim: int  # the feature dimension of the pre-activations


def add_shift(output: Tensor, shift: Tensor, dim: int) -> Tensor:
    """output + shift, with shift of shape (N, features) the same at all of an example's positions."""
    shape = [1] * output.dim()
    shape[0], shape[dim] = shift.shape
    return output + shift.to(output.dtype).view(shape)


def draw_noise(count: int, examples: Tensor | None, key: Tensor, draw: Draw) -> Tensor:
    """eps of shape (count, nodes), float32, on the key's device; by example, or by place in the batch."""
    if examples is None:
        places = torch.arange(count * draw.nodes, device=key.device).view(count, draw.nodes)
        unit = elements(places, key, stream=draw.stream, distribution=draw.distribution)
    else:
        unit = example_noise(
            examples.to(key.device), draw.nodes, key, stream=draw.stream, distribution=draw.distribution
        )
    return unit * draw.sigma


class _AddDrawnNoise(torch.autograd.Function):
    @staticmethod
    def forward(output: Tensor, weight: Tensor, examples: Tensor | None, key: Tensor, draw: Draw) -> Tensor:
        eps = draw_noise(len(output), examples, key, draw)
        return add_shift(output, eps.to(weight.dtype) @ weight, draw.dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], result: Tensor) -> None:
        _, weight, examples, key, draw = inputs
        ctx.save_for_backward(examples, key)
        ctx.draw, ctx.dtype = draw, weight.dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_weight = None
        if ctx.needs_input_grad[1]:
            examples, key = ctx.saved_tensors
            eps = draw_noise(len(grad), examples, key, ctx.draw).to(ctx.dtype)
            a_feature = grad.movedim(ctx.draw.dim, -1).reshape(len(grad), -1, grad.shape[ctx.draw.dim])
            grad_weight = eps.T @ a_feature.sum(1).to(ctx.dtype)
        return grad, grad_weight, None, None, None


def add_drawn_noise(output: Tensor, weight: Tensor, examples: Tensor | None, key: Tensor, draw: Draw) -> Tensor:
    """output + W_NI eps.

    Args:
        output: (N, ...) with the features in dimension draw.dim.
        weight: W_NI of shape (nodes, features).
        examples: int64 of shape (N,), or None: eps by place in the batch.
        key: int64 of shape (2,); see `example_noise.elements`.
        draw: how eps is drawn.
    """
    return _AddDrawnNoise.apply(output, weight, examples, key, draw)

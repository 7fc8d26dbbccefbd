"""Noise that examples share: one tangent direction for each weight vector, drawn once for the mini-batch.

shared    the draw as it is. Rotation angles and magnitudes are drawn for each example and neuron, as equation 48 of the
          thesis of P. Kirichenko (2018) proposes. The other distributions, whose noise is one Gaussian weight matrix,
          draw once a neuron.
batch     as shared, and every distribution draws one angle a neuron, so that each weight vector is turned once for the
          whole mini-batch: what the thesis's experiments did (sections 5.1.2 and 5.2). Magnitudes are drawn for each
          example.
flipout   each example flips the signs of the shared Gaussian matrix's columns by its own random signs and each
          activation the sign of its row (after Wen et al., 2018), and every angle is drawn for each activation. The
          flipped Gaussian is projected into the tangent space again and normalized for each example, by one more small
          product, so that every activation on its own has the distribution of local sampling.

Draws of the weights' shape are made again for backward (checkpoint), never kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..contract.layers import DirectionParameters
from ..ops import direction as direction_ops
from ..ops.noise import gaussian_like
from ..ops.transforms import transformed
from .base import wide
from .weight_norm import WeightNormalized

#: Steps of the noise contract that the different draws of one forward pass take, so that none overlaps.
ACTIVATIONS, WEIGHTS, SIGNS_IN, SIGNS_OUT = range(4)


def _again_in_backward(function: Callable[..., Tensor], *tensors: Tensor) -> Any:
    if not torch.compiler.is_compiling() and transformed():  # torch.func has no checkpoints
        return function(*tensors)
    return checkpoint(function, *tensors, use_reentrant=False, preserve_rng_state=False)


def _signs(like: Tensor, key: Tensor, stream: int, step: int) -> Tensor:
    """1 or -1, each with probability 1/2, of like's shape and dtype."""
    return torch.where(gaussian_like(like, key, stream, step) < 0, -1.0, 1.0).to(like.dtype)


def _gaussian(layer: WeightNormalized, key: Tensor) -> Tensor:
    return gaussian_like(layer.weight_v, key, layer.stream, WEIGHTS).to(layer.weight_v.dtype)


def _projections(unit: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """noise . unit and |noise|^2 of each row, for (neurons, fan_in); at least float32, which a long row needs."""
    dtype = wide(noise.dtype)
    return (noise * unit).sum(dim=1, dtype=dtype), torch.linalg.vector_norm(noise, dim=1, dtype=dtype).square()


def _unit(layer: WeightNormalized) -> Tensor:
    """Weight vectors of length 1, of weight_v's shape."""
    return layer.weight_v * layer.inverse_norms().view_as(layer.weight_g).to(layer.weight_v.dtype)


def _weight_angles(layer: WeightNormalized, key: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin of one angle for each weight vector: shape (1, neurons, 1). Few, so plain torch draws them."""
    assert layer.direction is not None  # there is no angle else
    law_param_0, law_param_1, constants = layer._law_tensors(dtype)
    settings = layer._settings(direction=layer.direction)._replace(step=WEIGHTS)
    variates = direction_ops.variates((1, layer.neurons, 1), constants, key, settings)
    return direction_ops.turning_angle(layer.direction, variates, constants, law_param_0, law_param_1, dtype)


def _finish(layer: WeightNormalized, s: Tensor, across: Tensor, key: Tensor, bias: Tensor | None) -> Tensor:
    """magnitude (cos s + sin across) + bias; s and across (examples, neurons, positions)."""
    magnitude_mean, magnitude_std = layer._magnitude()
    dtype = magnitude_mean.dtype
    law_param_0, law_param_1, constants = layer._law_tensors(dtype)
    direction = layer.direction
    of_weights = layer.sampling == "batch" or (
        layer.sampling == "shared" and direction is not None and direction.angle_of_weights
    )
    if direction is not None and of_weights:
        cosine, sine = _weight_angles(layer, key, dtype)
        s = (cosine * s + sine * across).to(s.dtype)
        direction, law_param_0, law_param_1, constants = None, None, None, constants[:0]
        across = torch.zeros(0, dtype=dtype, device=s.device)
    return direction_ops.direction_noise(
        s,
        across.to(dtype),
        torch.ones_like(magnitude_mean),
        DirectionParameters(
            magnitude_mean,
            magnitude_std,
            None if bias is None else bias.to(dtype),
            law_param_0,
            law_param_1,
            constants,
            key,
        ),
        layer._settings(direction=direction, tangent_given=direction is not None),
    )


def dense(layer: WeightNormalized, x: Tensor, key: Tensor) -> Tensor:
    """(examples, out_features) from (examples, in_features)."""
    unit = _unit(layer)
    s = F.linear(x, unit)

    def shared_part(x: Tensor, unit: Tensor, s: Tensor) -> Tensor:
        noise = _gaussian(layer, key)
        along, squares = _projections(unit, noise)
        if layer.sampling != "flipout":
            return (F.linear(x, noise) - along * s) * _inverse_length(squares, along)
        signs = _signs(x, key, layer.stream, SIGNS_IN)
        along = F.linear(signs, noise * unit)
        flipped = (F.linear(x * signs, noise) - along * s) * _inverse_length(squares, along)
        return flipped * _signs(flipped, key, layer.stream, SIGNS_OUT)

    across = _again_in_backward(shared_part, x, unit, s)
    return _finish(layer, s.unsqueeze(2), across.unsqueeze(2), key, layer.bias).squeeze(2)


def _inverse_length(squares: Tensor, along: Tensor) -> Tensor:
    """1 / the length of a Gaussian's part in the tangent space."""
    return (squares - along * along).clamp_min(1e-12).rsqrt()


def convolution(
    layer: WeightNormalized, convolve: Callable[[Tensor, Tensor], Tensor], groups: int, x: Tensor, key: Tensor
) -> Tensor:
    """(batch, out_channels, *positions) from a padded (batch, in_channels, *positions).

    convolve: x and a weight to their convolution, in so many groups.
    """
    unit = _unit(layer)
    s = convolve(x, unit)
    ones = (1,) * (x.dim() - 2)

    def shared_part(x: Tensor, unit: Tensor, s: Tensor) -> Tensor:
        noise = _gaussian(layer, key)
        along, squares = _projections(unit.flatten(1), noise.flatten(1))
        along, squares = along.view(-1, *ones), squares.view(-1, *ones)
        if layer.sampling != "flipout":
            flipped = convolve(x, noise)
            return (flipped - along * s) * _inverse_length(squares, along)
        # One sign for each example and channel: the kernels of one example are flipped alike at all positions.
        signs = _signs(x.new_empty(x.shape[0], x.shape[1], *ones), key, layer.stream, SIGNS_IN)
        by_channel = (noise * unit).flatten(2).sum(dim=2)
        along = F.conv1d(signs.flatten(2), by_channel.unsqueeze(2), groups=groups).view(x.shape[0], -1, *ones)
        flipped = convolve(x * signs, noise)
        flipped = (flipped - along * s) * _inverse_length(squares, along)
        return flipped * _signs(along, key, layer.stream, SIGNS_OUT)

    across = _again_in_backward(shared_part, x, unit, s)
    return _finish(layer, s.flatten(2), across.flatten(2), key, layer.bias).view(s.shape)


def input_normalized(layer: WeightNormalized, x: Tensor, key: Tensor) -> Tensor:
    """A dense layer whose weight vectors belong to input units: (examples, out_features) from (examples, in_features).

    y = sum_i x_i magnitude_i (cos_i v_i + sin_i phi_i), v_i and phi_i of length out_features. Angle and magnitude are
    drawn for each example and input unit, phi_i is shared, or flipped by signs of each example and output.
    """
    unit = _unit(layer)
    columns, nothing = x.unsqueeze(2), torch.zeros_like(x).unsqueeze(2)
    if layer.direction is None:
        noisy = layer._noisy(columns, None, torch.ones_like(layer._mean_magnitude()), None, key).squeeze(2)
        return F.linear(noisy, unit, layer.bias)
    # Both parts come from one key, so they have the same angles and magnitudes.
    along_part = _finish(layer, columns, nothing, key, None).squeeze(2)
    across_part = _finish(layer, nothing, columns, key, None).squeeze(2)

    def shared_part(along_part: Tensor, across_part: Tensor, unit: Tensor) -> Tensor:
        noise = _gaussian(layer, key)
        along, squares = _projections(unit.t(), noise.t())
        if layer.sampling != "flipout":
            tangent = (noise - along * unit) * _inverse_length(squares, along)
            return F.linear(across_part, tangent)
        signs = _signs(x.new_empty(x.shape[0], layer.weight_v.shape[0]), key, layer.stream, SIGNS_OUT)
        along = signs @ (noise * unit)
        across = across_part * _inverse_length(squares, along) * _signs(x, key, layer.stream, SIGNS_IN)
        return F.linear(across, noise) * signs - F.linear(across * along, unit)

    noisy = _again_in_backward(shared_part, along_part, across_part, unit)
    y = F.linear(along_part, unit, layer.bias)
    return y + noisy.to(y.dtype)

"""Stochastic layers: schemas, fakes, autograd formulas, and the calls that layers make.

    stochastic_activation           what follows the product of doubled width: sigma, noise, activation, sums
    stochastic_activation_backward  its gradient, the noise drawn again from the key

What they compute and the shapes are in nvrm_fast/reference/stochastic.py. Second derivatives go by the formula there.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contract.arguments import schema_fields
from ..contract.layers import NOTHING, StochasticSettings, sums_shape
from ..reference import stochastic as reference
from . import registry
from .noise import gaussian_like
from .operator import Route, define, set_autograd
from .transforms import apart, transformed

_SETTINGS = schema_fields(StochasticSettings)


def _fake_stochastic_activation(z: Tensor, key: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(z.dtype, torch.float32)
    shape = sums_shape(z, StochasticSettings(*args).sums)
    return z.new_empty(z.shape[0], z.shape[1] // 2, z.shape[2]), z.new_empty(shape, dtype=dtype)


def _fake_stochastic_activation_backward(grad: Tensor, grad_sums: Tensor, z: Tensor, *args: Any) -> Tensor:
    return torch.empty_like(z, memory_format=torch.contiguous_format)


define(
    "stochastic_activation",
    f"Tensor z, Tensor key, {_SETTINGS}",
    "(Tensor, Tensor)",
    reference=reference.stochastic_activation,
    fake=_fake_stochastic_activation,
    native=("cpu", "cuda"),
    triton="stochastic",
)
define(
    "stochastic_activation_backward",
    f"Tensor grad, Tensor grad_sums, Tensor z, Tensor key, {_SETTINGS}",
    "Tensor",
    reference=reference.stochastic_activation_backward,
    fake=_fake_stochastic_activation_backward,
    native=("cpu", "cuda"),
    triton="stochastic",
)


class StochasticActivation(torch.autograd.Function):
    """stochastic_activation, for a dense layer (weight given) with its product: x (examples, in), weight (2 neurons,
    in) and bias (2 neurons,) or None, of one dtype. Without a weight x is z.

    Keeps inputs and products, never noise. Differentiable twice: backward then makes the product again, in a graph.
    """

    @staticmethod
    def forward(
        ctx: Any,
        route: Route,
        settings: StochasticSettings,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        key: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.route, ctx.settings = route, settings
        if weight is None:
            ctx.save_for_backward(x, key, None, None, None)
            return tuple(route.run("stochastic_activation", x.device, x, key, *settings))
        z = F.linear(x, weight, bias).unsqueeze(2)
        ctx.save_for_backward(z, key, x, weight, bias)
        y, sums = route.run("stochastic_activation", x.device, z, key, *settings)
        # In place, since a view as a result would refuse what the user does to it in place.
        return y.squeeze_(2), sums

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_sums: Tensor) -> tuple[Tensor | None, ...]:
        ctx.spent = True  # for regularizer_loss: this pass has reached a loss already
        z, key, x, weight, bias = ctx.saved_tensors
        _, _, need_x, need_weight, need_bias, _ = ctx.needs_input_grad
        if weight is None:
            return None, None, _gradient(ctx.route, grad, grad_sums, z, key, ctx.settings), None, None, None
        if torch.is_grad_enabled():
            z = F.linear(x, weight, bias).unsqueeze(2)
        dz = _gradient(ctx.route, grad.unsqueeze(2), grad_sums, z, key, ctx.settings).squeeze(2)
        dx = dz @ weight if need_x else None
        d_weight = dz.t() @ x if need_weight else None
        return None, None, dx, d_weight, dz.sum(0) if need_bias else None, None


class StochasticActivationBackward(torch.autograd.Function):
    """stochastic_activation_backward; its own gradients are those of the formula."""

    @staticmethod
    def forward(
        ctx: Any,
        route: Route,
        settings: StochasticSettings,
        grad: Tensor,
        grad_sums: Tensor,
        z: Tensor,
        key: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(grad, grad_sums, z, key)
        ctx.settings = settings
        return route.run("stochastic_activation_backward", z.device, grad, grad_sums, z, key, *settings)

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of (dz * weight).sum() for grad, grad_sums and z."""
        *tensors, key = ctx.saved_tensors
        pull = torch.func.vjp(lambda *given: _first_order(ctx.settings, key, *given), *tensors)[1]
        return (None, None, *pull(weight), None)


def _formula(settings: StochasticSettings, z: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """stochastic_activation by functions that autograd knows."""
    shape = (z.shape[0], z.shape[1] // 2, z.shape[2])
    eps = gaussian_like(apart(shape, z), key, *settings[:3])
    return reference.stochastic_formula(z, eps, settings)


def _first_order(settings: StochasticSettings, key: Tensor, grad: Tensor, grad_sums: Tensor, z: Tensor) -> Tensor:
    """stochastic_activation_backward by functions that autograd knows, to any order and for every transform."""
    (y, sums), pull = torch.func.vjp(lambda z: _formula(settings, z, key), z)[:2]
    return pull((grad.to(y.dtype), torch.zeros_like(sums) if settings.sums == NOTHING else grad_sums))[0]


def _gradient(
    route: Route, grad: Tensor, grad_sums: Tensor, z: Tensor, key: Tensor, settings: StochasticSettings
) -> Tensor:
    tensors = (grad.contiguous(), grad_sums.contiguous(), z, key)
    if route.operator:
        operator = torch.ops.nvrm_fast.stochastic_activation_backward.default
        return operator(*tensors, *settings, backend=route.backend)
    if transformed():
        return _first_order(settings, key, *tensors[:3])
    if torch.is_grad_enabled():
        return StochasticActivationBackward.apply(route, settings, *tensors)
    return route.run("stochastic_activation_backward", z.device, *tensors, *settings)


set_autograd(
    "stochastic_activation",
    lambda route, z, key, *args: StochasticActivation.apply(route, StochasticSettings(*args), z, None, None, key),
    lambda z, key, *args: _formula(StochasticSettings(*args), z, key),
)
set_autograd(
    "stochastic_activation_backward",
    lambda route, grad, grad_sums, z, key, *args: StochasticActivationBackward.apply(
        route, StochasticSettings(*args), grad, grad_sums, z, key
    ),
    lambda grad, grad_sums, z, key, *args: _first_order(StochasticSettings(*args), key, grad, grad_sums, z),
)


def deviation(raw: Tensor) -> Tensor:
    """The standard deviations that a layer makes of raw values: softplus, by functions that autograd knows."""
    return reference.deviation_formula(raw)[0]


def stochastic_activation(
    z: Tensor, key: Tensor, settings: StochasticSettings, *, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """Activations (outer, neurons, inner) and sums of log sigma from z (outer, 2 neurons, inner); differentiable twice.

    z: float32, float64, bfloat16 or float16. backend: by default the fastest that has a kernel for the device. Raises
    ValueError or TypeError that names a bad argument.
    """
    z = z.contiguous()
    if torch.compiler.is_compiling():
        return torch.ops.nvrm_fast.stochastic_activation(z, key, *settings, backend=backend)
    if transformed():
        return _formula(settings, z, key)
    route = Route(False, registry.choose("stochastic_activation", z.device, backend))
    if z.requires_grad and torch.is_grad_enabled():
        return StochasticActivation.apply(route, settings, z, None, None, key)
    return route.run("stochastic_activation", z.device, z, key, *settings)


def dense_stochastic_activation(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    key: Tensor,
    settings: StochasticSettings,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """stochastic_activation of a dense layer with its product, as one differentiable function.

    x (examples, in), weight (2 neurons, in), bias (2 neurons,) or None, of one dtype; activations (examples, neurons)
    and the sums. Not for torch.compile, nor inside torch.func's transforms or forward mode.
    """
    route = Route(False, registry.choose("stochastic_activation", x.device, backend))
    return StochasticActivation.apply(route, settings, x, weight, bias, key)


def stochastic_activation_backward(
    grad: Tensor, grad_sums: Tensor, z: Tensor, key: Tensor, settings: StochasticSettings, *, backend: str | None = None
) -> Tensor:
    """The gradient for z from those of stochastic_activation's results; differentiable once. Raises as that does."""
    compiling = torch.compiler.is_compiling()
    chosen = backend if compiling else registry.choose("stochastic_activation_backward", z.device, backend)
    return _gradient(Route(compiling, chosen), grad, grad_sums, z.contiguous(), key, settings)

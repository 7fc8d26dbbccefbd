"""The operators of stochastic layers: schemas, fakes, autograd formulas, the door to their kernels, as direction.py.

    stochastic_activation           what follows the product of doubled width: sigma, noise, activation, sums
    stochastic_activation_backward  its gradient, the noise drawn again from the key

What they compute and the shapes are in nvrm_fast/reference/stochastic.py. Second derivatives go by the formula there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
from torch import Tensor

from ..reference import stochastic
from ..reference.stochastic import NEURON, NOTHING, Settings
from . import registry
from .direction import default_backend

_SETTINGS = "int stream, int step, int offset, int activation, int sums, float margin"
_SCHEMAS = {
    "stochastic_activation": f"(Tensor z, Tensor key, {_SETTINGS}) -> (Tensor, Tensor)",
    "stochastic_activation_backward": f"(Tensor grad, Tensor grad_sums, Tensor z, Tensor key, {_SETTINGS}) -> Tensor",
}
_REFERENCE = {name: getattr(stochastic, name) for name in _SCHEMAS}


def kernel_of(name: str, chosen: str) -> Callable:
    """An operator on a backend, as what needs no graph calls it."""
    if chosen == "reference":
        return _REFERENCE[name]
    if chosen == "triton":
        return getattr(importlib.import_module("nvrm_fast.triton.stochastic"), name)
    return _KERNELS[name]


def _on_cuda(name: str) -> Callable:
    """The kernel of CUDA tensors: Triton if it imports (that is tried at the first call), else the reference."""

    def kernel(*args):
        return kernel_of(name, default_backend(torch.device("cuda")))(*args)

    return kernel


_library = torch.library.Library("nvrm_fast", "FRAGMENT")
for _name, _schema in _SCHEMAS.items():
    _library.define(_name + _schema)
    _library.impl(_name, _REFERENCE[_name], "CompositeExplicitAutograd")
    _library.impl(_name, _on_cuda(_name), "CUDA")
    # Two twins that no formula for gradients is in the way of: to the reference, which native kernels hand float64 on
    # to, and to the dispatcher's choice, for callers that have no use for a graph.
    for _twin in ("reference", "kernel"):
        _library.define(f"{_name}_{_twin}{_schema}")
        _library.impl(f"{_name}_{_twin}", _REFERENCE[_name], "CompositeExplicitAutograd")
    _library.impl(f"{_name}_kernel", _on_cuda(_name), "CUDA")
_KERNELS = {name: getattr(torch.ops.nvrm_fast, f"{name}_kernel").default for name in _SCHEMAS}


def sums_shape(z: Tensor, sums: int) -> tuple[int, ...]:
    """The shape of the second result."""
    if sums == NOTHING:
        return (0,)
    return (z.shape[1] // 2,) if sums == NEURON else (z.shape[0],)


@torch.library.register_fake("nvrm_fast::stochastic_activation", lib=_library)
def _(z, key, stream, step, offset, activation, sums, margin):
    dtype = torch.promote_types(z.dtype, torch.float32)
    return z.new_empty(z.shape[0], z.shape[1] // 2, z.shape[2]), z.new_empty(sums_shape(z, sums), dtype=dtype)


@torch.library.register_fake("nvrm_fast::stochastic_activation_backward", lib=_library)
def _(grad, grad_sums, z, *args):
    return torch.empty_like(z, memory_format=torch.contiguous_format)


def _setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.settings = inputs[2:]


def _backward(ctx, grad, grad_sums):
    operator = torch.ops.nvrm_fast.stochastic_activation_backward
    dz = operator(grad.contiguous(), grad_sums.contiguous(), *ctx.saved_tensors, *ctx.settings)
    return dz, None, *[None] * len(ctx.settings)


def _setup_backward(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.settings = inputs[4:]


def _backward_of_backward(ctx, weight):
    """Gradients of (dz * weight).sum() for grad, grad_sums and z, by the formula."""
    grad, grad_sums, z, key = ctx.saved_tensors
    settings = Settings(*ctx.settings)
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in (grad, grad_sums, z)]
        eps = torch.ops.nvrm_fast.gaussian_like(grad.detach(), key, *settings[:3])
        y, sums = stochastic.stochastic_formula(leaves[2], eps, settings)
        results, given = ([y], leaves[:1]) if settings.sums == NOTHING else ([y, sums], leaves[:2])
        (dz,) = torch.autograd.grad(results, leaves[2], given, create_graph=True)
        found = torch.autograd.grad((dz * weight).sum(), leaves, allow_unused=True)
    return (*found, None, *[None] * len(ctx.settings))


torch.library.register_autograd("nvrm_fast::stochastic_activation", _backward, setup_context=_setup, lib=_library)
torch.library.register_autograd(
    "nvrm_fast::stochastic_activation_backward", _backward_of_backward, setup_context=_setup_backward, lib=_library
)


class _Eager(torch.autograd.Function):
    """stochastic_activation outside compiled graphs, on any backend: the operator's formulas with less Python between.

    Dispatching an operator with a formula in Python takes longer than a small layer's kernel does.
    """

    @staticmethod
    def forward(ctx, backend, z, key, settings):
        ctx.backend, ctx.settings = backend, settings
        ctx.save_for_backward(z, key)
        return tuple(kernel_of("stochastic_activation", backend)(z, key, *settings))

    @staticmethod
    def backward(ctx, grad, grad_sums):
        z, key = ctx.saved_tensors
        dz = stochastic_activation_backward(grad, grad_sums, z, key, ctx.settings, backend=ctx.backend)
        return None, dz, None, None


class _EagerBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, backend, grad, grad_sums, z, key, settings):
        _setup_backward(ctx, (grad, grad_sums, z, key, *settings), None)
        return kernel_of("stochastic_activation_backward", backend)(grad, grad_sums, z, key, *settings)

    @staticmethod
    def backward(ctx, weight):
        return None, *_backward_of_backward(ctx, weight)[:4], None


def stochastic_activation_backward(
    grad: Tensor, grad_sums: Tensor, z: Tensor, key: Tensor, settings: Settings, *, backend: str | None = None
) -> Tensor:
    """The gradient for z from those of stochastic_activation's results; differentiable once. Raises as that does."""
    tensors = (grad.contiguous(), grad_sums.contiguous(), z.contiguous(), key)
    chosen = registry.choose(z.device, backend)
    if torch.is_grad_enabled():
        return _EagerBackward.apply(chosen, *tensors, settings)
    return kernel_of("stochastic_activation_backward", chosen)(*tensors, *settings)


def stochastic_activation(
    z: Tensor, key: Tensor, settings: Settings, *, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """Activations (outer, neurons, inner) and sums of log sigma from z (outer, 2 neurons, inner); differentiable twice.

    z: float32, float64, bfloat16 or float16. backend: by default the fastest for the device. Raises ValueError or
    TypeError that names a bad argument.
    """
    z = z.contiguous()
    if torch.compiler.is_compiling():
        return torch.ops.nvrm_fast.stochastic_activation(z, key, *settings)
    chosen = registry.choose(z.device, backend)
    if not (z.requires_grad and torch.is_grad_enabled()):
        return kernel_of("stochastic_activation", chosen)(z, key, *settings)
    return _Eager.apply(chosen, z, key, settings)

"""The operators of stochastic layers: schemas, fakes, autograd formulas, and the door to their kernels, as layer_ops.py.

stochastic_activation            what follows the product of doubled width: sigma, noise, activation, sums of log sigma
stochastic_activation_backward   its gradient, the noise drawn again from the key

What they compute and the shapes are in nvrm_fast/reference/stochastic.py. Second derivatives go by the formula there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
from torch import Tensor

from . import backends
from .layer_ops import default_backend
from .reference import stochastic
from .reference.stochastic import NEURON, NOTHING, Settings

_SETTINGS = "int stream, int step, int offset, int activation, int sums, float margin"
_SCHEMAS = {
    "stochastic_activation": f"(Tensor z, Tensor key, {_SETTINGS}) -> (Tensor, Tensor)",
    "stochastic_activation_backward": f"(Tensor grad, Tensor grad_sums, Tensor z, Tensor key, {_SETTINGS}) -> Tensor",
}
_REFERENCE = {name: getattr(stochastic, name) for name in _SCHEMAS}


def _kernel(name: str, chosen: str) -> Callable:
    if chosen == "reference":
        return _REFERENCE[name]
    if chosen == "triton":
        return getattr(importlib.import_module(".triton.stochastic", __package__), name)
    return getattr(torch.ops.nvrm_fast, name)


def _on_cuda(name: str) -> Callable:
    """The kernel of CUDA tensors: Triton if it imports (that is tried at the first call), else the reference."""

    def kernel(*args):
        return _kernel(name, default_backend(torch.device("cuda")))(*args)

    return kernel


_library = torch.library.Library("nvrm_fast", "FRAGMENT")
for _name, _schema in _SCHEMAS.items():
    _library.define(_name + _schema)
    _library.impl(_name, _REFERENCE[_name], "CompositeExplicitAutograd")
    _library.impl(_name, _on_cuda(_name), "CUDA")
    # Where native kernels take over they hand float64 on.
    _library.define(f"{_name}_reference{_schema}")
    _library.impl(f"{_name}_reference", _REFERENCE[_name], "CompositeExplicitAutograd")


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


class _OnBackend(torch.autograd.Function):
    """stochastic_activation on a backend that is not the dispatcher's choice; the same formulas."""

    @staticmethod
    def forward(ctx, backend, *inputs):
        ctx.backend = backend
        _setup(ctx, inputs, None)
        return tuple(_kernel("stochastic_activation", backend)(*inputs))

    @staticmethod
    def backward(ctx, grad, grad_sums):
        tensors = (grad.contiguous(), grad_sums.contiguous(), *ctx.saved_tensors)
        dz = _OnBackendBackward.apply(ctx.backend, *tensors, *ctx.settings)
        return None, dz, None, *[None] * len(ctx.settings)


class _OnBackendBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, backend, *inputs):
        _setup_backward(ctx, inputs, None)
        return _kernel("stochastic_activation_backward", backend)(*inputs)

    @staticmethod
    def backward(ctx, weight):
        return None, *_backward_of_backward(ctx, weight)


def stochastic_activation(
    z: Tensor, key: Tensor, settings: Settings, *, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """Activations (outer, neurons, inner) and sums of log sigma from z (outer, 2 neurons, inner); differentiable twice.

    z: float32, float64, bfloat16 or float16. backend: by default the fastest for the device. Raises ValueError or
    TypeError that names a bad argument.
    """
    args = (z.contiguous(), key, *settings)
    if torch.compiler.is_compiling():
        return torch.ops.nvrm_fast.stochastic_activation(*args)
    chosen = backends.choose(z.device, backend)
    if chosen == "native" or chosen == default_backend(z.device):
        return torch.ops.nvrm_fast.stochastic_activation(*args)
    return _OnBackend.apply(chosen, *args)

"""The operators of the layers: schemas, fakes, autograd formulas, and the door to their kernels, as in ops.py.

    local_noise           the pass after a layer's matrix product: exact local direction and magnitude noise
    local_noise_backward  its gradients, the noise drawn again from the key
    local_variates        the random numbers behind it, for formulas in plain torch; the reference draws them everywhere
    gaussian_like         one N(0, 1) an activation, for noise that is Gaussian after the product

What they compute and the shapes are in nvrm_fast/reference/local.py and activation.py. Second derivatives go by the
reference formula. The key is an int64 tensor with one element: all that is kept of the noise from forward to backward.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..reference import activation, local
from ..reference.angles import LAWS
from ..reference.local import Settings
from . import registry

_SETTINGS = (
    "int stream, int step, int offset, int direction, int magnitude, int fan_in, float alpha, float low, float high, "
    "bool given"
)
_TENSORS = (
    "Tensor s, Tensor square, Tensor scale, Tensor gain, Tensor? spread, Tensor? bias, Tensor? first, Tensor? second, "
    "Tensor constants, Tensor key"
)
_SCHEMAS = {
    "local_noise": f"({_TENSORS}, {_SETTINGS}) -> Tensor",
    "local_noise_backward": (
        f"(Tensor grad, {_TENSORS}, {_SETTINGS}, bool slopes) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
    "local_variates": (
        f"(SymInt[] shape, Tensor constants, Tensor key, {_SETTINGS}) -> (Tensor, Tensor, Tensor, Tensor)"
    ),
    "gaussian_like": "(Tensor like, Tensor key, int stream, int step, int offset) -> Tensor",
}
_REFERENCE: dict[str, Callable[..., Any]] = {
    "local_noise": local.local_noise,
    "local_noise_backward": local.local_noise_backward,
    "local_variates": local.local_variates,
    "gaussian_like": activation.gaussian_like,
}
#: Of the operators' arguments: tensors that a gradient flows to, then constants and key.
_DIFFERENTIABLE, _TENSOR_COUNT = 8, 10


def _on_cuda(name: str) -> Callable:
    """The kernel of CUDA tensors: Triton if it imports (that is tried at the first call), else the reference."""

    def kernel(*args):
        return _kernel(name, default_backend(torch.device("cuda")))(*args)

    return kernel


_library = torch.library.Library("nvrm_fast", "FRAGMENT")
for _name, _schema in _SCHEMAS.items():
    _library.define(_name + _schema)
    _library.impl(_name, _REFERENCE[_name], "CompositeExplicitAutograd")
    if _name != "local_variates":
        _library.impl(_name, _on_cuda(_name), "CUDA")
# Where native kernels take over they hand float64 on.
for _name in ("local_noise", "local_noise_backward"):
    _library.define(f"{_name}_reference{_SCHEMAS[_name]}")
    _library.impl(f"{_name}_reference", _REFERENCE[_name], "CompositeExplicitAutograd")


def _kernel(name: str, chosen: str) -> Callable:
    if chosen == "reference":
        return _REFERENCE[name]
    if chosen == "triton":
        return getattr(importlib.import_module("nvrm_fast.triton.local"), name)
    return getattr(torch.ops.nvrm_fast, name)


@torch.library.register_fake("nvrm_fast::local_noise", lib=_library)
def _(s, *args):
    return torch.empty_like(s, memory_format=torch.contiguous_format)


@torch.library.register_fake("nvrm_fast::local_noise_backward", lib=_library)
def _(grad, s, square, scale, gain, spread, bias, first, second, constants, key, *settings_and_slopes):
    settings, slopes = Settings(*settings_and_slopes[:-1]), settings_and_slopes[-1]
    neurons = (s.shape[1],)
    laws = LAWS[settings.direction].parameters if settings.direction else 0

    def like(there: bool) -> Tensor:
        return scale.new_empty(neurons if there else 0)

    return (
        torch.empty_like(s, memory_format=torch.contiguous_format),
        square.new_empty(square.shape if settings.direction else 0),
        like(True),
        like(True),
        like(settings.magnitude != local.NO_MAGNITUDE),
        like(bias is not None),
        like(slopes and laws > 0 and first is not None),
        like(slopes and laws > 1 and second is not None),
    )


@torch.library.register_fake("nvrm_fast::gaussian_like", lib=_library)
def _(like, key, *args):
    return torch.empty_like(like, dtype=torch.float32, memory_format=torch.contiguous_format)


@torch.library.register_fake("nvrm_fast::local_variates", lib=_library)
def _(shape, constants, key, *settings):
    at = Settings(*settings)
    directed = at.direction != local.NO_DIRECTION
    laws = LAWS[at.direction].variates if directed else 0
    there = (at.magnitude != local.NO_MAGNITUDE, directed and not at.given, laws > 0, laws > 1)
    return tuple(key.new_empty(shape if drawn else 0, dtype=torch.float32) for drawn in there)


def variates(shape: tuple[int, ...], constants: Tensor, key: Tensor, settings: Settings) -> local.Variates:
    """The random numbers behind local_noise on activations of a shape (outer, neurons, inner): float32 of that shape.

    No gradient flows through them. Plain torch draws them on every device; meant for few, or for second derivatives.
    """
    xi, u, *law = torch.ops.nvrm_fast.local_variates(shape, constants, key, *settings)
    count = LAWS[settings.direction].variates if settings.direction != local.NO_DIRECTION else 0
    has_u = settings.direction != local.NO_DIRECTION and not settings.given
    return local.Variates(
        xi if settings.magnitude != local.NO_MAGNITUDE else None, u if has_u else None, tuple(law[:count])
    )


def _second_order(grad: Tensor, tensors: list, settings: Settings, slopes: bool, gradients: tuple) -> list:
    """Gradients of local_noise_backward's results, summed against `gradients`, for grad and the eight tensors."""
    *inputs, constants, key = tensors
    with torch.enable_grad():
        leaves: list[Any] = [None if x is None else x.detach().requires_grad_() for x in (grad, *inputs)]
        drawn = variates(inputs[0].shape, constants, key, settings)
        s, square, scale, gain, spread, bias, first, second = leaves[1:]
        y = local.local_formula(
            s, square, scale, gain, spread, bias, first, second, constants, drawn, settings
        )  # fmt: skip
        present = [i for i in range(1, _DIFFERENTIABLE + 1) if leaves[i] is not None]
        found = torch.autograd.grad(y, [leaves[i] for i in present], leaves[0], create_graph=True, allow_unused=True)
        total = None
        for i, first_order in zip(present, found):
            weight = gradients[i - 1]
            if first_order is None or weight is None or weight.shape != first_order.shape:
                continue
            part = (first_order * weight.to(first_order.dtype)).sum()
            total = part if total is None else total + part
        if total is None or not total.requires_grad:
            return [None] * len(leaves)
        wanted = [x for x in leaves if x is not None]
        again = iter(torch.autograd.grad(total, wanted, allow_unused=True))
        return [None if x is None else next(again) for x in leaves]


def _setup(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:_TENSOR_COUNT])
    ctx.settings = inputs[_TENSOR_COUNT:]


def _wanted(saved: tuple, needed: tuple, grad: Tensor, settings: tuple, backward) -> list[Tensor | None]:
    """What local_noise's backward returns for its ten tensors, by the operator `backward`."""
    results = backward(grad.contiguous(), *saved, *settings, needed[6] or needed[7])
    wanted = [
        result if need and tensor is not None and result.shape == tensor.shape else None
        for tensor, result, need in zip(saved, results, needed)
    ]
    return [*wanted, None, None]


def _backward(ctx, grad):
    operator = torch.ops.nvrm_fast.local_noise_backward
    found = _wanted(ctx.saved_tensors, ctx.needs_input_grad, grad, ctx.settings, operator)
    return (*found, *[None] * len(ctx.settings))


torch.library.register_autograd("nvrm_fast::local_noise", _backward, setup_context=_setup, lib=_library)


def _setup_backward(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[: _TENSOR_COUNT + 1])
    ctx.settings, ctx.slopes = inputs[_TENSOR_COUNT + 1 : -1], inputs[-1]


def _backward_of_backward(ctx, *gradients):
    grad, *tensors = ctx.saved_tensors
    found = _second_order(grad, tensors, Settings(*ctx.settings), ctx.slopes, gradients)
    return (*found, *[None] * (3 + len(ctx.settings)))


torch.library.register_autograd(
    "nvrm_fast::local_noise_backward", _backward_of_backward, setup_context=_setup_backward, lib=_library
)


class _OnBackend(torch.autograd.Function):
    """local_noise on a backend that is not the dispatcher's choice; the same formulas."""

    @staticmethod
    def forward(ctx, backend, *inputs):
        ctx.backend = backend
        ctx.save_for_backward(*inputs[:_TENSOR_COUNT])
        ctx.settings = inputs[_TENSOR_COUNT:]
        return _kernel("local_noise", backend)(*inputs)

    @staticmethod
    def backward(ctx, grad):
        needed = ctx.needs_input_grad[1:]

        def on_backend(*args):
            return _OnBackendBackward.apply(ctx.backend, *args)

        return None, *_wanted(ctx.saved_tensors, needed, grad, ctx.settings, on_backend), *[None] * len(ctx.settings)


class _OnBackendBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, backend, *inputs):
        ctx.save_for_backward(*inputs[: _TENSOR_COUNT + 1])
        ctx.settings, ctx.slopes = inputs[_TENSOR_COUNT + 1 : -1], inputs[-1]
        return tuple(_kernel("local_noise_backward", backend)(*inputs))

    @staticmethod
    def backward(ctx, *gradients):
        return None, *_backward_of_backward(ctx, *gradients)


def local_noise(
    s: Tensor, square: Tensor, scale: Tensor, gain: Tensor, spread: Tensor | None, bias: Tensor | None,
    first: Tensor | None, second: Tensor | None, constants: Tensor, key: Tensor, settings: Settings,
    *, backend: str | None = None,
) -> Tensor:  # fmt: skip
    """Noisy activations of s's shape (outer, neurons, inner) and dtype; differentiable twice. See reference/local.py.

    backend: by default the fastest for the device. Raises ValueError or TypeError that names a bad argument.
    """
    args = (s.contiguous(), square, scale, gain, spread, bias, first, second, constants, key, *settings)
    if torch.compiler.is_compiling():
        return torch.ops.nvrm_fast.local_noise(*args)
    chosen = registry.choose(s.device, backend)
    if chosen == "native" or chosen == default_backend(s.device):
        return torch.ops.nvrm_fast.local_noise(*args)
    return _OnBackend.apply(chosen, *args)


def local_noise_backward(
    grad: Tensor, s: Tensor, square: Tensor, scale: Tensor, gain: Tensor, spread: Tensor | None, bias: Tensor | None,
    first: Tensor | None, second: Tensor | None, constants: Tensor, key: Tensor, settings: Settings, slopes: bool,
    *, backend: str | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of local_noise for its first eight arguments, empty tensors where there are none; differentiable once.

    slopes: whether first's and second's are wanted. Raises as local_noise.
    """
    args = (grad.contiguous(), s, square, scale, gain, spread, bias, first, second, constants, key, *settings, slopes)
    chosen = None if torch.compiler.is_compiling() else registry.choose(s.device, backend)
    if chosen in (None, "native", default_backend(s.device)):
        return torch.ops.nvrm_fast.local_noise_backward(*args)
    return _OnBackendBackward.apply(chosen, *args)


def default_backend(device: torch.device) -> str:
    """The backend that the dispatcher has for the layers' operators on a device."""
    if device.type == "cuda":
        return "triton" if registry.why_missing("triton", device) is None else "reference"
    return "native" if device.type == "cpu" and registry.why_missing("native", device) is None else "reference"


def gaussian_like(
    like: Tensor, key: Tensor, stream: int = 0, step: int = 0, offset: int = 0, *, backend: str | None = None
) -> Tensor:
    """N(0, 1), float32, of like's shape, row-major in the layout of parameter noise; no gradient flows through it."""
    if torch.compiler.is_compiling():
        return torch.ops.nvrm_fast.gaussian_like(like.detach(), key, stream, step, offset)
    chosen = registry.choose(like.device, backend)
    if chosen == default_backend(like.device):
        return torch.ops.nvrm_fast.gaussian_like(like.detach(), key, stream, step, offset)
    return _kernel("gaussian_like", chosen)(like.detach(), key, stream, step, offset)

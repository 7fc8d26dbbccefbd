"""The native kernels (csrc) as functions of tensors: the operators' CPU and CUDA kernels, where they were built.

torch makes the results here, and hears what was written; csrc/python reads the tensors by DLPack's exchange in C and
checks them. So the module needs no torch to be compiled, and one of them serves every torch that has that exchange.
"""

from __future__ import annotations

import ctypes
import operator
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import Tensor

from ..contract.arguments import MeasureArguments, ReperturbArguments, StepArguments
from ..contract.laws import NO_DIRECTION
from ..contract.layers import (
    NEURON,
    NOTHING,
    direction_arguments,
    neuron_gradients,
    sq_norm_gradient,
    sums_shape,
    wanted_gradients,
)
from ..reference import direction_noise as _reference_of_directions
from ..reference import stochastic as _reference_of_stochastic

#: The types of tensors that kernels take as they are; subclasses may mean something else by what is done to them.
PLAIN_TENSORS = frozenset((Tensor, torch.nn.Parameter))
_PLAIN = PLAIN_TENSORS | {int, float, bool, NoneType, list}

_native: Any = None


def connect(module: Any) -> None:
    """Tells the native module how torch's tensors are read and its threads are used; before its first kernel runs.

    Raises ImportError where torch is too old (before 2.10) or its exchange has a version that the module does not know.
    """
    global _native
    exchange = getattr(Tensor, "__dlpack_c_exchange_api__", None)
    if exchange is None:
        raise ImportError(f"they need torch 2.10 or later, and this is {torch.__version__}")
    # The libraries that torch itself has loaded; torch._C leads to all of them, except on Windows.
    windows = Path(torch.__file__).parent / "lib" / "torch_cpu.dll"
    library = ctypes.CDLL(str(windows) if sys.platform == "win32" else torch._C.__file__)
    loop = ctypes.cast(library.torch_parallel_for, ctypes.c_void_p).value
    module.connect(exchange, Tensor, torch.nn.Parameter, loop)
    _native = module


def are_plain(tensors: Iterable[Any]) -> bool:
    """Whether kernels may take the tensors as they are: none is of a subclass (Parameter is none), and of none torch
    has only noted that it is to be negated."""
    tensors = tensors if isinstance(tensors, list) else list(tensors)
    return PLAIN_TENSORS.issuperset(map(type, tensors)) and True not in map(Tensor.is_neg, tensors)


def _may_go_around(args: Iterable[Any]) -> bool:
    """Whether a kernel may be called without torch's dispatcher, which takes longer than the kernel of a small layer:
    no mode or transform is at work that has to see the operator, and no tensor needs what the dispatcher does first."""
    if torch._C._len_torch_dispatch_stack() or torch._C._are_functorch_transforms_active():
        return False
    tensors = []
    for x in args:
        kind = type(x)
        if kind in PLAIN_TENSORS:
            tensors.append(x)
        elif kind is list:
            if x and isinstance(x[0], Tensor):
                tensors += x
        elif kind not in _PLAIN:
            return False
    # Without memory of its own: a batch of gradients (torch.autograd.grad's is_grads_batched), a sparse tensor.
    return are_plain(tensors) and False not in map(torch._C._has_storage, tensors)


def around_dispatcher(operator: Callable[..., Any], kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel where it may be called at once, and otherwise the operator."""

    def run(*args: Any) -> Any:
        if torch.compiler.is_compiling() or not _may_go_around(args):
            return operator(*args)
        return kernel(*args)

    return run


def _as_plain(x: Any) -> Any:
    if isinstance(x, list):
        return [_as_plain(item) for item in x]
    return x.as_subclass(Tensor) if isinstance(x, Tensor) and type(x) not in PLAIN_TENSORS else x


def behind_dispatcher(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel for what the dispatcher hands over: it has asked the subclasses of tensors, and some go through."""

    def run(*args: Any) -> Any:
        return kernel(*map(_as_plain, args))

    return run


def hold(dicts: list[dict[str, Any]], keys: tuple[str, ...], objects: list[Any]) -> bool:
    """Whether the dicts hold these very objects under the keys, dict by dict."""
    if _native is not None:
        return bool(_native.hold(dicts, keys, objects))
    found = (each.get(key) for each in dicts for key in keys)
    return len(objects) == len(dicts) * len(keys) and all(map(operator.is_, found, objects))


def _note_writes(*lists: list[Tensor]) -> None:
    """Whoever saved one of these tensors for a backward pass must hear that it was written.

    Steps and records are left out: integers that no loss is made of, and for many small tensors it takes longer to note
    them than to write them.
    """
    for tensors in lists:
        torch.autograd.graph.increment_version(tensors)


def _step_in_a_profile() -> Any:
    return torch.autograd.profiler.record_function("nvrm_fast::step_")


def steps_(calls: list[StepArguments]) -> list[int]:
    """Several steps, every one of them checked before the first one writes. All tensors must be plain.

    Returns a number for each call that tells (nearly always) whether its parameters lie where they lay before.
    """
    profiled = torch._C._autograd._profiler_enabled()
    places = _native.steps_(calls, _step_in_a_profile if profiled else None)
    for a in calls:
        _note_writes(a.params, a.states, a.masters)
        if a.measure:
            _note_writes(a.measures, a.sums)
    return places


def step_(*args: Any) -> None:
    steps_([StepArguments(*args)])


def reperturb_(*args: Any) -> None:
    a = ReperturbArguments(*args)
    _native.reperturb_(a)
    _note_writes(a.params)


def measure_(*args: Any) -> None:
    a = MeasureArguments(*args)
    _native.measure_(a)
    _note_writes(a.measures, a.sums)


def fill_noise_(self: Tensor, *args: Any) -> None:
    _native.fill_noise_(self, *args)
    _note_writes([self])


def gaussian_like(like: Tensor, key: Tensor, stream: int, step: int, offset: int) -> Tensor:
    if key.dtype != torch.int64 or key.numel() != 1:
        raise TypeError("key must be an int64 tensor with one element")
    out = torch.empty_like(like, dtype=torch.float32, memory_format=torch.contiguous_format)
    _native.fill_noise_(out, key.item(), stream, step, 0, 1.0, offset)
    return out


def _contiguous(tensors: Iterable[Tensor | None]) -> list[Tensor | None]:
    return [None if x is None else x.contiguous() for x in tensors]


def direction_noise(s: Tensor, sq_norm: Tensor, scale: Tensor, *parameters_and_settings: Any) -> Tensor:
    if s.dtype == torch.float64:  # whose formulas are torch's functions
        return _reference_of_directions.direction_noise(s, sq_norm, scale, *parameters_and_settings)
    p, at = direction_arguments(parameters_and_settings)
    y = torch.empty_like(s, memory_format=torch.contiguous_format)
    _native.direction_noise((*_contiguous((s, sq_norm, scale, *p)), *at), y)
    return y


def direction_noise_backward(
    grad: Tensor, s: Tensor, sq_norm: Tensor, scale: Tensor, *parameters_settings_and_slopes: Any
) -> tuple[Tensor, ...]:
    if s.dtype == torch.float64:
        return _reference_of_directions.direction_noise_backward(
            grad, s, sq_norm, scale, *parameters_settings_and_slopes
        )
    *rest, slopes = parameters_settings_and_slopes
    p, at = direction_arguments(rest)
    ds = torch.empty_like(s, memory_format=torch.contiguous_format)
    given = at.law != NO_DIRECTION and at.tangent_given
    d_sq_norm = scale.new_empty(sq_norm.shape if given else 0)
    tensors = _contiguous((grad.to(s.dtype), s, sq_norm, scale, *p))
    neurons, sq_norms = _native.direction_noise_backward((*tensors, *at, slopes), ds, d_sq_norm)
    if sq_norms is not None:
        d_sq_norm = sq_norm_gradient(sq_norms, sq_norm.shape[1])
    return ds, d_sq_norm, *neuron_gradients(neurons, wanted_gradients(p, at, slopes))


def stochastic_activation(z: Tensor, key: Tensor, *settings: Any) -> tuple[Tensor, Tensor]:
    if z.dtype == torch.float64:
        return _reference_of_stochastic.stochastic_activation(z, key, *settings)
    outer, doubled, inner = z.shape if z.dim() == 3 else (0, 0, 0)
    y = z.new_empty(outer, doubled // 2, inner)
    parts = _native.stochastic_activation((z.contiguous(), key, *settings), y)
    sums = settings[4]
    if parts is None and sums == NOTHING:
        return y, y.new_empty(0, dtype=torch.float32)
    if parts is None:
        return y, torch.zeros(sums_shape(z, sums), dtype=torch.float32, device=z.device)
    if sums == NEURON:
        parts = parts.view(len(parts), doubled // 2, -1)
        return y, parts.sum(0).squeeze(1) if parts.shape[2] == 1 else parts.sum((0, 2))
    return y, parts.view(outer) if parts.numel() == outer else parts.sum(0)


def stochastic_activation_backward(grad: Tensor, grad_sums: Tensor, z: Tensor, key: Tensor, *settings: Any) -> Tensor:
    if z.dtype == torch.float64:
        return _reference_of_stochastic.stochastic_activation_backward(grad, grad_sums, z, key, *settings)
    dz = torch.empty_like(z, memory_format=torch.contiguous_format)
    grad, grad_sums = grad.to(z.dtype).contiguous(), grad_sums.to(torch.float32).contiguous()
    _native.stochastic_activation_backward((grad, grad_sums, z.contiguous(), key, *settings), dz)
    return dz

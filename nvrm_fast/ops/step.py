"""The operators: schemas, fakes and the one door to every kernel.

Schemas are defined here, so that they exist without any native code; the plain-torch reference is registered as the
kernel of every device, and native kernels (csrc, TORCH_LIBRARY_IMPL) take over where they were built. On CUDA tensors
without native kernels Triton takes over (nvrm_fast/triton).

Arguments that the step operators share, lists with one value for each parameter:

    params       float32, float64, bfloat16 or float16 tensors of one dtype, any strides; overwritten
    grads        gradients, same shapes and dtype
    masters      clean weights, float32 (float64 for float64 parameters), overwritten; or an empty list: in place
    states       (momentum_buffers, exp_avgs, ...) the parameters' dtype, or the masters' where there are any;
                 overwritten
    steps        int64 tensors with one element: steps done before this one; increased by 1. On the CPU for parameters
                 there; for CUDA parameters on the CPU or, so that a captured graph counts on, on their device
    streams      which noise stream a parameter draws from, in [0, 2^32)
    offsets      global row-major index of a parameter's first element (a shard's place in its tensor)
    scales       b of the noise to put on (0: leave clean); seed and distribution say which
    coat_scales  b of the noise that the parameter wears (0: it is clean); coat_seed and coat_distribution say which,
                 its step is the counter's value before this step
    keep_noise   the noise stays in the weights for good (perturbed SGD): nothing is taken off
    grad_scale   None, or a float32 tensor with one element: the gradients are divided by it (torch.amp.GradScaler);
                 they are only read, so they keep the scale
    found_inf    None, or such a tensor: if it is not 0 nothing is written at all, steps included
    run_lengths  with run_strides: where a shard lies in its full tensor not in one piece but in runs of so many
    run_strides  elements, the next beginning so many elements after the one before (columns of a matrix); its tensors
                 must be contiguous. A length of 0: in one piece. Empty lists: all in one piece

`distribution` is a code from nvrm_fast.reference.DISTRIBUTIONS; seeds are 64 bits in two's complement.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import reference
from . import registry

_COATS = (
    "int[] streams, int[] offsets, float[] scales, int seed, int distribution, "
    "float[] coat_scales, int coat_seed, int coat_distribution"
)
_NOISE = f"Tensor(s!)[] steps, {_COATS}, bool keep_noise"
_RUNS = "int[] run_lengths=[], int[] run_strides=[]"
_LAST = f"Tensor? grad_scale=None, Tensor? found_inf=None, {_RUNS}"
_SCHEMAS = {
    "fill_noise_": "(Tensor(a!) self, int seed, int stream, int step, int distribution, float scale, int offset) -> ()",
    "change_coat_": f"(Tensor(a!)[] params, Tensor[] masters, Tensor[] steps, {_COATS}, {_RUNS}) -> ()",
    "sgd_step_": (
        "(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] momentum_buffers, Tensor(m!)[] masters, "
        f"{_NOISE}, bool[] is_first, float lr, float momentum, float dampening, float weight_decay, bool nesterov, "
        f"bool maximize, {_LAST}) -> ()"
    ),
    "adam_step_": (
        "(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, "
        f"Tensor(d!)[] max_exp_avg_sqs, Tensor(m!)[] masters, {_NOISE}, float lr, float beta1, float beta2, float eps, "
        f"float weight_decay, bool amsgrad, bool decoupled_weight_decay, bool maximize, {_LAST}) -> ()"
    ),
}


def _on_cuda(name: str) -> Callable[..., None]:
    """What the dispatcher has for CUDA tensors where no native kernel was built: the fastest of the others."""

    def kernel(*args: Any) -> None:
        registry.kernel(name, torch.device("cuda"))(*args)

    return kernel


_library = torch.library.Library("nvrm_fast", "DEF")
for _name, _schema in _SCHEMAS.items():
    _library.define(_name + _schema)
    _library.impl(_name, getattr(reference, _name), "CompositeExplicitAutograd")
    if not registry.native_serves_cuda():
        _library.impl(_name, _on_cuda(_name), "CUDA")
    # Every operator writes into its arguments and returns nothing, so there is no output to describe.
    torch.library.register_fake(f"nvrm_fast::{_name}", lambda *args, **kwargs: None, lib=_library)
    registry.register_kernel(_name, "reference", registry.EVERY_DEVICE, getattr(reference, _name))
    registry.register_kernel(_name, "native", ("cpu", "cuda"), getattr(torch.ops.nvrm_fast, _name))
    registry.register_kernel(
        _name, "triton", ("cuda", "cpu"), registry.imported_at_first_call("nvrm_fast.triton", _name)
    )


def _call(name: str, device: torch.device, backend: str | None, *args: Any) -> None:
    registry.kernel(name, device, backend)(*args)


def fill_noise_(
    self: Tensor,
    seed: int,
    stream: int,
    step: int,
    distribution: int,
    scale: float,
    offset: int,
    *,
    backend: str | None = None,
) -> None:
    """Overwrites a contiguous float32 tensor with elements offset .. offset + numel of one noise stream."""
    _call("fill_noise_", self.device, backend, self, seed, stream, step, distribution, scale, offset)


def sgd_step_(params: list[Tensor], *args: Any, backend: str | None = None) -> None:
    """One step of SGD with a change of coat (see the schema and the top of this file); params must not be empty."""
    _call("sgd_step_", params[0].device, backend, params, *args)


def adam_step_(params: list[Tensor], *args: Any, backend: str | None = None) -> None:
    """One step of Adam or AdamW with a change of coat (see the schema and the top of this file); params not empty."""
    _call("adam_step_", params[0].device, backend, params, *args)


def change_coat_(params: list[Tensor], *args: Any, backend: str | None = None) -> None:
    """Takes the coat off and puts another on without a step: both are draws at the counters' present value."""
    _call("change_coat_", params[0].device, backend, params, *args)

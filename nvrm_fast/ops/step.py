"""The operators that draw noise and change weights: schemas, fakes and calls.

Schemas are defined here, so that they exist without any native code; the plain-torch reference is registered as the
kernel of every device, and native kernels (csrc, TORCH_LIBRARY_IMPL) take over where they were built. On CUDA tensors
without native kernels Triton takes over (nvrm_fast/triton). The arguments are explained in
nvrm_fast/contract/arguments.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..contract.arguments import ReperturbArguments, StepArguments, schema
from . import registry

_SCHEMAS = {
    "fill_noise_": "(Tensor(a!) self, int seed, int stream, int step, int distribution, float scale, int offset) -> ()",
    "step_": schema(StepArguments),
    "reperturb_": schema(ReperturbArguments),
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
    # No operator here is differentiable. Without this torch looks at every tensor of every list once more.
    _library.impl(_name, torch.library.fallthrough_kernel, "Autograd")
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


def step_(arguments: StepArguments, *, backend: str | None = None) -> None:
    """One step of an update rule on clean weights, with noise taken off before and put on after; params not empty."""
    _call("step_", arguments.params[0].device, backend, *arguments)


def reperturb_(arguments: ReperturbArguments, *, backend: str | None = None) -> None:
    """Takes noise off and puts other noise on without a step; params not empty."""
    _call("reperturb_", arguments.params[0].device, backend, *arguments)

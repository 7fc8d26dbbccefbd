"""The operators that draw noise and change weights: schemas, fakes and calls.

Schemas are defined here, so that they exist without any native code; the plain-torch reference is registered as the
kernel of every device, and native kernels (ops/native.py) take over where they were built. On CUDA tensors without
native kernels Triton takes over (nvrm_fast/triton). The arguments are explained in
nvrm_fast/contract/arguments.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..contract.arguments import MeasureArguments, ReperturbArguments, StepArguments, schema
from ..reference.measure import finish
from . import native, registry
from .by_way_of_cpu import WITHOUT_FLOAT64, by_way_of_cpu

_SCHEMAS = {
    "fill_noise_": "(Tensor(a!) self, int seed, int stream, int step, int distribution, float scale, int offset) -> ()",
    "step_": schema(StepArguments),
    "reperturb_": schema(ReperturbArguments),
    "measure_": schema(MeasureArguments),
}


def _on_cuda(name: str) -> Callable[..., None]:
    """What the dispatcher has for CUDA tensors where no native kernel was built: the fastest of the others."""

    def kernel(*args: Any) -> None:
        registry.kernel(name, torch.device("cuda"))(*args)

    return kernel


def _on_the_cpu(name: str) -> Callable[..., None]:
    def run(*args: Any) -> None:
        registry.kernel(name, torch.device("cpu"))(*args)

    return by_way_of_cpu(lambda: getattr(torch.ops.nvrm_fast, name).default._schema, run)


_library = torch.library.Library("nvrm_fast", "DEF")
for _name, _schema in _SCHEMAS.items():
    _library.define(_name + _schema)
    _library.impl(_name, getattr(reference, _name), "CompositeExplicitAutograd")
    for _device in WITHOUT_FLOAT64:
        _library.impl(_name, _on_the_cpu(_name), _device.upper())
        registry.register_kernel(_name, "reference", (_device,), _on_the_cpu(_name))
    _kernel = getattr(native, _name)
    for _device in registry.native_devices():
        _library.impl(_name, native.behind_dispatcher(_kernel), _device.upper())
    if not registry.native_serves_cuda():
        _library.impl(_name, _on_cuda(_name), "CUDA")
    # No operator here is differentiable. Without this torch looks at every tensor of every list once more.
    _library.impl(_name, torch.library.fallthrough_kernel, "Autograd")
    # Every operator writes into its arguments and returns nothing, so there is no output to describe.
    torch.library.register_fake(f"nvrm_fast::{_name}", lambda *args, **kwargs: None, lib=_library)
    registry.register_kernel(_name, "reference", registry.EVERY_DEVICE, getattr(reference, _name))
    _kernel = native.around_dispatcher(getattr(torch.ops.nvrm_fast, _name), _kernel)
    registry.register_kernel(_name, "native", ("cpu", "cuda"), _kernel)
    registry.register_kernel(
        _name, "triton", ("cuda", "cpu"), registry.imported_at_first_call("nvrm_fast.triton", _name)
    )


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
    kernel = registry.kernel("fill_noise_", self.device, backend)
    kernel(self, seed, stream, step, distribution, scale, offset)


def step_(arguments: StepArguments, *, backend: str | None = None) -> None:
    """One step of an update rule on clean weights, with noise taken off before and put on after; params not empty."""
    registry.kernel("step_", arguments.params[0].device, backend)(*arguments)


def serves_at_once(places: Iterable[tuple[torch.device, str | None]]) -> bool:
    """Whether `steps_` may do what steps on these devices by these backends would do, if all tensors are plain: native
    kernels serve them all, and no mode is at work that has to see the operators.

    Raises as `registry.choose`."""
    is_native = all([registry.choose("step_", *place) == "native" for place in places])
    return is_native and torch._C._len_torch_dispatch_stack() == 0


def steps_(calls: list[StepArguments]) -> list[int]:
    """Several steps by native kernels, every one of them checked before the first one writes.

    It goes around torch's dispatcher, which takes longer to convert the lists of a hundred small tensors than the
    kernels to step them. So nothing but `serves_at_once` tells whether it may be called.

    Returns a number for each call that tells (nearly always) whether its parameters lie where they lay before.
    """
    return native.steps_(calls)


def reperturb_(arguments: ReperturbArguments, *, backend: str | None = None) -> None:
    """Takes noise off and puts other noise on without a step; params not empty."""
    registry.kernel("reperturb_", arguments.params[0].device, backend)(*arguments)


def measure_(arguments: MeasureArguments, *, backend: str | None = None) -> None:
    """Measures the clean weights that are there; params not empty."""
    registry.kernel("measure_", arguments.params[0].device, backend)(*arguments)


def finish_sums(sums: Tensor, measure: int, count: int) -> Tensor:
    """The measures that the joined sums of rows with `count` elements come to: float32, shape (rows,)."""
    return finish(sums, measure, count)

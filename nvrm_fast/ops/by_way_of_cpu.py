"""Devices without float64: their tensors travel to the CPU, whose kernels serve, and what was written travels back.

Some steps of the noise contract are computed in float64 by the reference, and native kernels know CPU and CUDA only.
Not run on such a device so far: the tests call these functions on CPU tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

#: Device types. MPS: Apple's GPUs.
WITHOUT_FLOAT64 = ("mps",)


def to_cpu(x: Tensor) -> Tensor:
    """x where float64 is: on its own device, or else on the CPU."""
    return x.cpu() if x.device.type in WITHOUT_FLOAT64 else x


def by_way_of_cpu(schema: Callable[[], torch.FunctionSchema], run: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel for such a device. run: serves CPU tensors, with the same arguments. schema: says what it writes."""

    def kernel(*args: Any) -> Any:
        here: dict[int, Tensor] = {}  # one copy of a tensor that is given twice: a counter may be several parameters'

        def moved(x: Any) -> Any:
            if isinstance(x, list | tuple):
                return [moved(item) for item in x]
            if not isinstance(x, Tensor):
                return x
            if id(x) not in here:
                here[id(x)] = x.detach().to("cpu", copy=True)
            return here[id(x)]

        results = run(*map(moved, args))
        written: dict[int, Tensor] = {}
        for argument, x in zip(schema().arguments, args):
            if argument.alias_info is not None and argument.alias_info.is_write:
                written.update((id(each), each) for each in (x if isinstance(x, list | tuple) else [x]))
        if written:
            # One call, which no signal handler interrupts: weights and the record of their noise stay together.
            with torch.no_grad():
                torch._foreach_copy_(list(written.values()), [here[key] for key in written])
        if results is None:
            return None
        device = next(x.device for x in args if isinstance(x, Tensor))
        return results.to(device) if isinstance(results, Tensor) else tuple(x.to(device) for x in results)

    return kernel

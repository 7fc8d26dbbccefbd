"""How a layer's operator is made of one schema and its kernels.

torch.ops.nvrm_fast.NAME            asks the registry at every call which kernel serves; what compiled graphs call
torch.ops.nvrm_fast.NAME.reference  the kernel of one backend, likewise .native and .triton; without autograd formula

All have the same arguments and the same fake; the first takes the keyword `backend` besides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import native as native_kernels
from . import registry
from .by_way_of_cpu import WITHOUT_FLOAT64, by_way_of_cpu
from .transforms import transformed

_library = torch.library.Library("nvrm_fast", "FRAGMENT")


def _device_of(args: tuple[Any, ...]) -> torch.device:
    return next(x.device for x in args if isinstance(x, Tensor))


def define(
    name: str,
    arguments: str,
    results: str,
    *,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    native: tuple[str, ...] = (),
    triton: str | None = None,
) -> None:
    """Defines an operator and registers its kernels.

    native: device types for which ops/native.py's function NAME is a kernel. triton: the module of nvrm_fast.triton
    whose function NAME is the kernel.
    """

    def by_registry(*args: Any, backend: str | None = None) -> Any:
        return registry.kernel(name, _device_of(args), backend)(*args)

    def fake_by_registry(*args: Any, backend: str | None = None) -> Any:
        return fake(*args)

    _define(name, f"({arguments}, *, str? backend=None) -> {results}", by_registry, fake_by_registry)
    _define(f"{name}.reference", f"({arguments}) -> {results}", reference, fake)
    operator = getattr(torch.ops.nvrm_fast, name)
    registry.register_kernel(name, "reference", registry.EVERY_DEVICE, operator.reference)
    on_the_cpu = by_way_of_cpu(
        lambda: operator.reference._schema, lambda *args: registry.kernel(name, torch.device("cpu"))(*args)
    )
    for device in WITHOUT_FLOAT64:
        _library.impl(f"{name}.reference", on_the_cpu, device.upper())
    if native:
        _define(f"{name}.native", f"({arguments}) -> {results}", None, fake)
        kernel = getattr(native_kernels, name)
        for device in registry.native_devices(native):
            _library.impl(f"{name}.native", native_kernels.behind_dispatcher(kernel), device.upper())
        kernel = native_kernels.around_dispatcher(operator.native, kernel)
        registry.register_kernel(name, "native", native, kernel)
    if triton is not None:
        kernel = registry.imported_at_first_call(f"nvrm_fast.triton.{triton}", name)
        _define(f"{name}.triton", f"({arguments}) -> {results}", kernel, fake)
        registry.register_kernel(name, "triton", ("cuda", "cpu"), operator.triton)


def _define(name: str, schema: str, kernel: Callable[..., Any] | None, fake: Callable[..., Any]) -> None:
    _library.define(name + schema)
    if kernel is not None:
        _library.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"nvrm_fast::{name}", fake, lib=_library)


class Route(NamedTuple):
    """How an autograd function reaches its kernels.

    operator: whether by the operator itself, below autograd, so that tracers see it, or by the kernel of a backend
    that was chosen before, which takes less time than a small layer's kernel does.
    """

    operator: bool
    backend: str | None

    def run(self, name: str, device: torch.device, *args: Any) -> Any:
        """Calls an operator without its autograd formula."""
        if self.operator:
            with torch._C._AutoDispatchBelowAutograd():
                return getattr(torch.ops.nvrm_fast, name).default(*args, backend=self.backend)
        return registry.registered(name, self.backend, device.type)(*args)


def set_autograd(name: str, apply: Callable[..., Any], formula: Callable[..., Any]) -> None:
    """Makes `apply` the autograd formula of torch.ops.nvrm_fast.NAME: it takes a Route and the operator's arguments.

    formula: the same by functions that autograd knows, for torch.func and forward mode; takes the arguments alone.
    """

    def with_formula(*args: Any, backend: str | None = None) -> Any:
        if transformed():
            return formula(*args)
        route = Route(True, backend)
        if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in args):
            return apply(route, *args)
        return route.run(name, _device_of(args), *args)

    _library.impl(name, with_formula, "Autograd")

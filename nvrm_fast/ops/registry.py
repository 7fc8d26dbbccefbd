"""Which kernels there are: operator x device type x backend, and why one is missing.

native      C++ in csrc, built by setup.py
triton      GPU kernels without a compiler on the user's machine
reference   plain torch (nvrm_fast/reference); serves every device and is what the others are checked against

A kernel is registered once (`register_kernel`); calls, `use_backend`, `nvrm_fast.info`, torch.compile and the tests ask
here which one serves. Nothing is imported or compiled for a kernel before its first call.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib
import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from .._version import INTERFACE
from . import native
from .by_way_of_cpu import WITHOUT_FLOAT64

BACKENDS = ("reference", "native", "triton")
#: In the order in which they are tried where a call names none.
FASTEST_FIRST = ("native", "triton", "reference")
#: As `devices` of register_kernel: every device type.
EVERY_DEVICE = ("*",)

_forced: contextvars.ContextVar[str | None] = contextvars.ContextVar("nvrm_fast_backend", default=None)
#: Device types of which was said that the reference serves them.
_warned_of: set[str] = set()
#: operator -> (backend, device type) -> kernel
_kernels: dict[str, dict[tuple[str | None, str], Callable[..., Any]]] = {}


def build_facts() -> dict[str, Any]:
    """What setup.py built and why not the rest; empty if the package was never installed."""
    path = Path(__file__).parents[1] / "_build_facts.json"
    return json.loads(path.read_text()) if path.exists() else {}


_native: Any = None
_import_error: str | None = None
_facts = build_facts()
if _facts.get("cpu") != "built":
    # A module may still lie here, of an earlier build: nothing says for which sources, and NVRM_FAST_BUILD=none asked
    # for none. why_missing gives the reason.
    pass
elif _facts.get("interface", 1) != INTERFACE:
    # Its functions take other arguments.
    _import_error = "they were built for another version of nvrm_fast"
else:
    try:
        _native = importlib.import_module("nvrm_fast._native")
        native.connect(_native)
    except (ImportError, OSError, AttributeError) as error:
        _native = None
        _import_error = str(error)


def native_serves_cuda() -> bool:
    """Whether the native kernels for CUDA tensors were built and load."""
    return _native is not None and _native.build_facts().get("cuda") is not None


def native_devices(written_for: tuple[str, ...] = ("cpu", "cuda")) -> list[str]:
    """Of device types that native kernels are written for, those that they were built for."""
    there = {"cpu": _native is not None, "cuda": native_serves_cuda()}
    return [device for device in written_for if there[device]]


def register_kernel(
    operator: str, backend: str, devices: tuple[str, ...], kernel: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """Makes a function the kernel of an operator on a backend, for device types such as "cpu" or EVERY_DEVICE.

    With `kernel` a call, without it a decorator. Raises ValueError for an unknown backend and for a second kernel of
    the same operator, backend and device.
    """
    check_backend(backend)

    def register(kernel: Callable[..., Any]) -> Callable[..., Any]:
        kernels = _kernels.setdefault(operator, {})
        for device in devices:
            if (backend, device) in kernels:
                raise ValueError(f"{operator} has a {backend} kernel for {device} already")
            kernels[backend, device] = kernel
        return kernel

    return register if kernel is None else register(kernel)


def imported_at_first_call(module: str, name: str) -> Callable[..., Any]:
    """A kernel whose module is imported when it is first called."""

    @functools.cache
    def load() -> Callable[..., Any]:
        return getattr(importlib.import_module(module), name)

    def kernel(*args: Any) -> Any:
        return load()(*args)

    return kernel


def operators() -> list[str]:
    """The names of all operators."""
    return list(_kernels)


def registered(operator: str, backend: str | None, device_type: str) -> Callable[..., Any]:
    """The kernel of a backend that was chosen before. Raises KeyError where none is registered."""
    kernels = _kernels[operator]
    return kernels[backend, device_type] if (backend, device_type) in kernels else kernels[backend, "*"]


def _is_registered(operator: str, backend: str, device_type: str) -> bool:
    return (backend, device_type) in _kernels[operator] or (backend, "*") in _kernels[operator]


@functools.cache
def _triton_error() -> str | None:
    """Why the Triton kernels do not import, or None; the first call imports them."""
    try:
        importlib.import_module("nvrm_fast.triton")
    except Exception as error:  # whatever is wrong with an installation of Triton, the other kernels serve
        return f"{type(error).__name__}: {error}"
    return None


def _why_triton_is_missing(device_type: str) -> str | None:
    # Triton itself decides by this variable, when kernels are defined.
    interpreted = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")
    if device_type == "cpu" and not interpreted:
        return (
            "Triton kernels run on GPUs (and on the CPU in Triton's interpreter, for tests, with TRITON_INTERPRET=1 "
            "set before the first use); leave the backend out"
        )
    error = _triton_error()
    if error is not None:
        return f"Triton does not import ({error}); install it: pip install triton"
    in_interpreter = importlib.import_module("nvrm_fast.triton").INTERPRETED
    if in_interpreter and device_type == "cuda":
        return "TRITON_INTERPRET=1 is set, and the interpreter serves CPU tensors; unset it before the process starts"
    if not in_interpreter and device_type == "cpu":
        return "TRITON_INTERPRET=1 came after the kernels were loaded; set it before the process starts"
    return None


def _why_native_is_missing(operator: str, device_type: str) -> str | None:
    if device_type == "cuda":
        if native_serves_cuda():
            return None
        built = build_facts().get("cuda", "not built")
        return f"CUDA kernels {built}; leave the backend out, and Triton serves where it is installed"
    if _native is None:
        built = build_facts().get("cpu", "the package is not installed")
        if built == "built":
            return f"the native kernels do not load ({_import_error}); build them again: pip install ."
        return f"CPU kernels {built}; install a C++ compiler and run: pip install ."
    return None


def why_missing(operator: str, backend: str, device_type: str) -> str | None:
    """The reason why `backend` has no kernel of `operator` for a device type, with the remedy, or None if it has."""
    if not _is_registered(operator, backend, device_type):
        written = {"native": "native", "triton": "Triton", "reference": "reference"}[backend]
        return f"there is no {written} kernel of {operator} for {device_type} tensors; leave the backend out"
    if backend == "native":
        return _why_native_is_missing(operator, device_type)
    return _why_triton_is_missing(device_type) if backend == "triton" else None


def check_backend(backend: str) -> None:
    """Raises ValueError for an unknown name."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}; got {backend!r}")


@functools.cache
def _fastest(operator: str, device_type: str) -> str:
    return next(name for name in FASTEST_FIRST if why_missing(operator, name, device_type) is None)


def choose(operator: str, device: torch.device, backend: str | None = None) -> str:
    """The backend that serves an operator on `device`: the call's own, the context's, or the fastest there is.

    Raises ValueError for an unknown name and RuntimeError, with the remedy, where the one asked for has no kernel.
    """
    wanted = backend if backend is not None else _forced.get()
    if wanted is None:
        return _fastest(operator, device.type)
    check_backend(wanted)
    reason = why_missing(operator, wanted, device.type)
    if reason is not None:
        raise RuntimeError(f"backend {wanted!r} cannot serve {operator} on {device.type}: {reason}")
    return wanted


def kernel(operator: str, device: torch.device, backend: str | None = None) -> Callable[..., Any]:
    """The kernel that serves an operator on `device`; chosen and raising as `choose`. Warns once for each device type
    where nobody has asked for the reference and it serves because nothing else is there."""
    name = choose(operator, device, backend)
    if name == "reference" and backend is None and _forced.get() is None:
        _warn_of_the_reference(operator, device.type)
    return registered(operator, name, device.type)


def _warn_of_the_reference(operator: str, device_type: str) -> None:
    if device_type in _warned_of:
        return
    _warned_of.add(device_type)
    if device_type in WITHOUT_FLOAT64:
        warnings.warn(
            f"nvrm_fast has no kernels for {device_type}: tensors travel to the CPU, whose kernels serve, and back, "
            "which takes longer than the computation and has not been tried on such a machine. A model that fits is "
            "faster on the CPU alone",
            stacklevel=4,
        )
        return
    reason = why_missing(operator, "native", device_type)
    warnings.warn(
        f"nvrm_fast computes in plain torch on {device_type}, the same bits about a thousand times slower than its "
        f"kernels: {reason}. To accept that without this warning: with nvrm_fast.use_backend('reference')",
        stacklevel=4,
    )


@contextlib.contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Inside the block every call that names no backend of its own uses this one, compiled graphs included.

    backend: "reference", "native" or "triton". Raises ValueError for another name; a call of an operator that has no
    kernel on that backend for its device raises RuntimeError with the remedy.
    """
    check_backend(backend)
    token = _forced.set(backend)
    try:
        yield
    finally:
        _forced.reset(token)

"""Which implementation serves which device, and why one is missing.

native      C++ in csrc, built by setup.py
triton      GPU kernels without a compiler on the user's machine
reference   plain torch (nvrm_fast/reference); serves every device and is what the others are checked against
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import importlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from .._version import INTERFACE

BACKENDS = ("reference", "native", "triton")

_forced: contextvars.ContextVar[str | None] = contextvars.ContextVar("nvrm_fast_backend", default=None)


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
    # Loading it would register kernels for schemas that are no more.
    _import_error = "they were built for another version of nvrm_fast"
else:
    try:
        _native = importlib.import_module("nvrm_fast._native")
    except ImportError as error:
        _import_error = str(error)


def native_serves_cuda() -> bool:
    """Whether the native kernels for CUDA tensors were built and load."""
    return _native is not None and _native.build_facts().get("cuda") is not None


@functools.cache
def _triton_error() -> str | None:
    """Why the Triton kernels do not import, or None; the first call imports them."""
    try:
        importlib.import_module("nvrm_fast.triton")
    except Exception as error:  # whatever is wrong with an installation of Triton, the other kernels serve
        return f"{type(error).__name__}: {error}"
    return None


def _why_triton_is_missing(device: torch.device) -> str | None:
    # Triton itself decides by this variable, when kernels are defined.
    interpreted = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")
    if device.type == "cpu" and not interpreted:
        return (
            "Triton kernels run on GPUs (and on the CPU in Triton's interpreter, for tests, with TRITON_INTERPRET=1 "
            "set before the first use); leave the backend out"
        )
    if device.type not in ("cpu", "cuda"):
        return f'there are no Triton kernels for {device.type} tensors; use backend="reference" or leave it out'
    error = _triton_error()
    if error is not None:
        return f"Triton does not import ({error}); install it: pip install triton"
    in_interpreter = importlib.import_module("nvrm_fast.triton").INTERPRETED
    if in_interpreter and device.type == "cuda":
        return "TRITON_INTERPRET=1 is set, and the interpreter serves CPU tensors; unset it before the process starts"
    if not in_interpreter and device.type == "cpu":
        return "TRITON_INTERPRET=1 came after the kernels were loaded; set it before the process starts"
    return None


def why_missing(backend: str, device: torch.device) -> str | None:
    """The reason why `backend` cannot serve `device`, with the remedy, or None if it can."""
    if backend == "reference":
        return None
    if backend == "triton":
        return _why_triton_is_missing(device)
    if device.type == "cuda":
        if native_serves_cuda():
            return None
        built = build_facts().get("cuda", "not built")
        return f"CUDA kernels {built}; leave the backend out, and Triton serves where it is installed"
    if device.type != "cpu":
        return f'there are no native kernels for {device.type} tensors; use backend="reference" or leave it out'
    if _native is None:
        built = build_facts().get("cpu", "the package is not installed")
        if built == "built":
            return (
                f"the native kernels do not load ({_import_error}); "
                "build them again: pip install --no-build-isolation ."
            )
        return f"CPU kernels {built}; install a C++ compiler and run: pip install --no-build-isolation ."
    return None


def check_backend(backend: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}; got {backend!r}")


def choose(device: torch.device, backend: str | None = None) -> str:
    """The backend that serves a call on `device`: the call's own, the context's, or the fastest there is.

    Raises ValueError for an unknown name and RuntimeError, with the remedy, where the one asked for cannot serve.
    """
    wanted = backend if backend is not None else _forced.get()
    if wanted is None:
        if device.type == "cpu":
            return "native" if _native is not None else "reference"
        return next(name for name in ("native", "triton", "reference") if why_missing(name, device) is None)
    check_backend(wanted)
    reason = why_missing(wanted, device)
    if reason is not None:
        raise RuntimeError(f"backend {wanted!r} cannot serve {device.type}: {reason}")
    return wanted


@contextlib.contextmanager
def use_backend(backend: str) -> Iterator[None]:
    """Inside the block every call that names no backend of its own uses this one.

    backend: "reference", "native" or "triton". Raises ValueError for another name; a call on a device that the
    backend cannot serve raises RuntimeError with the remedy.
    """
    check_backend(backend)
    token = _forced.set(backend)
    try:
        yield
    finally:
        _forced.reset(token)

"""`python -m nvrm_fast.info`: versions, what was built and why not the rest, which kernel serves each device."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

import torch

from ._version import __version__
from .ops import registry as backends


def _version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> list[torch.device]:
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices += [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    return devices


def build_info() -> dict[str, Any]:
    """Versions, build facts, processor features and the kernels that serve each device, as plain data."""
    native = backends._native
    return {
        "nvrm_fast": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version_of("triton"),
        "threads": torch.get_num_threads(),
        "built": backends.build_facts() or {"cpu": "not installed: run pip install --no-build-isolation ."},
        "compiled with": native.build_facts() if native is not None else None,
        "processor": {
            "machine": platform.machine(),
            "features": native.cpu_features() if native is not None else None,
            "instruction sets": native.available_instruction_sets() if native is not None else [],
            "in use": native.instruction_set() if native is not None else None,
        },
        "kernels": {
            str(device): {
                "serves": backends.choose(device),
                **{name: backends.why_missing(name, device) or "available" for name in backends.BACKENDS},
            }
            for device in _devices()
        },
    }


def _print(value: Any, indent: int = 0) -> None:
    for key, item in value.items():
        if isinstance(item, dict):
            print(f"{'  ' * indent}{key}")
            _print(item, indent + 1)
        elif isinstance(item, list):
            print(f"{'  ' * indent}{key}: {', '.join(map(str, item)) or 'none'}")
        else:
            print(f"{'  ' * indent}{key}: {item}")


if __name__ == "__main__":
    _print(build_info())

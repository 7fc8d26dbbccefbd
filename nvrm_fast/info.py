"""`python -m nvrm_fast.info`: versions, what was built and why not the rest, which kernel serves each device."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

import torch

from ._version import __version__
from .ops import direction, noise, registry, step, stochastic  # noqa: F401  (they register the operators)


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


def _kernels_of(operator: str, device: torch.device) -> dict[str, str]:
    missing = {name: registry.why_missing(operator, name, device.type) for name in registry.BACKENDS}
    return {"serves": registry.choose(operator, device), **{name: why or "available" for name, why in missing.items()}}


def build_info() -> dict[str, Any]:
    """Versions, build facts, processor features and the kernels that serve each device, as plain data."""
    native = registry._native
    return {
        "nvrm_fast": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version_of("triton"),
        "threads": torch.get_num_threads(),
        "built": registry.build_facts() or {"cpu": "not installed: run pip install ."},
        "compiled with": native.build_facts() if native is not None else None,
        "processor": {
            "machine": platform.machine(),
            "features": native.cpu_features() if native is not None else None,
            "instruction sets": native.available_instruction_sets() if native is not None else [],
            "in use": native.instruction_set() if native is not None else None,
        },
        "kernels": {
            str(device): {operator: _kernels_of(operator, device) for operator in registry.operators()}
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


def _operators_together(kernels: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """The same with one entry for all operators that are served alike; their names are left out of the reasons."""
    together: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for operator, served in kernels.items():
        key = tuple((name, why.replace(f"of {operator} ", "")) for name, why in served.items())
        together.setdefault(key, []).append(operator)
    return {", ".join(operators): dict(served) for served, operators in together.items()}


if __name__ == "__main__":
    info = build_info()
    info["kernels"] = {device: _operators_together(kernels) for device, kernels in info["kernels"].items()}
    _print(info)

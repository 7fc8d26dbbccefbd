"""A model that is put back as it was, whatever its forward passes wrote into it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """After the block every attribute of every module is the object that it was, and tensors hold what they held.

    Forward passes write more than buffers: hooks such as torch.nn.utils.weight_norm's put a weight that they work out
    among a module's attributes, and inside a transform it belongs to that. What a pass changes inside of other objects,
    lists for example, stays changed.
    """
    before: list[tuple[nn.Module, dict[str, Any]]] = []
    contents: list[tuple[Tensor, Tensor, int]] = []
    for module in model.modules():
        before.append((module, dict(module.__dict__)))
        for value in module.__dict__.values():
            if isinstance(value, Tensor) and not value.is_inference():
                contents.append((value, value.detach().clone(), value._version))
    try:
        yield
    finally:
        for module, attributes in before:
            module.__dict__.clear()
            module.__dict__.update(attributes)
        for value, content, version in contents:
            if value._version != version:
                with torch.no_grad():
                    value.copy_(content)


def check_finite(tensor: Tensor, name: str) -> None:
    """Raises ValueError, which names the argument, for floating-point data with NaN or infinity."""
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise ValueError(
            f"{name} must be finite, but has NaN or infinity: nothing that is measured on it means anything"
        )

"""The step in the backward pass: each parameter as soon as its gradient is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from .batches import Part
from .interface import SteppedOptimizer


class Handles:
    """Several hooks behind one handle."""

    def __init__(self, handles: list[RemovableHandle]) -> None:
        self._handles = handles

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def __enter__(self) -> Handles:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def step_in_backward(optimizer: SteppedOptimizer) -> Handles:
    """See NoisyOptimizer.step_in_backward."""

    def hook_for(group: dict[str, Any], i: int) -> Callable[[Tensor], None]:
        def hook(param: Tensor) -> None:
            with torch.no_grad():
                optimizer._step([Part.of_positions(group, (i,))])
            param.grad = None

        return hook

    return Handles([
        param.register_post_accumulate_grad_hook(hook_for(group, i))
        for group in optimizer.param_groups
        for i, param in enumerate(group["params"])
        if param.requires_grad
    ])  # fmt: skip

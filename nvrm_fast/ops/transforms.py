"""Whether derivatives are taken by torch.func or in forward mode: there the layers compute by plain torch.

The fused operators' autograd functions know reverse mode only. Inside torch.func's transforms, and where dual tensors
of torch.autograd.forward_ad are about, the formulas of nvrm_fast/reference serve instead, on the same random numbers.
"""

from __future__ import annotations

import torch
from torch.autograd import forward_ad


def transformed() -> bool:
    """Whether a transform of torch.func (or a batched gradient) is at work, or a level of forward mode is open."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def apart(shape: tuple[int, ...] | torch.Size, like: torch.Tensor) -> torch.Tensor:
    """A tensor of a shape, with the dtype and device of another, that no transform knows of. It has one element in
    memory, and is for shape, dtype and device only."""
    return torch.empty((), dtype=like.dtype, device=like.device).expand(shape)

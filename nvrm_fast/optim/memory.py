"""Memory for the optimizers' state."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import registry
from .shards import local_tensor


def allocate(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Uninitialized memory with like's shape, strides and device, on huge pages where the system gives them.

    A step streams through parameters and state; huge pages for the state make it about 3 % faster at 25 million
    elements (fewer walks through the page table).
    """
    tensor = torch.empty_like(like, dtype=dtype)
    here = local_tensor(tensor)
    if here.device.type == "cpu" and registry._native is not None:
        registry._native.advise_huge_pages(here.data_ptr(), here.nbytes)
    return tensor
